#!/usr/bin/env python3
"""Prints which part of each room's lines and branches the tests run, and insists on a floor.

``covered.py REPORT FLOOR``: what ``coverage json`` wrote, and a file that says ``lines 95.1`` and
``branches 91.2``. The status is 1 where either has fallen below its floor by more than
:data:`SPREAD`. Who has raised it writes the new number into the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SPREAD = 0.2
"""Percentage points by which two runs of the same code may differ: which branches of a race are run
is not the same each time, nor how many processes are killed while they write what they ran. Two
runs, one of them on a busy machine, differed by 0.05 in lines and by 0.06 in branches."""
TOP = "(top)"
"""Stands for the files that are in no room."""


class Counted(NamedTuple):
    """Lines and branches, and how many of them were run."""

    lines: int = 0
    lines_run: int = 0
    branches: int = 0
    branches_run: int = 0

    def plus(self, other: Counted) -> Counted:
        return Counted(*map(sum, zip(self, other, strict=True)))

    def percent(self) -> dict[str, float]:
        """By ``lines`` and ``branches``, as the floor has them."""
        return {
            "lines": 100.0 * self.lines_run / self.lines if self.lines else 100.0,
            "branches": 100.0 * self.branches_run / self.branches if self.branches else 100.0,
        }


def rooms(report: Mapping[str, Any]) -> dict[str, Counted]:
    """What was counted in each room, from coverage's JSON report."""
    found: dict[str, Counted] = {}
    for name, file in report["files"].items():
        place = Path(name.split("poolguard/", 1)[-1])
        room = place.parts[0] if len(place.parts) > 1 else TOP
        of = file["summary"]
        one = Counted(
            of["num_statements"], of["covered_lines"], of["num_branches"], of["covered_branches"]
        )
        found[room] = found.get(room, Counted()).plus(one)
    return found


def table(found: Mapping[str, Counted], total: Counted) -> list[str]:
    """A line for each room, and one for all."""
    rows = [*sorted(found.items()), ("all", total)]
    return [f"{'':12}  lines  branches"] + [
        f"{name:12} {one.percent()['lines']:5.1f}%    {one.percent()['branches']:5.1f}%"
        for name, one in rows
    ]


def floor_of(text: str) -> dict[str, float]:
    """What the floor's file says."""
    return {name: float(number) for name, number in map(str.split, text.splitlines())}


def fallen(total: Counted, floor: Mapping[str, float]) -> list[str]:
    """What has fallen, one sentence each."""
    now = total.percent()
    return [
        f"{now[name]:.1f} % of the {name} are run, and it was {least:.1f} %"
        for name, least in floor.items()
        if now[name] < least - SPREAD
    ]


def main(report: Path, floor: Path) -> int:
    found = rooms(json.loads(report.read_text()))
    total = Counted()
    for one in found.values():
        total = total.plus(one)
    complaints = fallen(total, floor_of(floor.read_text()))
    print(*table(found, total), *complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
