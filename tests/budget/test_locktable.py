"""Places in a shared file: one holder each, found again after a death. Each view is another owner,
as in another process, since the locks belong to the open file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolguard.budget.host.locktable import LockTable
from poolguard.budget.host.sharedfile import SharedFile

PLACES = 8

View = Callable[[], LockTable]


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    """Makes one more owner of the same file."""
    path = tmp_path / "places"
    path.write_bytes(bytes(PLACES))
    opened: list[int] = []

    def another() -> LockTable:
        opened.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return LockTable(SharedFile(opened[-1], PLACES), 0, PLACES)

    yield another
    for fd in opened:
        os.close(fd)


def test_a_place_has_one_holder(view: View) -> None:
    one, other = view(), view()
    taken = [one.take(0, PLACES, 0) for _ in range(3)] + [
        other.take(0, PLACES, 0) for _ in range(5)
    ]
    assert sorted(taken, key=str) == list(range(8))
    assert one.take(0, PLACES, 0) is None
    assert not other.take_this(0)
    assert one.count() == other.count() == PLACES
    one.free(1)
    assert other.take(0, PLACES, 5) == 1


def test_the_search_goes_round_and_stays_within_its_bounds(view: View) -> None:
    table = view()
    assert [table.take(2, 5, 4), table.take(2, 5, 4), table.take(2, 5, 99)] == [4, 2, 3]
    assert table.take(2, 5, 2) is None


def test_there_are_no_places_beyond_the_last_one(tmp_path: Path) -> None:
    """Whatever bounds are asked for: behind them others keep something else."""
    path = tmp_path / "places"
    path.write_bytes(bytes(PLACES) + b"\0\1")
    with path.open("r+b") as file:
        table = LockTable(SharedFile(file.fileno(), PLACES + 2), 0, PLACES)
        assert table.count() == 0
        assert [table.take(0, 99, 5) for _ in range(PLACES)] == [5, 6, 7, 0, 1, 2, 3, 4]
        assert table.take(0, 99, 0) is None
        assert table.count() == PLACES
        assert list(table.taken(0, 99)) == list(range(PLACES))
        assert list(table.inherit(0, 99)) == []
    assert path.read_bytes()[PLACES:] == b"\0\1"


def test_a_living_owner_leaves_nothing_to_inherit(view: View) -> None:
    one, other = view(), view()
    one.take(0, PLACES, 0)
    assert list(other.inherit(0, PLACES)) == []
    assert list(other.taken(0, PLACES)) == [0]


def test_what_is_abandoned_stays_taken_until_it_is_inherited(view: View) -> None:
    one, other = view(), view()
    one.take_this(3)
    one.abandon(3)
    assert not other.take_this(3)
    assert list(other.inherit(0, PLACES)) == [3]
    assert 3 in other
    assert list(one.inherit(0, PLACES)) == []
    other.free(3)
    assert one.take_this(3)


def test_any_value_but_nought_says_taken(view: View, tmp_path: Path) -> None:
    """Whoever wrote it: what nobody holds is found, and what somebody holds is marked again."""
    one, other = view(), view()
    assert one.take_this(2)
    (tmp_path / "places").write_bytes(b"\0\x7f\0\xff\0\0\0\1")
    assert other.count() == 3
    assert list(other.inherit(0, PLACES)) == [1, 3, 7]
    assert not other.take_this(2)
    for place in (1, 3, 7):
        other.abandon(place)
    one.restore()
    assert list(other.taken(0, PLACES)) == [2, 7], "one that died may have been there"


DIE = """
import os, sys
from poolguard.budget.host.locktable import LockTable
from poolguard.budget.host.sharedfile import SharedFile
table = LockTable(SharedFile(os.open(sys.argv[1], os.O_RDWR), 8), 0, 8)
print(table.take(0, 8, 5), flush=True)
sys.stdin.read()
"""


def test_a_killed_owner_is_found_by_its_mark_without_a_lock(view: View, tmp_path: Path) -> None:
    table = view()
    owner = subprocess.Popen(
        [sys.executable, "-c", DIE, tmp_path / "places"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "5\n"
        assert list(table.inherit(0, PLACES)) == []
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert list(table.inherit(0, PLACES)) == [5]
