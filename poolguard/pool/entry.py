"""One physical connection of a pool: its state, its slot of the budget, its dates.

An entry holds its slot from before the connect until the server has ended its side: only then can
another connection be opened in its place without a chance of being refused.
"""

from __future__ import annotations

import errno
import math
import select
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import ReferenceType, ref

from ..budget.slots import Seat, Slot
from ..util.gevent_originals import WATCHES, Poll
from .events import CloseReason, Connected
from .evidence import Asked

if TYPE_CHECKING:
    from .acquirer import Checkout

__all__ = ["Check", "Entry", "State", "Verdict", "entry_of", "finish", "is_closed_here", "silence"]

State = Literal["connecting", "idle", "checking", "lent", "resetting", "closing", "gone"]
"""Where an entry is. Only :mod:`poolguard.pool.core` moves it."""

TCP_CLOSE = 7
"""The state of a socket (``TCP_INFO``) that an error has ended, or a reset. One of which the other
side has ended its half waits for ours: Linux, ``include/net/tcp_states.h``."""

Verdict = Literal["lost", "ending", "read-only", "unseated"]
"""What an error that came over a connection tells of the server: it, or the way to it, has ended
the connection; it is shutting down; it takes no writes."""


class Check(NamedTuple):
    """An idle connection that is not lent while the server is asked for a sign of life."""

    since: float
    likely: bool = True
    """There is no reason to think that it will fail."""
    for_waiter: bool = False
    """An acquire waits for it."""
    writable: bool = False
    """The server is to say as well that it takes writes."""
    question: tuple[Asked, ...] = ()
    """It is asked about these commands over other connections."""


class Entry:
    """One connection's state, slot and dates. Times by :func:`poolguard.util.clock.now`."""

    __slots__ = (
        *("slot", "began", "state", "connected_at", "proved_at", "writable_at", "retire_at"),
        *("expires_at", "give_up_at", "plain_until", "connected", "kept", "plain", "lent_at"),
        *("waits_since", "sent_before", "owner", "unowned_at", "check", "checkout", "stranger"),
        *("seat", "seated_until", "verdict", "vouched", "reason", "ended", "counted", "severed"),
        *("broken", "hung_up", "watched", "socket", "_conn"),
    )

    def __init__(self, slot: Slot | None, began: float) -> None:  # noqa: PLR0915 - all it has
        self.slot = slot
        """The right to hold it; None where no ledger grants any, and once it is given back."""
        self.began = began
        """When its connect began."""
        self.state: State = "connecting"
        self.connected_at = 0.0
        self.proved_at = 0.0
        """When it was last used, or checked."""
        self.writable_at = 0.0
        """When it was connected, or the server last said that it is no read-only one."""
        self.retire_at = 0.0
        """From then on it is to be replaced when that suits."""
        self.expires_at = 0.0
        """From then on it is not to be lent again."""
        self.give_up_at = math.inf
        """When its connect is given up: so long may what comes after the login take."""
        self.plain_until = 0.0
        """Until then there is nothing to decide when it comes back; 0 if new, ended or cut."""
        self.connected: Connected | None = None
        self.kept: Any = None
        """The connection, but not while it is lent: then it shows when nothing else refers to
        it."""
        self.plain = False
        """Its class begins and ends a block as psycopg's own does."""
        self.lent_at = 0.0
        self.waits_since = 0.0
        """Since when the application has waited for what is under way; 0 while it does not."""
        self.sent_before = 0
        """Bytes sent over it before it was lent, as far as that was looked at."""
        self.owner: ReferenceType[Any] | None = None
        """The thread, or greenlet, that used it last; dead once that has ended."""
        self.unowned_at: float | None = None
        """When it was first seen that the owner has ended."""
        self.check: Check | None = None
        """What is being checked."""
        self.checkout: Checkout | None = None
        """What has it, where that is of interest."""
        self.stranger = False
        """It was not greeted, since it was waited for: it is to be as soon as it is idle."""
        self.seat: Seat | None = None
        """The lock by which the session occupies the slot; None where it has none."""
        self.seated_until = math.inf
        """When the server is to be asked whether it still does: the application may have let go of
        all locks of the session."""
        self.verdict: Verdict | None = None
        """What the worst error that came over it while it was lent says of the server."""
        self.vouched = False
        """It comes from a check that a waiter asked for, and is as good as free."""
        self.reason: CloseReason | None = None
        """Why the pool closes it; None where the server ended it."""
        self.ended = False
        """The server has ended its side."""
        self.counted = False
        """Its end has been counted."""
        self.severed = False
        """We ended it ourselves without hearing from the server, which may not know."""
        self.broken = False
        """The network has ended it, and not the server, which may not know."""
        self.hung_up = False
        """We have ended our side."""
        self.watched = False
        """It has a connection, or had one, whose end the watch will tell."""
        self.socket: socket.socket | None = None
        """A duplicate of the connection's socket, which the watch waits on."""
        self._conn: ReferenceType[Any] | None = None

    def __repr__(self) -> str:
        more = " ended" if self.ended and self.state != "gone" else ""
        return f"<Entry {self.slot!r} {self.state}{more}>"

    @property
    def conn(self) -> Any:
        """The connection; None before there is one, and once nothing refers to it any more."""
        return None if self._conn is None else self._conn()

    @property
    def is_remote(self) -> bool:
        """The network can lose the connection without a word, and the kernel tells of it."""
        sock = self.socket
        return sock is not None and sys.platform == "linux" and sock.family != socket.AF_UNIX

    def take(self, conn: Any) -> None:
        """This is the connection, which has just been made."""
        self._conn = ref(conn, self._dropped)
        conn._poolguard_entry = self

    def _dropped(self, _: object) -> None:
        # Applications do not always close what they lose. No lock may be taken here: the collector
        # runs at any time, also while one is held.
        if self.state == "lent":
            self.reason = self.reason or "discarded"
        self.hang_up()

    def end(self) -> None:
        """The server has ended its side, or the network both."""
        self.ended = True
        self.plain_until = 0.0

    def hang_up(self) -> None:
        """Let the FIN leave after a close: the duplicate would hold the socket open."""
        self._shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End a connection whose peer does not answer: reading from it gives end-of-file."""
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

    def look_back(self) -> None:
        """See whether it was the network that has ended it: before its socket is shut down here,
        and once it has ended."""
        sock = self.socket
        if sock is None or self.severed:
            return
        with suppress(OSError):  # of a server on this host, or the watch has closed the duplicate
            # Before we hang up, nothing but an error closes a socket, and libpq may have taken that
            # error. Afterwards the server's end closes it as well.
            closed = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if closed else 0
            # A server resets what it closes with something unread, such as the farewell of TLS.
            is_farewell = self.reason is not None and code in (errno.ECONNRESET, errno.EPIPE)
            self.broken |= closed and not is_farewell and (code != 0 or not self.hung_up)

    def _shutdown(self, how: int) -> None:
        sock = self.socket
        if sock is not None:
            self.look_back()
            self.hung_up = True
            with suppress(OSError):  # the peer was faster, or the watch has closed the duplicate
                sock.shutdown(how)


def entry_of(conn: Any) -> Entry | None:
    """The entry of a connection that one of our pools made."""
    entry: Entry | None = getattr(conn, "_poolguard_entry", None)
    return entry


def is_closed_here(conn: Any) -> bool:
    """Whether a connection was closed on this side: then nothing is left of libpq's part of it."""
    return conn is not None and getattr(conn.pgconn, "pgconn_ptr", None) is None


def finish(conn: Any) -> None:
    """Close a connection of a pool that is gone: ``close()`` of an async one needs a loop."""
    silence(conn)
    conn.pgconn.finish()
    if (entry := entry_of(conn)) is not None:
        entry.hang_up()


def silence(conn: Any) -> None:
    """Let the connection be collected, or closed, without a word to a pool.

    By psycopg's protocol ``conn._pool`` is the pool that it was lent from: ``conn.close()`` may go
    there, and a connection that was lent from none warns when it is collected open.
    """
    conn._pool = None
