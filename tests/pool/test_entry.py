"""One connection's entry: how its socket is hung up and cut, and what is known of its end then."""

from __future__ import annotations

import gc
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from poolguard.pool.sockets import Watch
from tests.pool.support import Pair, seated
from tests.support import until


def test_without_hanging_up_the_peer_never_learns_of_the_close(watch: Watch, pair: Pair) -> None:
    ours, theirs = pair
    entry, _owner = seated(watch, ours.fileno())
    ours.close()
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    theirs.settimeout(10)
    entry.hang_up()
    assert theirs.recv(1) == b""
    assert watch.wait(0) == []
    theirs.sendall(b"last words")  # our side reads on until the peer ends, too
    assert len(watch) == 1


def test_a_connection_that_nobody_refers_to_any_more_has_hung_up(watch: Watch, pair: Pair) -> None:
    """Applications do not always close what they lose."""
    ours, theirs = pair
    entry, owner = seated(watch, ours.fileno())
    ours.close()
    del owner
    gc.collect()
    assert entry.conn is None
    assert theirs.recv(1) == b""


def test_cut_gives_end_of_file_to_whoever_reads(watch: Watch, pair: Pair) -> None:
    ours, theirs = pair
    entry, _owner = seated(watch, ours.fileno())
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(ours.recv(1)))
    reader.start()
    entry.cut()
    reader.join(10)
    assert read == [b""]
    assert watch.wait(10) == [entry]
    assert theirs.recv(1) == b""


def test_hanging_up_what_has_ended_does_nothing(watch: Watch, pair: Pair) -> None:
    ours, theirs = pair
    entry, _owner = seated(watch, ours.fileno())
    theirs.close()
    watch.wait(10)
    entry.hang_up()
    entry.cut()


def test_one_that_is_cut_was_severed_unless_the_server_had_ended_it(
    watch: Watch, pair: Pair
) -> None:
    """Before the watch told of it, and whatever was not read yet."""
    ours, theirs = pair
    entry, _owner = seated(watch, ours.fileno())
    theirs.sendall(b"the last words")
    theirs.close()
    entry.cut()
    assert not entry.severed
    assert watch.wait(10) == [entry]

    ours, theirs = socket.socketpair()
    with ours, theirs:
        other, _other_owner = seated(watch, ours.fileno())
        other.cut()
        other.cut()  # now it has an end of its own making
        assert other.severed
        assert watch.wait(10) == [other]


# -- whose end it was


@pytest.fixture
def tcp() -> Iterator[Pair]:
    """Two ends of a connection by TCP: of one host's sockets nobody doubts the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def taken(sock: socket.socket) -> None:
    """As libpq does, before the watch has looked."""
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_an_end_of_file_is_the_servers_own(watch: Watch, tcp: Pair) -> None:
    ours, theirs = tcp
    entry, _owner = seated(watch, ours.fileno())
    theirs.close()
    assert watch.wait(10) == [entry]
    assert not entry.broken


def test_a_reset_may_be_the_networks(watch: Watch, tcp: Pair) -> None:
    ours, theirs = tcp
    entry, _owner = seated(watch, ours.fileno())
    reset(theirs)
    assert watch.wait(10) == [entry]
    assert entry.broken


def test_so_may_one_whose_error_was_taken_by_who_closes_the_connection(
    watch: Watch, tcp: Pair
) -> None:
    ours, theirs = tcp
    entry, _owner = seated(watch, ours.fileno())
    reset(theirs)
    taken(ours)
    entry.reason = "discarded"
    ours.close()
    entry.hang_up()
    assert watch.wait(10) == [entry]
    assert entry.broken


@pytest.mark.parametrize("hangs_up", ["before", "after"])
def test_a_reset_that_answers_our_farewell_is_the_servers_own(
    watch: Watch, tcp: Pair, hangs_up: str
) -> None:
    """It had not read all of it."""
    ours, theirs = tcp
    entry, _owner = seated(watch, ours.fileno())
    entry.reason = "lifetime"
    ours.sendall(b"farewell")
    ours.close()
    if hangs_up == "before":
        entry.hang_up()
    until(lambda: theirs.recv(1, socket.MSG_PEEK))
    theirs.close()
    assert watch.wait(10) == [entry]
    entry.hang_up()
    assert not entry.broken


def test_an_end_that_answers_ours_is_the_servers_own(watch: Watch, tcp: Pair) -> None:
    ours, theirs = tcp
    entry, _owner = seated(watch, ours.fileno())
    entry.reason = "lifetime"
    ours.close()
    entry.hang_up()
    assert theirs.recv(1) == b""
    theirs.close()
    assert watch.wait(10) == [entry]
    assert not entry.broken
