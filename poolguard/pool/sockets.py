"""The watch on the connections' sockets: tells when the server has ended its side of one.

What tells it is end-of-file on a *duplicate* of the socket, made at connect, since a connection is
closed in more ways than the pool's own (by the application, by a cancelled query, by libpq) and
all of them close the original descriptor. The same watch tells of a connection that the server
ended while it was idle.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from weakref import WeakSet

from ..util.gevent_originals import WATCHES, Epoll, Socket, ready
from ..util.logs import logger
from .entry import Entry

__all__ = ["Watch"]


LONGEST_WAIT = 86_400.0
"""Seconds: epoll can wait for 24 days at most, and not for ever where that is given in seconds."""


class Watch:
    """Waits for the end of any entry's socket, for a ring of the doorbell, or for a time.

    One thread (or one event loop) waits; any thread may add entries or ring. Without epoll (outside
    Linux), or a socket, an entry ends when its connection is closed or collected, and each return
    of :meth:`wait` looks for that.
    """

    def __init__(self) -> None:
        # Reentrant: what rings may be the collector, which runs at any time.
        self._lock = threading.RLock()
        self._entries: dict[int, Entry] = {}
        self._unseen: list[Entry] = []
        """Entries whose sockets cannot be watched."""
        self.closed = False
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
            _say_that_sockets_are_not_watched()
        _watches.add(self)

    def __repr__(self) -> str:
        return f"<Watch of {len(self)} entries{' closed' if self.closed else ''}>"

    def __len__(self) -> int:
        return len(self._entries) + len(self._unseen)

    @property
    def sees_sockets(self) -> bool:
        return self._epoll is not None

    @property
    def blind(self) -> bool:
        """Some entry's end will not be told: :meth:`wait` has to be called now and then."""
        return bool(self._unseen)

    def fileno(self) -> int:
        """The descriptor for an event loop to wait on; -1 where sockets are not watched."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def any_closing(self) -> bool:
        """Some connection was closed by us and the server has not ended its side yet."""
        with self._lock:
            entries = (*self._entries.values(), *self._unseen)
        return any(entry.reason is not None for entry in entries)

    def add(self, entry: Entry, fileno: int | None) -> None:
        """Watch the socket *fileno* on behalf of *entry*, through a duplicate of it."""
        with self._lock:
            if self.closed:
                return
            if self._epoll is None or fileno is None:
                self._unseen.append(entry)
                entry.watched = True
                return
            duplicate = Socket(fileno=os.dup(fileno))
            try:
                # Edge-triggered: what the server sends to a connection in use is not our business,
                # and its end is told once.
                self._epoll.register(duplicate, select.EPOLLRDHUP | select.EPOLLET)
            except BaseException:
                duplicate.close()
                raise
            entry.socket = duplicate
            entry.watched = True
            self._entries[duplicate.fileno()] = entry

    def listen(self, fileno: int, heard: Callable[[], None]) -> None:
        """Call *heard* within :meth:`wait` whenever the descriptor *fileno* is readable."""
        with self._lock:
            if self._epoll is not None and not self.closed:
                self._ears[fileno] = heard
                self._epoll.register(fileno, select.EPOLLIN)

    def ring(self) -> None:
        """Make :meth:`wait` return now."""
        with self._lock:
            if self.closed:
                return
            if self._epoll is not None:
                os.eventfd_write(self._bell, 1)
                return
        self._rung.set()
        if self.on_ring is not None:
            self.on_ring()

    def wait(self, timeout: float | None) -> list[Entry]:
        """The entries that have ended; waits for one at most *timeout* seconds, and a day."""
        if timeout is not None:
            timeout = min(timeout, LONGEST_WAIT)
        if self._epoll is None:
            self._rung.wait(timeout)
            self._rung.clear()
        ended = [] if self._epoll is None else self._poll(self._epoll, timeout)
        if self._unseen:
            with self._lock:
                over = [entry for entry in self._unseen if _is_over(entry)]
                self._unseen = [entry for entry in self._unseen if entry not in over]
            ended += over
        for entry in ended:
            entry.end()
        return ended

    def _poll(self, epoll: select.epoll, timeout: float | None) -> list[Entry]:
        ended: list[Entry] = []
        for fileno, _ in ready(epoll, timeout):
            if fileno == self._bell:
                with suppress(BlockingIOError):  # another wait has answered it
                    os.eventfd_read(self._bell)
                continue
            if fileno in self._ears:
                try:
                    self._ears[fileno]()
                except Exception:  # the entries that have ended must be told of all the same
                    logger.exception("hearing what other processes of this budget say has failed")
                continue
            with self._lock:
                entry = self._entries.pop(fileno, None)
                if entry is None or entry.socket is None:
                    continue
                entry.look_back()
                epoll.unregister(entry.socket)
                entry.socket.close()
                entry.socket = None
            ended.append(entry)
        return ended

    def take_all(self) -> list[Entry]:
        """Watch no entry any more; returns those that were here, whether they have ended or not."""
        with self._lock:
            entries = [*self._entries.values(), *self._unseen]
            self._forget()
        return entries

    def close(self) -> None:
        """Stop watching; entries that are still here are forgotten."""
        with self._lock:
            self._end()

    def disown(self) -> None:
        """The same in a forked child, for which the parent's watch goes on."""
        self._end()
        self._lock = threading.RLock()  # the old one may be held, by a thread that is not here

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._forget()
        if self._epoll is not None:
            self._epoll.close()
            os.close(self._bell)

    def _forget(self) -> None:
        for entry in self._entries.values():
            if entry.socket is not None:
                entry.socket.close()
                entry.socket = None
        self._entries.clear()
        self._unseen.clear()

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            self._end()


def _is_over(entry: Entry) -> bool:
    conn = entry.conn
    return conn is None or bool(getattr(conn, "closed", False))


_watches: WeakSet[Watch] = WeakSet()


def _after_fork_in_child() -> None:
    """The sockets are the parent's: nothing that is dropped in the child may shut them down."""
    for watch in list(_watches):
        watch.disown()
    _watches.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


@cache
def _say_that_sockets_are_not_watched() -> None:  # once in a process
    logger.info(
        "this platform has no epoll: sockets of idle connections are not watched, a connection "
        "that the server ends is found when it is verified or used"
    )
