"""Leaving: what a worker gives up at SIGTERM, while its last requests are still under way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from poolguard import Guard
from poolguard.lab.janitor import Janitor
from poolguard.worker import context
from poolguard.worker.drain import STARVES, leave_when_told

from ..doors.server import (
    ASGI,
    DOORS,
    GTHREAD,
    UVICORN,
    Door,
    Server,
)
from ..runtime.test_guard import SMALL, backends, named
from ..support import alive, until


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """A handler of SIGTERM as a server has one; what it was called with."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


# -- the handler -------------------------------------------------------------------------------


def test_the_guards_leave_and_the_handler_found_is_called_once(
    dsn: str, admin: psycopg.Connection, handled: list[int]
) -> None:
    guard = Guard(named(dsn, "leaving"), **SMALL)
    assert guard.open(wait=10)
    leave_when_told()
    leave_when_told()  # gunicorn's hook and the lifespan may both do it
    with guard.connection() as conn:
        signal.raise_signal(signal.SIGTERM)
        assert handled == [signal.SIGTERM]
        assert not guard.ready
        until(lambda: backends(admin, "leaving") == 1)
        assert conn.execute("SELECT 1").fetchone() == (1,)
    until(lambda: backends(admin, "leaving") == 0)
    until(lambda: guard.status()["closed"] == {"shutdown": 2})


def test_whoever_still_asks_is_served(dsn: str, handled: list[int]) -> None:
    """A request that was accepted before the signal may take its connection after it."""
    guard = Guard(dsn, **SMALL)
    assert guard.open(wait=10)
    leave_when_told()
    signal.raise_signal(signal.SIGTERM)
    until(lambda: guard.status()["idle"] == 0)
    with guard.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_it_is_undone(handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    undo = leave_when_told()
    ours = signal.getsignal(signal.SIGTERM)
    assert ours is not before
    undo_nothing = leave_when_told()
    assert signal.getsignal(signal.SIGTERM) is ours
    undo_nothing()
    assert signal.getsignal(signal.SIGTERM) is ours
    undo()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_later_handler_is_not_undone(handled: list[int]) -> None:
    undo = leave_when_told()

    def later(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, later)
    undo()
    assert signal.getsignal(signal.SIGTERM) is later


@pytest.mark.parametrize("plain", [signal.SIG_DFL, signal.SIG_IGN])
def test_where_the_signal_has_no_handler_it_gets_none(handled: list[int], plain: Any) -> None:
    """The default ends the process at once: there is nothing to leave for."""
    signal.signal(signal.SIGTERM, plain)
    undo = leave_when_told()
    assert signal.getsignal(signal.SIGTERM) is plain
    undo()
    assert signal.getsignal(signal.SIGTERM) is plain


def test_outside_the_main_thread_nothing_is_done(handled: list[int]) -> None:
    """Python sets handlers in no other."""
    before = signal.getsignal(signal.SIGTERM)
    undo: list[Callable[[], None]] = []
    thread = threading.Thread(target=lambda: undo.append(leave_when_told()))
    thread.start()
    thread.join(10)
    assert signal.getsignal(signal.SIGTERM) is before
    undo[0]()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_server_is_told_whatever_a_guard_does(
    handled: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal that gets lost is a worker that has to be killed."""
    monkeypatch.setattr(Guard, "leave", lambda _: 1 / 0)
    Guard("host=nowhere", **SMALL)
    leave_when_told()
    signal.raise_signal(signal.SIGTERM)
    assert handled == [signal.SIGTERM]
    assert "could not be told" in caplog.text


def test_a_repeated_signal_does_not_forestall_the_word(handled: list[int]) -> None:
    """gunicorn says it again while a server may still be reading what it accepted."""
    words: list[Callable[[], Any]] = []
    leave_when_told(lambda word, _: words.append(word))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert (handled, len(words)) == ([], 1)
    words[0]()
    assert handled == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert handled == [signal.SIGTERM] * 2


# -- staying for those that come next ----------------------------------------------------------


@pytest.fixture
def booting(monkeypatch: pytest.MonkeyPatch, handled: list[int]) -> Iterator[threading.Event]:
    """While it is set, successors boot."""
    booting = threading.Event()
    booting.set()
    monkeypatch.setattr(context.current(), "successors_boot", booting.is_set)
    yield booting
    booting.clear()  # what still stays would send its signal to the tests that come next
    until(lambda: not context.current().stays)


def test_while_its_successors_boot_it_serves_and_is_ready(
    dsn: str, handled: list[int], booting: threading.Event
) -> None:
    guard = Guard(dsn, **SMALL)
    assert guard.open(wait=10)
    leave_when_told()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)  # gunicorn says it again each second
    assert handled == []
    assert guard.status()["leaving"]
    with guard.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert guard.status()["ready"]
        booting.clear()
        until(lambda: handled == [signal.SIGTERM])
        assert not guard.ready
    signal.raise_signal(signal.SIGTERM)
    assert handled == [signal.SIGTERM] * 2


def test_it_is_ready_from_the_first_moment_of_its_stay(
    dsn: str, handled: list[int], booting: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request in another thread may ask while the handler is still telling the guards."""
    guard = Guard(dsn, **SMALL)
    assert guard.open(wait=10)
    seen: list[bool] = []
    leave = Guard.leave

    def leave_and_look(left: Guard, **how: bool) -> None:
        leave(left, **how)
        seen.append(left.ready)

    monkeypatch.setattr(Guard, "leave", leave_and_look)
    leave_when_told()
    signal.raise_signal(signal.SIGTERM)
    assert seen == [True]
    booting.clear()
    until(lambda: handled == [signal.SIGTERM])
    assert not context.current().stays


def test_it_does_not_wait_for_ever(
    dsn: str, handled: list[int], booting: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.current(), "longest_stay", 0.2)
    leave_when_told()
    signal.raise_signal(signal.SIGTERM)
    assert context.current().stays
    until(lambda: handled == [signal.SIGTERM])
    assert not context.current().stays


def test_siblings_that_lack_what_it_holds_do_not_wait_for_its_successors(
    dsn: str, handled: list[int], booting: threading.Event
) -> None:
    """A successor that waits for a slot would boot for as long as this one stays."""
    few: dict[str, Any] = {"budget": 2, "floor": 1}
    guard = Guard(dsn, **few)
    assert guard.open(wait=10)
    leave_when_told()
    with guard.connection(), guard.connection():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(2 * STARVES)  # nobody lacks anything yet
        assert handled == []
        sibling = Guard(dsn, name="sibling", **few)
        assert not sibling.open(wait=0)
        until(lambda: handled == [signal.SIGTERM])
    until(lambda: sibling.ready)


def test_while_it_stays_its_last_connection_is_its_own(
    dsn: str, handled: list[int], booting: threading.Event
) -> None:
    """It accepts, and whom it accepts it has to serve; the siblings are sure of the others."""
    tight: dict[str, Any] = {"budget": 2, "floor": 2}
    guard = Guard(dsn, **tight)
    assert guard.open(wait=10)
    leave_when_told()
    signal.raise_signal(signal.SIGTERM)
    sibling = Guard(dsn, name="sibling", **tight)
    assert sibling.open(wait=10)
    assert sibling.status()["idle"] == 1
    assert guard.ready
    with guard.connection(timeout=1) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert handled == []
    booting.clear()
    until(lambda: handled == [signal.SIGTERM])
    until(lambda: guard.status()["idle"] == 0)
    guard.close()
    until(lambda: sibling.status()["idle"] == 2)


@pytest.mark.parametrize("asked", ["at the signal", "later"])
def test_where_it_cannot_be_told_who_boots_it_ends(
    handled: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str,
) -> None:
    answers = [True] if asked == "later" else []
    monkeypatch.setattr(context.current(), "successors_boot", answers.pop)
    leave_when_told()
    signal.raise_signal(signal.SIGTERM)
    until(lambda: handled == [signal.SIGTERM])
    assert "pop from empty list" in caplog.text


def test_a_guard_that_is_not_open_has_nothing_to_leave(dsn: str) -> None:
    guard = Guard(dsn, **SMALL)
    guard.leave()
    assert guard.open(wait=10)
    guard.close()
    guard.leave()
    assert guard.open(wait=10)
    assert guard.ready


# -- real workers ------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [GTHREAD, ASGI, UVICORN], ids=str)
def test_a_worker_gives_up_its_idle_connections_while_it_answers(
    door: Door, dsn: str, admin: psycopg.Connection, tmp_path: Path
) -> None:
    name = f"leaving-{door}"
    with Janitor() as janitor:
        server = Server(
            door,
            {"POOLGUARD_BUDGET": "8", "POOLGUARD_FLOOR": "4", "TEST_SLEEP": "3"},
            janitor=janitor,
            folder=tmp_path,
            dsn=make_conninfo(dsn, application_name=name),
        )
        try:
            until(lambda: backends(admin, name) == 4, within=40)
            assert server.get("/query").status == 200
            with server.getting("/sleep") as answer:
                until(lambda: sleeping(admin, name))
                server.process.send_signal(signal.SIGTERM)
                until(lambda: backends(admin, name) == 1, within=2.5)
                assert sleeping(admin, name)
                assert answer().status == 200
            assert server.wait() == 0
            until(lambda: backends(admin, name) == 0)
        finally:
            server.close()


def sleeping(admin: psycopg.Connection, name: str) -> bool:
    """The slow request's query runs."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND state = 'active' "
        "AND query LIKE '%%pg_sleep%%'"
    )
    return admin.execute(query, [name]).fetchone() is not None


def test_what_a_worker_accepts_after_the_signal_opens_nothing(dsn: str, tmp_path: Path) -> None:
    """gunicorn's own looks once a second whether it is to end, and accepts until then."""
    with Janitor() as janitor:
        server = Server(
            ASGI,
            {"POOLGUARD_BUDGET": "8", "POOLGUARD_FLOOR": "2"},
            janitor=janitor,
            folder=tmp_path,
            dsn=dsn,
        )
        try:
            assert server.get("/query").status == 200
            server.process.send_signal(signal.SIGTERM)
            with suppress(AssertionError):  # at last there is no answer
                while True:
                    server.get("/query")
            assert server.wait() == 0
            outcomes = [span.tags["outcome"] for span in server.server_spans("/query")]
            assert set(outcomes) == {"acquired"}
        finally:
            server.close()


BOOTS: list[tuple[Door, dict[str, str]]] = [
    *((door, {"TEST_GATE": "gate"}) for door in DOORS),
    (ASGI, {"TEST_LIFESPAN_GATE": "gate"}),
    (UVICORN, {"TEST_LIFESPAN_GATE": "gate"}),
    (UVICORN, {"TEST_LIFESPAN_GATE": "gate", "TEST_DOOR": "starlette"}),
    (UVICORN, {"TEST_LIFESPAN_GATE": "gate", "TEST_DOOR": "lifespan"}),
    (ASGI, {"TEST_GATE": "gate", "TEST_LIFESPAN": "off"}),  # the first request tells that it serves
]
"""Where the new worker is held up, and who is to say that it serves."""


@pytest.mark.parametrize(("door", "boot"), BOOTS, ids=str)
def test_at_a_reload_the_old_worker_serves_until_the_new_one_does(
    door: Door, boot: dict[str, str], dsn: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with Janitor() as janitor:
        server = Server(
            door,
            {
                "POOLGUARD_BUDGET": "8",
                "POOLGUARD_FLOOR": "2",
                "TEST_GRACEFUL_TIMEOUT": "60",
                **{name: str(gate) if value == "gate" else value for name, value in boot.items()},
            },
            janitor=janitor,
            folder=tmp_path,
            dsn=dsn,
        )
        try:
            assert server.get("/query").status == 200  # without a lifespan this opens the pool
            old = server.status()["pid"]
            gate.unlink()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: server.status()["leaving"])
            told_at = time.monotonic()
            while time.monotonic() < told_at + 1.5:  # as long as some would go on by themselves
                status = server.status()
                assert (status["pid"], status["ready"]) == (old, True)
            gate.touch()
            until(lambda: server.status()["pid"] != old)
            until(lambda: not alive(old))
            assert not server.status()["leaving"]
            assert server.lines("Traceback") == []
        finally:
            server.close()
