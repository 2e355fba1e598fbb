"""One connection's entry: how its socket is hung up and cut, and what is known of its end then."""

from __future__ import annotations

import gc
import socket
import threading

import pytest

from poolguard.pool.sockets import Watch
from tests.pool.support import Pair, seated


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
