"""Processes that are to share a budget, and do not count in the same file: some hold one that was
deleted, some cannot use any. Several owners in one process are as many processes, since each has
locks of its own."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from poolguard.budget.fallback import FallbackLedger
from poolguard.budget.host import partitions
from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.ledger import Ledger
from poolguard.budget.slots import Slot
from poolguard.budget.terms import Terms
from poolguard.util.rundir import RuntimeDir

ALONE, TWO = Terms(None, 12, 1, 2), Terms(None, 12, 2, 2)


class Owner:
    """One process, and what it holds of 12."""

    def __init__(self, ledger: Ledger, terms: Terms) -> None:
        self.ledger = ledger
        self.held: list[Slot] = []
        self.said: list[str] = []
        ledger.agree(terms)

    def take(self, n: int = 99) -> int:
        """Lease what there is; how many it holds then."""
        self.held += self.ledger.lease(n)
        return len(self.held)

    def tend(self) -> tuple[int, int]:
        """What is wanted of it after a look."""
        self.ledger.maintain(lambda level, text: self.said.append(text) if level else None)
        return self.ledger.siblings.owed()

    def give(self, n: int) -> None:
        for _ in range(n):
            self.ledger.release(self.held.pop())

    def make_room(self) -> int:
        """Give back what is wanted; how many it holds then."""
        while any(self.tend()):
            self.give(1)
        return len(self.held)


Join = Callable[[], Owner]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def host(folder: Path, stack: ExitStack) -> Join:
    """One more that finds the ledger, or makes it."""

    def join() -> Owner:
        ledger = HostLedger(RuntimeDir(folder), "shop", workers=1)
        stack.callback(ledger.close)
        return Owner(ledger, ALONE)

    return join


@pytest.fixture
def lone(folder: Path, stack: ExitStack) -> Join:
    """One more that cannot use it, of two workers."""

    def join() -> Owner:
        ledger = FallbackLedger(folder, "shop", workers=2)
        stack.callback(ledger.close)
        return Owner(ledger, TWO)

    return join


def delete(folder: Path) -> None:
    (folder / "shop.ledger").unlink()


def replace(folder: Path) -> None:
    content = (folder / "shop.ledger").read_bytes()
    delete(folder)
    (folder / "shop.ledger").write_bytes(content)
    (folder / "shop.ledger").chmod(0o600)


def delete_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("harm", [delete, replace, delete_folder])
def test_a_ledger_that_is_not_found_any_more_passes_no_budget(
    host: Join, folder: Path, harm: Callable[[Path], None]
) -> None:
    elder = host()
    assert elder.take() == 12
    harm(folder)
    assert elder.tend() == (0, 0), "as long as nobody else has come"
    (said,) = elder.said
    assert str(folder) in said

    late = host()
    assert late.take() == 0, "nothing before there is room"
    assert elder.tend() == (6, 6)
    assert elder.make_room() == late.take() == 6
    assert (elder.take(), late.take()) == (6, 6)
    late.tend()
    assert len(late.said) == len(elder.said) == 1, "once is enough"

    bells = [*folder.glob("*.bell")]
    elder.give(6)
    elder.ledger.close()
    late.tend()
    assert late.take() == 12
    assert [*folder.glob("*.bell")] == bells, "who ends takes no doorbell of another ledger along"


def test_one_who_does_not_make_room_keeps_nobody_from_one_connection(
    host: Join, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be stopped, or hang."""
    stopped = host()
    stopped.take()
    delete(folder)
    late = host()
    assert late.take() == 0
    monkeypatch.setattr(partitions, "PATIENCE", 0.0)
    assert late.take() == late.take() == 1


def test_those_who_count_alone_have_equal_parts(lone: Join) -> None:
    """As many as there are workers, and more while a reload has twice as many."""
    first, second = lone(), lone()
    assert (first.take(), second.take()) == (6, 6)
    third = lone()
    assert third.take() == 0
    assert first.make_room() == 4
    assert third.take() == 0
    assert second.make_room() == third.take() == 4
    first.give(4)
    first.ledger.close()
    assert (second.take(), third.take()) == (6, 6)


def test_one_who_counts_alone_leaves_the_others_their_part(
    host: Join, lone: Join, folder: Path
) -> None:
    sharing = host()
    assert sharing.take() == 12
    folder.chmod(0o755)
    alone = lone()
    assert alone.take() == 0
    assert sharing.make_room() == alone.take() == 6
    assert "cannot be trusted any more" in sharing.said[0]


def test_without_a_folder_the_others_are_given_time_to_notice(
    lone: Join, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may use one that is not there any more."""
    folder.write_text("in its place")
    first = lone()
    assert first.take() == 0
    monkeypatch.setattr(partitions, "NOTICED", 0.0)
    assert (first.take(), lone().take()) == (6, 6)


def test_a_forked_child_is_no_part(lone: Join) -> None:
    first = lone()
    here, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        here.close()
        theirs.send(b"!")
        theirs.recv(1)
        os._exit(0)
    try:
        here.recv(1)
        first.ledger.close()
        second, third = lone(), lone()
        assert (second.take(), third.take()) == (6, 6)
    finally:
        here.close()
        theirs.close()
        os.waitpid(child, 0)


@pytest.mark.parametrize("kind", ["host", "lone"])
def test_closing_leaves_no_descriptor(
    request: pytest.FixtureRequest, folder: Path, kind: str
) -> None:
    before = os.listdir("/proc/self/fd")
    owner = request.getfixturevalue(kind)()
    owner.take()
    shutil.rmtree(folder)
    owner.tend()
    owner.ledger.close()
    assert os.listdir("/proc/self/fd") == before
