#!/usr/bin/env python3
"""Runs a command that ends in pytest, and each test that failed once more, alone; nothing stays
unsaid.

``twice.py FILE COMMAND``: the names of tests that passed only at the second try are added to FILE,
which several commands may share. The status is not 0 where a test failed twice, and where there are
too many names in FILE: that is no longer a busy machine, but tests that nobody can believe.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

FAILED = Path(".pytest_cache/v/cache/lastfailed")
"""Where pytest's cacheprovider notes what has failed and not passed since."""
TOO_MANY = 3
"""So many tests that are flaky in one run fail it."""
WORTH_A_TRY = 10
"""Where more than so many fail, the code is broken, and a second try would only take time."""
TESTS_FAILED = 1
"""pytest's exit status where tests ran and some failed; others say that it was interrupted, or used
wrongly."""
PYTEST = re.compile(r"\S*bin/pytest\b")


class Verdict(NamedTuple):
    """What came of tests of which some have failed."""

    flaky: list[str]
    """Passed only at the second try, in this command or an earlier one."""
    failed: list[str]
    """Failed twice, or were not tried again."""

    @property
    def is_good(self) -> bool:
        return not self.failed and len(self.flaky) < TOO_MANY


def judge(first: Collection[str], second: Collection[str], earlier: Collection[str]) -> Verdict:
    """The tests that failed at the *first* try, and those of them that did at the *second*, after
    the *earlier* flaky ones of the same run."""
    return Verdict(sorted({*earlier, *first} - {*second}), sorted(second))


def failed() -> list[str]:
    """The tests that have failed and not passed since."""
    return [*json.loads(FAILED.read_text())] if FAILED.exists() else []


def alone(command: str, name: str) -> list[str]:
    """What runs one test, with the pytest in which *command* ends: in a process of its own, since
    what one that failed has left behind is found by the next."""
    *_, pytest = PYTEST.findall(command)
    return [pytest, "-n", "0", "-m", "", name]


def main(file: Path, command: str) -> int:
    FAILED.unlink(missing_ok=True)
    status = subprocess.run(["bash", "-c", command], check=False).returncode
    first = failed()
    if status != TESTS_FAILED or not first:
        return status
    second = first
    if len(first) <= WORTH_A_TRY:
        print("\n== FAILED, and once more alone:", *first, sep="\n   ", flush=True)
        second = [
            name for name in first if subprocess.run(alone(command, name), check=False).returncode
        ]
    verdict = judge(first, second, file.read_text().splitlines())
    file.write_text("".join(f"{name}\n" for name in verdict.flaky))
    return 0 if verdict.is_good else TESTS_FAILED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
