"""A server that cannot be reached: since when, why, and when to try again.

Connecting is tried for ever, by one connect at a time, whether a connection is asked for or not.
Nothing here reads a clock, and nothing is logged: what to say is returned.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from ..util.rarely import is_said

__all__ = ["JITTER", "RETRY_AFTER", "RETRY_WHEN_ASKED", "Failure", "Outage"]

RETRY_AFTER = 1.0
"""Seconds between two probes of a server that refuses connections."""
RETRY_WHEN_ASKED = 0.25
"""The same while an acquire waits."""
RETRY_WHEN_REFUSED = 0.5
"""The same where the server has no room for one more, ..."""
RETRY_WHEN_CLOSED = 0.05
"""... and where a process of the same budget has closed one since."""
JITTER = 0.2
"""Part of an interval by which it varies, so that workers do not probe or verify in step."""


class Failure(NamedTuple):
    """What is to be said of one that has just failed."""

    is_said: bool
    """Worth a line in the log: the 1st, 2nd, 4th, 8th … in a row."""
    gives_up: bool
    """Another ``reconnect_timeout`` has passed: time to call ``reconnect_failed``."""


class Outage:
    """The connects of one pool that have failed since one last ended well.

    :param reconnect_timeout: seconds after which ``reconnect_failed`` is to be called, each time.
    """

    def __init__(self, reconnect_timeout: float) -> None:
        self.reconnect_timeout = reconnect_timeout
        self.last_error: str | None = None
        self._times = 0
        self._failed_at = 0.0
        self._since = 0.0
        self._gave_up = False
        self._jitter = 1.0
        self._refused = False

    def __repr__(self) -> str:
        return f"<Outage {self._times} failed, {self.last_error}>"

    @property
    def lasts(self) -> bool:
        """The last connect has failed, and not for want of room."""
        return self._times > 0 and not self._refused

    @property
    def refused(self) -> bool:
        """The server had no room for the last one: it is there, and serves those that stand."""
        return self._times > 0 and self._refused

    def ended(self) -> None:
        """A connect has ended well, or there is room again."""
        self._times = 0
        self._gave_up = False
        self.last_error = None

    def failed(self, began: float, now: float, error: str, *, refused: bool = False) -> Failure:
        """A connect that began at *began* has failed; *refused*: for want of room."""
        self._times += 1
        self._refused = refused
        self._failed_at = now
        self._jitter = random.uniform(1 - JITTER, 1 + JITTER)
        self.last_error = error
        if self._times == 1:
            self._since = began
        gives_up = now - self._since >= self.reconnect_timeout
        if gives_up:
            self._since = now
            self._gave_up = True
        return Failure(is_said(self._times), gives_up)

    def retry_at(self, *, asked: bool, closed: bool = False) -> float | None:
        """When to try again; None while connecting works.

        It is sooner where an acquire has *asked*, or where one was *closed* since there was no
        room. ``reconnect_failed`` is called when its time has come, not a probe later.
        """
        if not self._times:
            return None
        pause = RETRY_WHEN_ASKED if asked else RETRY_AFTER
        if self._refused:
            pause = RETRY_WHEN_CLOSED if closed else max(pause, RETRY_WHEN_REFUSED)
        at = self._failed_at + pause * self._jitter
        return at if self._gave_up else min(at, self._since + self.reconnect_timeout)
