"""How the connections of a pool begin and end: counted, told, and learnt from.

What a connect takes says when another one is late; one that fails says how the server fares.
"""

from __future__ import annotations

import logging
import math
import random
from typing import Any

from psycopg.errors import ConnectionTimeout

from .core import Core
from .entry import Entry, is_closed_here
from .errors import SlotTaken, describe, lacks_room
from .events import Closed, CloseReason, Connected, ConnectFailed, CreateReason, Place
from .growth import late_ones
from .inquiry import Inquiry
from .leases import Leases
from .outage import Failure, Outage
from .outbox import Outbox
from .snapshot import Late
from .upkeep import EXPIRY, lifetime

__all__ = ["Lifecycle"]

SLOWEST_CONNECT = 5.0
"""Seconds: a connect is never expected to take longer."""


class Lifecycle:
    """The connects and the ends of one pool's connections. Times by the monotonic clock."""

    def __init__(
        self,
        core: Core,
        leases: Leases,
        inquiry: Inquiry,
        outbox: Outbox,
        *,
        max_lifetime: float,
        reconnect_timeout: float,
    ) -> None:
        self.pool = ""
        self.max_lifetime = max_lifetime
        self.outage = Outage(reconnect_timeout)
        self.expected = 0.05
        """Seconds that a connect takes, as lately seen."""
        self.created: dict[CreateReason, int] = {}
        self.closed: dict[CloseReason, int] = {}
        self.place: Place | None = None
        """Where the last connect led."""
        self._core = core
        self._leases = leases
        self._inquiry = inquiry
        self._outbox = outbox
        self._overtaken = -math.inf
        """When the latest of those connects began that have ended well."""
        self._nth = 0
        self._offset = random.random()

    def late(self, now: float) -> Late:
        """What of the connects under way takes much longer than others did."""
        began = [entry.began for entry in self._core.those("connecting")]
        return late_ones(now, began, self.expected if self._nth else None, self._overtaken)

    def connected(self, entry: Entry, reason: CreateReason, place: Place, now: float) -> None:
        """The connect of *entry* has ended well."""
        self.place = place
        self._overtaken = max(self._overtaken, entry.began)
        self.outage.ended()
        # A connect that the machine has slept through says nothing of the next one.
        took = min(now - entry.began, SLOWEST_CONNECT)
        self.expected += 0.3 * (took - self.expected)
        self._nth += 1
        entry.connected_at = entry.proved_at = entry.writable_at = now
        entry.retire_at = now + lifetime(self._nth, self.max_lifetime, self._offset)
        entry.expires_at = now + EXPIRY * self.max_lifetime
        entry.connected = Connected(self.pool, reason, entry.began, now, place)
        self.created[reason] = self.created.get(reason, 0) + 1
        self._outbox.log(logging.INFO, "adding new connection to the pool")
        self._outbox.add(self._outbox.listener.connected, entry.connected)
        if entry.ended:  # the watch was faster
            self._count_end(entry, now)

    def connect_failed(
        self, entry: Entry, reason: CreateReason, error: BaseException, now: float
    ) -> bool:
        """The connect of *entry* has failed. True: time to call ``reconnect_failed``."""
        self._core.close(entry, None)
        if not entry.watched:
            # It never got as far as a socket that the watch could tell of. What the server makes of
            # a connect that we gave up is not known.
            self._leases.vacate(entry, certainly=not _hangs(error))
        text = describe(error, of_connect=not entry.watched)
        if isinstance(error, SlotTaken):  # of which the server is not the cause
            self._outbox.log(logging.INFO, "pool %r: %s", self.pool, text)
            return False
        failure: Failure | None = None
        # A hanging one says nothing of the server, where connects that began later ended well.
        if not (_hangs(error) and entry.began <= self._overtaken):
            refused = lacks_room(error)
            failure = self.outage.failed(entry.began, now, text, refused=refused)
        if failure is None or failure.is_said:
            self._outbox.log(logging.WARNING, "error connecting in %r: %s", self.pool, text)
        failed = ConnectFailed(self.pool, reason, entry.began, now, text)
        self._outbox.add(self._outbox.listener.connect_failed, failed)
        if failure is None:
            return False
        if failure.gives_up:
            text = "reconnection attempt in pool %r failed after %s sec"
            self._outbox.log(logging.WARNING, text, self.pool, self.outage.reconnect_timeout)
        if self.outage.refused:
            self._leases.refused()
            self._inquiry.soon(now)
        return failure.gives_up

    def connect_cancelled(self, entry: Entry) -> None:
        """The connect was given up, mostly since the pool has closed."""
        self._core.close(entry, None)
        if not entry.watched:
            self._leases.vacate(entry, certainly=False)

    def ended(self, entry: Entry, now: float) -> Any:
        """The server has ended its side of the connection, or we have cut it.

        The answer is the connection, where it was idle; else None.
        """
        if entry.state == "lent" and entry.verdict is None and is_closed_here(entry.conn):
            entry.reason = entry.reason or "discarded"
        conn = self._core.end(entry)
        self._leases.vacate(entry, certainly=not entry.severed)
        if entry.connected is not None:
            self._count_end(entry, now)
        return conn

    def _count_end(self, entry: Entry, now: float) -> None:
        if entry.counted:
            return
        entry.counted = True
        reason = entry.reason or "lost"
        self.closed[reason] = self.closed.get(reason, 0) + 1
        closed = Closed(self.pool, reason, now - entry.connected_at)
        self._outbox.add(self._outbox.listener.closed, closed)


def _hangs(error: BaseException) -> bool:
    """Whether a connect was given up, of which the server may know nothing."""
    return isinstance(error, TimeoutError | ConnectionTimeout)
