"""The benchmarks run: what they measure is for people to read, and nothing is asserted of it."""

from __future__ import annotations

import pytest

from benchmarks import pool


@pytest.mark.long
def test_every_part_of_the_pools_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    measured = pool.run(quick=True)
    tables = measured["parts"]
    assert isinstance(tables, dict)
    assert list(tables) == list(pool.PARTS)
    printed = capsys.readouterr().out
    assert all(f"\n{part}: " in printed for part in pool.PARTS)
