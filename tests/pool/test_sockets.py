"""The watch on real sockets: who ended, who hung up, and which descriptors are left."""

from __future__ import annotations

import gc
import math
import os
import socket
import threading
from time import monotonic

import psycopg
import pytest

from poolguard.pool import sockets as module
from poolguard.pool.entry import Entry
from poolguard.pool.sockets import Watch
from tests.pool.support import Pair, descriptors, held_elsewhere, in_child, seated
from tests.support import until


def test_the_end_of_a_peer_is_told_once(watch: Watch, pair: Pair) -> None:
    ours, theirs = pair
    entry, _owner = seated(watch, ours.fileno())
    assert watch.wait(0) == []
    assert len(watch) == 1
    theirs.close()
    assert watch.wait(10) == [entry]
    assert entry.ended
    assert watch.wait(0) == []
    assert len(watch) == 0


@pytest.mark.parametrize("seconds", [2_592_000.0, 1e9, math.inf])
def test_a_wait_for_longer_than_epoll_can_is_a_wait(watch: Watch, seconds: float) -> None:
    watch.ring()
    assert watch.wait(seconds) == []


def test_a_reset_is_an_end(watch: Watch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        entry, _owner = seated(watch, ours.fileno())
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        assert watch.wait(10) == [entry]
        ours.close()


def test_data_is_not_an_end(watch: Watch, pair: Pair) -> None:
    """What the server sends to a connection in use wakes nobody."""
    ours, theirs = pair
    seated(watch, ours.fileno())
    theirs.sendall(b"a row")
    assert watch.wait(0) == []
    assert ours.recv(100) == b"a row"


def test_closing_the_original_is_not_an_end(watch: Watch, pair: Pair) -> None:
    """The peer decides; the duplicate is what tells."""
    ours, theirs = pair
    entry, _owner = seated(watch, ours.fileno())
    ours.close()
    assert watch.wait(0) == []
    theirs.close()
    assert watch.wait(10) == [entry]


def test_a_ring_wakes_a_wait_that_has_no_end(watch: Watch) -> None:
    woken = threading.Event()

    def wait() -> None:
        watch.wait(None)
        woken.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not woken.is_set()
    watch.ring()
    assert woken.wait(10)
    waiting.join()


def test_rings_before_the_wait_are_answered_once(watch: Watch) -> None:
    watch.ring()
    watch.ring()
    began = monotonic()
    assert watch.wait(10) == []
    assert monotonic() - began < 5
    began = monotonic()
    watch.wait(0.05)
    assert monotonic() - began >= 0.05


def test_no_descriptor_is_left(pair: Pair) -> None:
    ours, _theirs = pair
    before = descriptors()
    watch = Watch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        sockets = [socket.create_connection(server.getsockname()) for _ in range(5)]
        for each in sockets:
            seated(watch, each.fileno())
        for each in sockets[:2]:
            each.shutdown(socket.SHUT_RDWR)
        until(lambda: watch.wait(0.1) is not None and len(watch) == 3)
        for each in sockets:
            each.close()
    watch.close()
    watch.close()
    assert descriptors() == before
    watch = Watch()
    seated(watch, ours.fileno())
    watch = Watch()  # the other one is collected
    watch.close()
    gc.collect()
    assert descriptors() == before


def test_a_closed_watch_takes_no_entry_and_hears_no_ring(watch: Watch, pair: Pair) -> None:
    watch.close()
    before = descriptors()
    entry, _owner = seated(watch, pair[0].fileno())
    watch.ring()
    assert not entry.watched
    assert len(watch) == 0
    assert descriptors() == before


def test_any_closing(watch: Watch, pair: Pair) -> None:
    ours, theirs = pair
    entry, _owner = seated(watch, ours.fileno())
    assert not watch.any_closing()
    entry.reason = "idle"
    assert watch.any_closing()
    theirs.close()
    watch.wait(10)
    assert not watch.any_closing()


@pytest.mark.parametrize("how", ["close", "drop"])
def test_without_sockets_an_entry_ends_with_its_connection(
    monkeypatch: pytest.MonkeyPatch, pair: Pair, how: str
) -> None:
    """Outside Linux."""
    monkeypatch.setattr(module, "WATCHES", False)
    watch = Watch()
    entry, owner = seated(watch, pair[0].fileno())
    assert (watch.sees_sockets, watch.blind) == (False, True)
    assert watch.wait(0) == []
    if how == "close":
        owner.closed = True
    else:
        del owner
    watch.ring()
    assert watch.wait(10) == [entry]
    assert (watch.blind, len(watch)) == (False, 0)
    watch.close()


def test_in_a_forked_child_the_watch_is_closed_and_the_parents_goes_on(
    watch: Watch, pair: Pair
) -> None:
    """Nothing that the child drops or closes reaches the parent's sockets."""
    ours, theirs = pair
    entry, owner = seated(watch, ours.fileno())

    def child() -> str:
        closed, left = watch.closed, len(watch)
        entry.hang_up()
        watch.ring()
        watch.close()
        return f"{closed} {left} {entry.socket}"

    with held_elsewhere(watch._lock):
        assert in_child(child) == "True 0 None"
    assert owner is entry.conn
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    theirs.close()
    assert watch.wait(10) == [entry]


def test_the_end_of_a_real_server_session(
    watch: Watch, dsn: str, admin: psycopg.Connection
) -> None:
    conn = psycopg.connect(dsn)
    entry = Entry(None, 0.0)
    entry.take(conn)
    watch.add(entry, conn.pgconn.socket)
    admin.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
    assert watch.wait(10) == [entry]
    conn.close()


def test_the_end_comes_when_the_server_has_ended_not_when_we_have_closed(
    watch: Watch, dsn: str, admin: psycopg.Connection
) -> None:
    """Its backend is gone from pg_stat_activity when the watch tells."""
    conn = psycopg.connect(dsn)
    pid = conn.info.backend_pid
    entry = Entry(None, 0.0)
    entry.take(conn)
    watch.add(entry, conn.pgconn.socket)
    conn.close()
    entry.hang_up()
    assert watch.wait(10) == [entry]
    row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    assert row == (0,)


def test_descriptors_are_closed_in_an_executed_program(watch: Watch, pair: Pair) -> None:
    entry, _owner = seated(watch, pair[0].fileno())
    assert entry.socket is not None
    for fileno in (watch.fileno(), watch._bell, entry.socket.fileno()):
        assert not os.get_inheritable(fileno)


def test_what_is_listened_to_is_heard_within_wait_until_it_was_read(watch: Watch) -> None:
    reading, writing = os.pipe()
    heard: list[bytes] = []
    watch.listen(reading, lambda: heard.append(os.read(reading, 4096)))
    assert watch.wait(0) == []
    assert heard == []
    os.write(writing, b"!")
    os.write(writing, b"!")
    assert watch.wait(10) == []
    watch.wait(0)
    os.write(writing, b"?")
    watch.wait(10)
    assert heard == [b"!!", b"?"]
    watch.close()
    watch.listen(reading, heard.clear)  # in vain
    os.close(reading)
    os.close(writing)


def test_an_ear_that_fails_hides_no_end(
    watch: Watch, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are news of the same moment."""
    ours, theirs = pair
    reading, writing = os.pipe()

    def fails() -> None:
        os.read(reading, 4096)
        raise ValueError("from an ear")

    watch.listen(reading, fails)
    entry, _owner = seated(watch, ours.fileno())
    theirs.close()
    os.write(writing, b"!")
    assert watch.wait(10) == [entry]
    assert "from an ear" in caplog.text
    os.close(reading)
    os.close(writing)
