"""Which workers still boot, as those before them see it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from poolguard.worker.generations import PLACES, Generations


@contextmanager
def forked(then: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """A child that does something and stays until the block ends, or what it yields is called."""
    done, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            then()
            os.write(tell, b".")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(done, 1) == b"."
    os.close(done)
    os.close(tell)

    def kill() -> None:
        nonlocal pid
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pid = 0

    try:
        yield kill
    finally:
        kill()


def test_nobody_boots_in_the_beginning() -> None:
    page = Generations()
    assert not page.boots_after(0)
    assert repr(page) == "<Generations newest=0>"


def test_a_worker_boots_from_before_its_fork_until_it_serves() -> None:
    page = Generations()
    page.expect(1)
    assert page.boots_after(0)
    page.boot(1)
    assert page.boots_after(0)
    page.serve(1)
    assert not page.boots_after(0)


def test_only_younger_ones_count() -> None:
    page = Generations()
    page.expect(1)
    page.expect(2)
    page.serve(2)
    assert page.boots_after(0)
    assert not page.boots_after(1)
    assert not page.boots_after(2)


def test_what_a_child_says_its_siblings_hear() -> None:
    page = Generations()
    page.expect(1)
    with forked(lambda: page.serve(1)):
        assert not page.boots_after(0)


def test_one_that_died_boots_no_more() -> None:
    page = Generations()
    page.expect(1)
    with forked(lambda: page.boot(1)) as kill:
        assert page.boots_after(0)
        kill()
        assert not page.boots_after(0)


def test_one_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is root as long as it has not dropped its privileges, as we have."""

    def kill(*_: int) -> None:
        raise PermissionError

    page = Generations()
    page.expect(1)
    page.boot(1)
    monkeypatch.setattr(os, "kill", kill)
    assert page.boots_after(0)


def test_of_very_many_the_latest_are_known() -> None:
    page = Generations()
    for age in range(1, 3 * PLACES):
        page.expect(age)
        page.serve(age)
    assert not page.boots_after(0)
    page.expect(3 * PLACES)
    assert page.boots_after(0)
    assert page.boots_after(3 * PLACES - 1)
    assert not page.boots_after(3 * PLACES)


def test_what_is_said_once_is_said_by_one_process() -> None:
    """Until the configuration is another one."""
    page = Generations()
    with forked(lambda: page.first_to_say("that")):
        assert not page.first_to_say("that")
        assert page.first_to_say("something else")
        page.begin_anew()
        assert page.first_to_say("that")
        assert not page.first_to_say("that")
