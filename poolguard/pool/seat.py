"""One physical connection's place in a pool, and the watch on its socket.

A seat holds its slot of the budget from before the connect until the server has ended its side:
only then can another connection be opened in its place without a chance of being refused. What
tells it is end-of-file on a *duplicate* of the socket, made at connect, since a connection is
closed in more ways than the pool's own (by the application, by a cancelled query, by libpq) and
all of them close the original descriptor. The same watch tells of a connection that the server
ended while it was idle.
"""

from __future__ import annotations

import math
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakSet, ref

from ..budget.ledger import Slot
from ..listener import CloseReason, Connected
from ..logs import logger
from ._gevent import Epoll, Poll, Socket, ready

if TYPE_CHECKING:
    from .holds import Hold

__all__ = ["Seat", "Watch"]


LONGEST_WAIT = 86_400.0
"""Seconds: epoll can wait for 24 days at most, and not for ever where that is given in seconds."""
WATCHES = Epoll is not None and hasattr(os, "eventfd")


class Seat:
    """One connection's slot, its dates, and why it ended. Times by :func:`poolguard.clock.now`."""

    __slots__ = (
        "_conn",
        "amid",
        "began",
        "booked",
        "connected",
        "connected_at",
        "expires_at",
        "fresh",
        "give_up_at",
        "gone",
        "hold",
        "lent",
        "plain_until",
        "proved_at",
        "reason",
        "retire_at",
        "seated",
        "severed",
        "slot",
        "socket",
        "vouched",
        "was_free",
    )

    def __init__(self, slot: Slot | None, began: float) -> None:
        self.slot = slot
        self.began = began
        self.connected_at = 0.0
        self.proved_at = 0.0
        """When it was last used, or verified."""
        self.retire_at = 0.0
        """From then on it is to be replaced when that suits."""
        self.expires_at = 0.0
        """From then on it is not to be lent again."""
        self.connected: Connected | None = None
        self.was_free = False
        """The connection was last taken from the pool, not handed to a waiter."""
        self.give_up_at = math.inf
        """When its connect is given up: so long may what comes after the login take."""
        self.plain_until = 0.0
        """Until then there is nothing to decide when it comes back. 0: while it is new, and once it
        has ended or was cut."""
        self.vouched = False
        """It comes from a verification that a waiter has asked for, and is as good as free."""
        self.lent = False
        """Somebody has it, and is to return it."""
        self.hold: Hold | None = None
        """Who has it, where that is of interest."""
        self.amid = 0
        """The ``id()`` of the exception that was being handled when it was lent: that one is not
        about this connection. (A reference would keep all that its traceback refers to.)"""
        self.reason: CloseReason | None = None
        """Set by whoever closes the connection of his own will."""
        self.gone = False
        """The server has ended its side."""
        self.booked = False
        """Its end has been counted."""
        self.fresh = True
        """It has not been handed out yet."""
        self.severed = False
        """We ended it ourselves without hearing from the server, which may not know."""
        self.seated = False
        """It has a connection, or had one, whose end the watch will tell."""
        self.socket: socket.socket | None = None
        self._conn: ReferenceType[Any] | None = None

    def __repr__(self) -> str:
        state = "gone" if self.gone else "closing" if self.reason else "open"
        return f"<Seat {self.slot!r} {state}>"

    @property
    def conn(self) -> Any:
        """The connection; None when it is no longer referred to by anybody."""
        return None if self._conn is None else self._conn()

    def take(self, conn: Any) -> None:
        """Seat a connection that has just been made."""
        self._conn = ref(conn, self._dropped)
        conn._poolguard_seat = self

    def _dropped(self, _: object) -> None:
        # psycopg_pool does not close connections that it finds broken, nor do applications always.
        # No lock may be taken here: the collector runs at any time, also while one is held.
        if self.lent:
            self.reason = self.reason or "discarded"
        self.hang_up()

    def end(self) -> None:
        """The server has ended its side."""
        self.gone = True
        self.plain_until = 0.0

    def hang_up(self) -> None:
        """Let the FIN leave after a close: the duplicate would hold the socket open."""
        self._shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End a connection whose peer does not answer: whoever reads from it gets end-of-file."""
        if not self.severed:  # once it is, the end may be our own
            self.severed = not self._has_ended()
            self.plain_until = 0.0
        self._shutdown(socket.SHUT_RDWR)

    def _has_ended(self) -> bool:
        """Whether the server has ended its side, though the watch has not told of it yet."""
        sock = self.socket
        if sock is None or not WATCHES:
            return False
        poll = Poll()
        with suppress(OSError, ValueError):  # the watch has closed the duplicate
            poll.register(sock, select.POLLRDHUP)
            return bool(poll.poll(0))
        return False

    def _shutdown(self, how: int) -> None:
        sock = self.socket
        if sock is not None:
            with suppress(OSError):  # the peer was faster, or the watch has closed the duplicate
                sock.shutdown(how)


class Watch:
    """Waits for the end of any seat's socket, for a ring of the doorbell, or for a time.

    One thread (or one event loop) waits; any thread may add seats or ring. Without epoll (outside
    Linux), or a socket, a seat ends when its connection is closed or collected, and each return of
    :meth:`wait` looks for that.
    """

    def __init__(self) -> None:
        # Reentrant: what rings may be the collector, which runs at any time.
        self._lock = threading.RLock()
        self._seats: dict[int, Seat] = {}
        self._unseen: list[Seat] = []
        """Seats whose sockets cannot be watched."""
        self._closed = False
        self._rung = threading.Event()
        self._ears: dict[int, Callable[[], None]] = {}
        self.on_ring: Callable[[], None] | None = None
        """Called at each ring where there is no descriptor for an event loop to wait on."""
        self._epoll: select.epoll | None = None
        if WATCHES and sys.platform == "linux":
            self._epoll = Epoll()
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._epoll.register(self._bell, select.EPOLLIN)
        else:
            _say_once_that_sockets_are_not_watched()
        _watches.add(self)

    def __repr__(self) -> str:
        return f"<Watch of {len(self)} seats{' closed' if self._closed else ''}>"

    def __len__(self) -> int:
        return len(self._seats) + len(self._unseen)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def sees_sockets(self) -> bool:
        return self._epoll is not None

    @property
    def blind(self) -> bool:
        """Some seat can end without a word: :meth:`wait` has to be called now and then."""
        return bool(self._unseen)

    def fileno(self) -> int:
        """The descriptor for an event loop to wait on; -1 where sockets are not watched."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def any_closing(self) -> bool:
        """Some connection was closed by us and the server has not ended its side yet."""
        with self._lock:
            seats = (*self._seats.values(), *self._unseen)
        return any(seat.reason is not None for seat in seats)

    def add(self, seat: Seat, fileno: int | None) -> None:
        """Watch the socket *fileno* on behalf of *seat*, through a duplicate of it."""
        with self._lock:
            if self._closed:
                return
            if self._epoll is None or fileno is None:
                self._unseen.append(seat)
                seat.seated = True
                return
            duplicate = Socket(fileno=os.dup(fileno))
            try:
                # Edge-triggered: what the server sends to a connection in use is not our business,
                # and its end is told once.
                self._epoll.register(duplicate, select.EPOLLRDHUP | select.EPOLLET)
            except BaseException:
                duplicate.close()
                raise
            seat.socket = duplicate
            seat.seated = True
            self._seats[duplicate.fileno()] = seat

    def listen(self, fileno: int, heard: Callable[[], None]) -> None:
        """Call *heard* within :meth:`wait` whenever the descriptor *fileno* is readable."""
        with self._lock:
            if self._epoll is not None and not self._closed:
                self._ears[fileno] = heard
                self._epoll.register(fileno, select.EPOLLIN)

    def ring(self) -> None:
        """Make :meth:`wait` return now."""
        with self._lock:
            if self._closed:
                return
            if self._epoll is not None:
                os.eventfd_write(self._bell, 1)
                return
        self._rung.set()
        if self.on_ring is not None:
            self.on_ring()

    def wait(self, timeout: float | None) -> list[Seat]:
        """The seats that have ended; waits at most *timeout* seconds, and a day, for news."""
        if timeout is not None:
            timeout = min(timeout, LONGEST_WAIT)
        if self._epoll is None:
            self._rung.wait(timeout)
            self._rung.clear()
        ended = [] if self._epoll is None else self._poll(self._epoll, timeout)
        if self._unseen:
            with self._lock:
                over = [seat for seat in self._unseen if _is_over(seat)]
                self._unseen = [seat for seat in self._unseen if seat not in over]
            ended += over
        for seat in ended:
            seat.end()
        return ended

    def _poll(self, epoll: select.epoll, timeout: float | None) -> list[Seat]:
        ended: list[Seat] = []
        for fileno, _ in ready(epoll, timeout):
            if fileno == self._bell:
                with suppress(BlockingIOError):  # another wait has answered it
                    os.eventfd_read(self._bell)
                continue
            if fileno in self._ears:
                try:
                    self._ears[fileno]()
                except Exception:  # the seats that have ended must be told of all the same
                    logger.exception("hearing what other processes of this budget say has failed")
                continue
            with self._lock:
                seat = self._seats.pop(fileno, None)
                if seat is None or seat.socket is None:
                    continue
                epoll.unregister(seat.socket)
                seat.socket.close()
                seat.socket = None
            ended.append(seat)
        return ended

    def take_all(self) -> list[Seat]:
        """Watch no seat any more; returns those that were here, whether they have ended or not."""
        with self._lock:
            seats = [*self._seats.values(), *self._unseen]
            self._forget()
        return seats

    def close(self) -> None:
        """Stop watching; seats that are still here are forgotten."""
        with self._lock:
            self._end()

    def disown(self) -> None:
        """The same in a forked child, for which the parent's watch goes on."""
        self._end()
        self._lock = threading.RLock()  # the old one may be held, by a thread that is not here

    def _end(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._forget()
        if self._epoll is not None:
            self._epoll.close()
            os.close(self._bell)

    def _forget(self) -> None:
        for seat in self._seats.values():
            if seat.socket is not None:
                seat.socket.close()
                seat.socket = None
        self._seats.clear()
        self._unseen.clear()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._end()


def _is_over(seat: Seat) -> bool:
    conn = seat.conn
    return conn is None or bool(getattr(conn, "closed", False))


_watches: WeakSet[Watch] = WeakSet()


def _after_fork_in_child() -> None:
    """The sockets are the parent's: nothing that is dropped in the child may shut them down."""
    for watch in list(_watches):
        watch.disown()
    _watches.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

_said = False


def _say_once_that_sockets_are_not_watched() -> None:
    global _said  # noqa: PLW0603
    if not _said:
        _said = True
        logger.info(
            "this platform has no epoll: sockets of idle connections are not watched, a connection "
            "that the server ends is found when it is verified or used"
        )
