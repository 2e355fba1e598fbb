"""The connects of a pool: how long they take, which are late, and how their server fares."""

from __future__ import annotations

import logging
import math
import random

from psycopg.errors import ConnectionTimeout

from .entry import Entry
from .errors import describe, lacks_room
from .events import (
    Connected,
    ConnectFailed,
    CreateReason,
    Place,
)
from .growth import Late, late_ones
from .news import News
from .outage import Failure, Outage
from .upkeep import EXPIRY, lifetime

__all__ = ["Connects"]

SLOWEST_CONNECT = 5.0
"""Seconds: a connect is never expected to take longer."""


class Connects:
    """The connects of one pool. Times by the monotonic clock, in seconds."""

    def __init__(self, news: News, max_lifetime: float, reconnect_timeout: float) -> None:
        self.pool = ""
        self.outage = Outage(reconnect_timeout)
        self.expected = 0.05
        """What one takes, as lately seen."""
        self.created: dict[CreateReason, int] = {}
        self.place: Place | None = None
        """Where the last one led."""
        self._news = news
        self._max_lifetime = max_lifetime
        self._overtaken = -math.inf
        """When the latest of those began that have ended well."""
        self._nth = 0
        self._offset = random.random()

    def late(self, now: float, began: list[float]) -> Late:
        """What of those that began at these times, and are under way, is late."""
        return late_ones(now, began, self.expected if self._nth else None, self._overtaken)

    def ended(self, entry: Entry, reason: CreateReason, place: Place, now: float) -> None:
        """The connect of *entry* has ended well."""
        self.place = place
        self._overtaken = max(self._overtaken, entry.began)
        self.outage.ended()
        # A connect that the machine has slept through says nothing of the next one.
        took = min(now - entry.began, SLOWEST_CONNECT)
        self.expected += 0.3 * (took - self.expected)
        self._nth += 1
        entry.connected_at = entry.proved_at = entry.writable_at = now
        entry.retire_at = now + lifetime(self._nth, self._max_lifetime, self._offset)
        entry.expires_at = now + EXPIRY * self._max_lifetime
        entry.connected = Connected(self.pool, reason, entry.began, now, place)
        self.created[reason] = self.created.get(reason, 0) + 1
        self._news.log(logging.INFO, "adding new connection to the pool")
        self._news.add(self._news.listener.connected, entry.connected)

    def failed(
        self, entry: Entry, reason: CreateReason, error: BaseException, now: float
    ) -> Failure | None:
        """The connect of *entry* has failed; None where that says nothing of the server, since
        those that began later have ended well."""
        text = describe(error, of_connect=not entry.watched)
        failure: Failure | None = None
        if not (hangs(error) and entry.began <= self._overtaken):
            refused = lacks_room(error)
            failure = self.outage.failed(entry.began, now, text, refused=refused)
        if failure is None or failure.is_said:
            self._news.log(logging.WARNING, "error connecting in %r: %s", self.pool, text)
        failed = ConnectFailed(self.pool, reason, entry.began, now, text)
        self._news.add(self._news.listener.connect_failed, failed)
        if failure is not None and failure.gives_up:
            text = "reconnection attempt in pool %r failed after %s sec"
            self._news.log(logging.WARNING, text, self.pool, self.outage.reconnect_timeout)
        return failure


def hangs(error: BaseException) -> bool:
    """Whether a connect was given up, of which the server may know nothing."""
    return isinstance(error, TimeoutError | ConnectionTimeout)
