"""The table of open files that a process has room in before it serves requests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from poolguard.util.descriptors import PLACES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")

SIZE = """
import resource, sys

def size():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("FDSize:"))

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
"""


def run(program: str, *arguments: str) -> list[int]:
    """The numbers that a process of its own prints."""
    ran = subprocess.run(
        [sys.executable, "-c", SIZE + program, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [int(word) for word in ran.stdout.split()]


def test_a_process_that_opens_a_guard_has_room_for_descriptors(dsn: str, tmp_path: Path) -> None:
    program = """
from poolguard import Guard

before = size()
with Guard(sys.argv[1], budget=2, runtime_dir=sys.argv[2]):
    print(before, size(), soft)
"""
    before, after, soft = run(program, dsn, str(tmp_path / "run"))
    assert before < after
    assert after >= min(PLACES, soft)


@pytest.mark.parametrize("spare", [0, 1, 5])
def test_there_is_as_much_as_the_limit_allows(spare: int) -> None:
    """It takes none of the descriptors, and is no error where there are none."""
    program = """
import os
from poolguard.util.descriptors import make_room

resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
taken = [os.dup(0)]
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for fd in taken[len(taken) - int(sys.argv[1]):]:
    os.close(fd)
make_room()
free = 0
try:
    while True:
        os.dup(0)
        free += 1
except OSError:
    print(free)
"""
    assert run(program, str(spare)) == [spare]


def test_a_limit_that_is_low_is_gone_to() -> None:
    program = """
from poolguard.util.descriptors import make_room

resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
before = size()
make_room()
print(before, size())
"""
    before, after = run(program)
    assert before < 400 <= after
