"""The file of a host's minutes: several processes, which are handles of their own here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from poolguard.errors import RuntimeDirError
from poolguard.history.minutes import KEPT, Demand
from poolguard.history.ring import SUFFIX, WINDOWS, Ring, Row, histories
from poolguard.util.rundir import RuntimeDir

NAME = f"shop{SUFFIX}"
NOW = 29_000_000
"""Some minute of the year 2025."""

Open = Callable[..., Ring]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RuntimeDir]:
    folder = RuntimeDir(tmp_path / "run")
    yield folder
    folder.close()


@pytest.fixture
def ring(folder: RuntimeDir) -> Iterator[Open]:
    """One more process."""
    with ExitStack() as stack:

        def one(name: str = NAME, guard: str = "default") -> Ring:
            made = Ring(folder, name, guard)
            stack.callback(made.close)
            return made

        yield one


def row(minute: int, *lent: int, waiting: int = 0, created: int = 0, level: int = 0) -> Row:
    return Row(minute, (*lent, *(0,) * (WINDOWS - len(lent))), waiting, created, level)


def test_nothing_is_known_of_a_minute_of_which_nobody_has_told(ring: Open) -> None:
    assert ring().read(NOW, NOW + 3) == [None, None, None]


def test_a_minute_comes_to_what_all_processes_have_told_of_it(ring: Open) -> None:
    """What they had lent is added up window by window; the rest is the most, or the sum."""
    one, other = ring(), ring()
    one.tell(row(NOW, 3, 9, waiting=2, created=1, level=4))
    other.tell(row(NOW, 5, 1, waiting=7, created=2, level=6))
    one.settle(NOW)
    assert other.read(NOW, NOW + 1) == [Demand(9, 10, 7, 3, 6)]


def test_who_is_done_later_adds_what_it_has_told_since(ring: Open) -> None:
    one, other = ring(), ring()
    one.tell(row(NOW, 3))
    one.settle(NOW)
    other.tell(row(NOW, 5))
    other.settle(NOW)
    assert one.read(NOW, NOW + 1) == [Demand(5, 8, 0, 0, 0)]


def test_a_minute_that_is_settled_late_keeps_what_was_known_of_it(ring: Open) -> None:
    """Others have gone on to the minute after the next, whose row takes the place of the first."""
    one, other = ring(), ring()
    one.tell(row(NOW, 3))
    other.tell(row(NOW, 5))
    other.settle(NOW)
    other.tell(row(NOW + 2, 1))
    one.settle(NOW)
    assert one.read(NOW, NOW + 1) == [Demand(5, 8, 0, 0, 0)]


def test_what_a_process_has_told_outlives_it(ring: Open) -> None:
    """One that takes its place goes on with what it has told of the minute."""
    one, killed = ring(), ring()
    one.tell(row(NOW, 1))
    killed.tell(row(NOW, 5, created=2))
    os.dup2(os.open(os.devnull, os.O_RDWR), killed._file.fd)  # as the kernel does at its end
    heir = ring()
    heir._places.free(next(heir._places.inherit(0, 10)))
    heir.tell(row(NOW, 0, 4, created=1))
    heir.settle(NOW)
    assert one.read(NOW, NOW + 1) == [Demand(5, 6, 0, 3, 0)]


def test_a_row_may_be_told_again_and_again(ring: Open) -> None:
    one = ring()
    for created in (1, 2, 3):
        one.tell(row(NOW, created, created=created))
        one.settle(NOW)
    assert one.read(NOW, NOW + 1) == [Demand(3, 3, 0, 3, 0)]


def test_after_five_weeks_a_minute_gives_way_to_a_new_one(ring: Open) -> None:
    one = ring()
    one.tell(row(NOW, 3))
    one.settle(NOW)
    one.tell(row(NOW + KEPT, 4))
    one.settle(NOW + KEPT)
    assert one.read(NOW, NOW + 1) == [None]
    assert one.read(NOW + KEPT, NOW + KEPT + 1) == [Demand(4, 4, 0, 0, 0)]


@pytest.mark.parametrize("first", [NOW // KEPT * KEPT - 2, NOW // KEPT * KEPT - 1, NOW])
def test_what_is_read_goes_on_beyond_the_end_of_the_ring(ring: Open, first: int) -> None:
    one = ring()
    for minute in range(first, first + 4):
        one.tell(row(minute, minute % 7 + 1))
        one.settle(minute)
    found = [each and each.one for each in one.read(first - 1, first + 5)]
    assert found == [None, *(minute % 7 + 1 for minute in range(first, first + 4)), None]


def test_no_more_is_read_than_is_kept(ring: Open) -> None:
    assert len(ring().read(NOW - 2 * KEPT, NOW)) == KEPT


def test_numbers_beyond_what_a_place_can_hold_are_the_greatest_that_it_can(ring: Open) -> None:
    one = ring()
    one.tell(row(NOW, 70_000, waiting=70_000, created=70_000))
    one.settle(NOW)
    assert one.read(NOW, NOW + 1) == [Demand(65_535, 65_535, 65_535, 65_535, 0)]


def test_processes_that_settle_at_the_same_time_lose_nothing(ring: Open) -> None:
    rings, minutes = [ring() for _ in range(4)], range(NOW, NOW + 60)
    barrier = threading.Barrier(len(rings))

    def record(nth: int) -> None:
        for minute in minutes:
            barrier.wait(10)
            rings[nth].tell(row(minute, nth + 1, created=1))
            rings[nth].settle(minute)

    threads = [threading.Thread(target=record, args=(nth,)) for nth in range(len(rings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {*rings[0].read(minutes[0], minutes[-1] + 1)} == {Demand(4, 10, 0, 4, 0)}


def test_the_file_takes_little_and_no_more_than_its_minutes_need(
    ring: Open, tmp_path: Path
) -> None:
    one = ring()
    one.tell(row(NOW, 1))
    one.settle(NOW)
    found = (tmp_path / "run" / NAME).stat()
    assert found.st_size < 1 << 20
    assert found.st_blocks * 512 <= 1 << 15


def test_histories_of_guards_that_are_gone_are_deleted(ring: Open, tmp_path: Path) -> None:
    names = [f"{name}{SUFFIX}" for name in ("gone", "there", "new")]
    gone, there, new = (tmp_path / "run" / name for name in names)
    for name in names[:2]:
        ring(name).close()
    past = time.time() - 60 * KEPT
    os.utime(gone, (past - 60, past - 60))
    os.utime(there, (past + 60, past + 60))
    ring(names[2])
    assert [path.exists() for path in (gone, there, new)] == [False, True, True]


def test_a_file_that_is_no_history_is_refused_and_left_alone(ring: Open, tmp_path: Path) -> None:
    path = tmp_path / "run" / NAME
    path.write_bytes(b"something else")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeDirError, match="no history of this version of poolguard"):
        ring()
    assert path.read_bytes() == b"something else"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reader_finds_the_histories_of_a_folder_by_their_guards(
    ring: Open, folder: RuntimeDir, tmp_path: Path
) -> None:
    ring(f"b{SUFFIX}", "orders").tell(row(NOW, 1))
    ring(f"a{SUFFIX}", "stock")
    (tmp_path / "run" / f"c{SUFFIX}").write_bytes(b"something else")
    (tmp_path / "run" / "d.ledger").write_bytes(b"")
    os.link(tmp_path / "run" / f"c{SUFFIX}", tmp_path / "run" / f"e{SUFFIX}")  # not trusted
    found = histories(folder)
    assert [each.guard for each in found] == ["orders", "stock"]
    assert repr(found[0]) == "<History 'orders'>"
    for each in found:
        each.close()


def test_a_forked_child_has_no_part_in_it(ring: Open) -> None:
    """The place of a process that ends is free, though a child of it goes on."""
    one = ring()
    one.tell(row(NOW, 1))
    here, there = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(there, str(one._file.fd).encode())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.read(here, 10) == b"-1"
    assert os.waitpid(child, 0)[1] == 0
    one.tell(row(NOW, 2))
    one.settle(NOW)
    assert one.read(NOW, NOW + 1) == [Demand(2, 2, 0, 0, 0)]
    os.close(here)
    os.close(there)


def test_what_others_say_stands_beside_what_is_known(ring: Open) -> None:
    """Also where the file begins anew in between, and between minutes of which they say nothing."""
    one = ring()
    end = NOW - NOW % KEPT
    for minute in (end - 2, end + 1):
        one.tell(row(minute, 4, created=3))
        one.settle(minute)
    one.merge(
        {at: Demand(at - end + 5, 9, 0, 1, 70_000) for at in (end - 2, end - 1, end, end + 2)}
    )
    assert one.read(end - 3, end + 4) == [
        None,
        Demand(4, 9, 0, 3, 65_535),
        Demand(4, 9, 0, 1, 65_535),
        Demand(5, 9, 0, 1, 65_535),
        Demand(4, 4, 0, 3, 0),
        Demand(7, 9, 0, 1, 65_535),
        None,
    ]
