"""The benchmarks run: what they measure is for people to read, and nothing is asserted of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks import burst, overhead, pool, ramp, reload, skew, story
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.overhead.frame import Probe, Stage
from poolguard.errors import LabError


@pytest.mark.long
def test_every_part_of_the_pools_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    measured = pool.run(quick=True)
    tables = measured["parts"]
    assert isinstance(tables, dict)
    assert list(tables) == list(pool.PARTS)
    printed = capsys.readouterr().out
    assert all(f"\n{part}: " in printed for part in pool.PARTS)


@pytest.mark.benchmark
@pytest.mark.timeout(300)  # it starts twenty processes, two of them under callgrind
def test_every_part_of_the_overheads_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    measured = overhead.run(quick=True)
    tables = measured["parts"]
    assert isinstance(tables, dict)
    assert list(tables) == list(overhead.PARTS)
    printed = capsys.readouterr().out
    assert all(f"\n{part}: " in printed for part in overhead.PARTS)
    for door in ("wsgi", "asgi"):
        assert {"no SDK", "sampled", "own span"} <= {row["who"] for row in tables[door]["rows"]}


@pytest.mark.benchmark
@pytest.mark.timeout(400)  # runs that are refused on a busy machine are played up to three times
def test_both_acts_of_the_story_run(capsys: pytest.CaptureFixture[str]) -> None:
    measured = story.run(quick=True)
    tables = measured["parts"]
    assert isinstance(tables, dict)
    assert list(tables) == list(story.PARTS)
    printed = capsys.readouterr().out
    assert all(f"\n{part}: " in printed for part in story.PARTS)
    for table in tables.values():  # nobody is silently absent
        told = [row["who"] for row in table["rows"]]
        told += [note.partition(":")[0] for note in table["notes"]]
        assert set(story.QUICK) <= set(told)


@pytest.mark.benchmark
@pytest.mark.timeout(400)  # runs that are refused on a busy machine are played up to three times
@pytest.mark.parametrize(
    ("run", "parts", "wanted"),
    [
        (partial(burst.run, "20ms"), ["20ms"], burst.QUICK),
        (ramp.run, list(ramp.PARTS), ramp.QUICK),
        (reload.run, list(reload.PARTS), reload.QUICK),
        (skew.run, ["skew"], skew.QUICK),
    ],
    ids=["burst", "ramp", "reload", "skew"],
)
def test_every_part_that_contenders_play_runs(
    run: Callable[..., dict[str, object]],
    parts: Sequence[str],
    wanted: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = run(quick=True)["parts"]
    assert isinstance(tables, dict)
    assert list(tables) == list(parts)
    printed = capsys.readouterr().out
    assert all(f"\n{part}: " in printed for part in parts)
    for table in tables.values():
        told = [row["who"] for row in table["rows"]]
        told += [note.partition(":")[0] for note in table["notes"]]
        assert set(wanted) <= set(told)


@pytest.mark.parametrize(
    "field",
    [
        burst.field,
        *(partial(ramp.field, part) for part in ramp.PARTS.values()),
        *(partial(reload.field, part) for part in reload.PARTS.values()),
        skew.field,
    ],
    ids=[
        "burst",
        *(f"ramp-{part}" for part in ramp.PARTS),
        *(f"reload-{part}" for part in reload.PARTS),
        "skew",
    ],
)
def test_no_contender_is_silently_absent(
    field: Callable[[], tuple[list[Contender], list[str]]],
) -> None:
    contenders, absent = field()
    told = {contender.name for contender in contenders}
    reasons = dict(note.split(": not measured: ") for note in absent)
    assert {contender.name for contender in CONTENDERS} <= told | set(reasons)
    assert not told & set(reasons)
    assert not {"", "None"} & set(reasons.values())


def test_a_process_that_ends_in_the_middle_of_a_benchmark_is_an_error(tmp_path: Path) -> None:
    stage = Stage("", tmp_path, quick=True, say=lambda _: None)
    with (
        Probe(stage, "wsgi", "no SDK", under=("false",)) as probe,
        pytest.raises(LabError, match="no SDK"),
    ):
        probe.play("ours", 1)
