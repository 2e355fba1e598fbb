"""The table of what the tests run, and its floor, by .ci/covered.py."""

from __future__ import annotations

from typing import Any

import pytest

from .scripts import ROOT, load

covered = load("covered")
Counted = covered.Counted


def file(lines: int, lines_run: int, branches: int, branches_run: int) -> dict[str, Any]:
    """A file as ``coverage json`` has it."""
    summary = {
        "num_statements": lines,
        "covered_lines": lines_run,
        "num_branches": branches,
        "covered_branches": branches_run,
    }
    return {"summary": summary}


def test_files_are_added_up_by_room() -> None:
    report = {
        "files": {
            "poolguard/settings.py": file(10, 9, 2, 1),
            "poolguard/pool/core.py": file(20, 20, 4, 4),
            "/elsewhere/site-packages/poolguard/pool/aio.py": file(20, 10, 4, 2),
            "poolguard/cli/demo/story.py": file(5, 5, 0, 0),
        }
    }
    assert covered.rooms(report) == {
        covered.TOP: Counted(10, 9, 2, 1),
        "pool": Counted(40, 30, 8, 6),
        "cli": Counted(5, 5, 0, 0),
    }


def test_the_table_has_a_line_for_each_room_and_one_for_all() -> None:
    found = {"pool": Counted(40, 30, 8, 6), "cli": Counted(5, 5, 0, 0)}
    assert covered.table(found, Counted(45, 35, 8, 6))[1:] == [
        "cli          100.0%    100.0%",
        "pool          75.0%     75.0%",
        "all           77.8%     75.0%",
    ]


@pytest.mark.parametrize(
    ("lines_run", "branches_run", "fallen"),
    [(900, 80, []), (898, 80, []), (897, 80, ["lines"]), (900, 79, ["branches"]), (1000, 100, [])],
)
def test_it_may_fall_by_as_much_as_two_runs_differ(
    lines_run: int, branches_run: int, fallen: list[str]
) -> None:
    total = Counted(1000, lines_run, 100, branches_run)
    complaints = covered.fallen(total, {"lines": 90.0, "branches": 80.0})
    assert [text.split(" of the ")[1].split()[0] for text in complaints] == fallen


def test_the_floor_that_stands_has_both() -> None:
    floor = covered.floor_of((ROOT / ".ci" / "coverage.txt").read_text())
    assert floor.keys() == {"lines", "branches"}
