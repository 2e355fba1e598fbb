"""``storm`` runs in every flavour that can be played here, and nothing of a pool is lost in it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks import storm


def test_nothing_is_lost_in_a_gust_of_any_flavour(capsys: pytest.CaptureFixture[str]) -> None:
    measured = storm.run(quick=True)
    printed = capsys.readouterr().out
    table = measured["storm"]
    assert [row.who for row in table.rows if row.missed] == [], printed
    rows = {row.who: row.figures for row in table.rows}
    here = [part for part, needs in storm.PARTS.items() if not needs or find_spec(needs)]
    assert list(rows) == here
    for figures in rows.values():
        assert figures["acquires"][0] > 0
        assert figures["looks"][0] > 0
        assert figures["interrupted"][0] > 0
    for part in storm.PARTS.keys() - rows.keys():
        assert f"{part}: not played: " in printed
