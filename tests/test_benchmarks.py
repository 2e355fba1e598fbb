"""The benchmarks run: what they measure is for people to read, and nothing is asserted of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import burst, ramp, reload, story
from benchmarks.__main__ import ALL, main
from benchmarks.contest.contenders import CONTENDERS
from benchmarks.contest.frame import QUICK, Contest
from benchmarks.processes import measured
from benchmarks.table import Row, Table
from poolguard.errors import LabError

CONTESTS = {
    f"{name}.{part}": contest
    for name, module in (("story", story), ("burst", burst), ("ramp", ramp), ("reload", reload))
    for part, contest in module.PARTS.items()
}


def runs(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Table]:
    """The tables of a benchmark in its quickest form, all of which it has printed."""
    tables: dict[str, Table] = ALL[name].run(quick=True)
    assert list(tables) == list(ALL[name].PARTS)
    printed = capsys.readouterr().out
    for part, table in tables.items():
        assert table.title.startswith(f"{part}: ")
        assert f"\n{table}\n" in printed
    return tables


@pytest.mark.benchmark
def test_every_part_of_the_pools_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runs("pool", capsys)


@pytest.mark.benchmark
def test_every_part_of_the_adapters_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runs("adapters", capsys)


@pytest.mark.benchmark
def test_workers_boot_and_are_reloaded(capsys: pytest.CaptureFixture[str]) -> None:
    tables = runs("life", capsys)
    assert len(tables["boot"].rows) == 2 * len(tables["reload"].rows)


@pytest.mark.benchmark
@pytest.mark.timeout(300)  # it starts twenty processes
def test_every_part_of_the_overheads_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    tables = runs("overhead", capsys)
    for table in tables.values():
        assert {"no SDK", "sampled", "own span"} <= {row.who for row in table.rows}


@pytest.mark.benchmark
@pytest.mark.timeout(300)  # four services, a stage
def test_every_part_of_the_historys_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    judged = {"decision": "decide()", "days": "async poolguard, later"}
    for part, table in runs("history", capsys).items():
        assert judged.get(part, "history") in {row.who for row in table.rows}


@pytest.mark.benchmark
@pytest.mark.timeout(400)  # runs that are refused on a busy machine are played up to three times
@pytest.mark.parametrize("name", ["story", "burst", "ramp", "reload"])
def test_every_part_that_contenders_play_runs(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for table in runs(name, capsys).values():  # no contender is silently absent
        told = {row.who for row in table.rows}
        told |= {note.partition(":")[0] for note in table.notes}
        assert told >= {*QUICK}


@pytest.mark.parametrize("contest", CONTESTS.values(), ids=CONTESTS.keys())
def test_no_contender_is_silently_absent(contest: Contest) -> None:
    contenders, absent = contest.field()
    told = {contender.name for contender in contenders}
    reasons = dict(note.split(": not measured: ") for note in absent)
    assert {contender.name for contender in CONTENDERS} <= told | set(reasons)
    assert not told & set(reasons)
    assert not {"", "None"} & set(reasons.values())


def test_a_process_that_fails_in_the_middle_of_a_benchmark_is_an_error() -> None:
    with pytest.raises(
        LabError, match=r"(?s)benchmarks\.overhead\.probe has failed: .*DATABASE_URL"
    ):
        measured("benchmarks.overhead.probe", "wsgi", "no SDK", 1, 1, environ={})


def test_a_table_shows_what_never_came_and_what_was_missed() -> None:
    rows = [
        Row("a", {"took": [float("inf")], "only a": [2.5]}, {"took": 1.0}),
        Row("b", {"took": [0.5, 0.1, 0.3]}),
    ]
    table = Table("a title", rows, ["a note"])
    assert str(table).splitlines() == [
        "a title",
        "                 took  only a      goal",
        "  a             never    2.50  took ≤ 1  MISSED (took never)",
        "  b  0.30 (0.10–0.50)",
        "  a note",
    ]
    assert json.loads(json.dumps(table.as_json()))["rows"][0]["figures"]["took"] == [None]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["no-such"], "there is no 'no-such'"),
        (["ledger", "burst", "no-such"], "there is no 'no-such'"),
        (["ledger", "--write"], "ledger has no table in README.md to write"),
        (["burst.20ms", "--write"], "burst.20ms has no table"),
        (["burst", "--write", "--quick"], "figures that are worth nothing"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(
    command: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert why in said.err


def test_the_figures_are_written_as_json(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["ledger", "--quick", "--json", str(path)]) == 0
    data = json.loads(path.read_text())
    assert data["command"] == f"python -m benchmarks ledger --quick --json {path}"
    assert {"Python", "PostgreSQL", "psycopg"} <= data["environment"].keys()
    [row, *_] = data["measured"]["ledger"]["ledger"]["rows"]
    assert list(row["figures"]) == ["empty", "90 %", "full"]
