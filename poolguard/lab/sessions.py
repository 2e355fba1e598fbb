"""The client sessions of a server: how many there are over time, and when each one began."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple

import psycopg

from ..errors import LabError

__all__ = ["Session", "SessionSampler", "arrivals"]

CONNECT_TIMEOUT = 2
"""Seconds that a connect of the sampler's own may take: the least that psycopg takes for it."""
ENDS_WITHIN = 1.0
"""Seconds after which a sample that is under way at the end of the block is cut off."""

_SESSIONS = """
    SELECT pid, application_name, state, left(query, 60),
           extract(epoch FROM backend_start)::float8
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
      AND (%(role)s::text IS NULL OR usename = %(role)s)
      AND (%(application)s::text IS NULL OR application_name = %(application)s)
"""
_AUTHORIZED = re.compile(r"^([\d.]+) .*connection authorized: (.*)$", re.MULTILINE)


class Session(NamedTuple):
    """One row of pg_stat_activity, as far as it says what the session is doing."""

    pid: int
    application: str
    state: str | None
    query: str
    began: float
    """In seconds since the epoch."""


class SessionSampler:
    """Counts the client sessions of a server at an interval, in a thread, while a block runs.

    It asks over one connection of its own, which is not counted, and connects again where it has
    lost that: a server may restart meanwhile. A sample that fails counts no sessions; how many
    did is :attr:`failed`, and the last of them says why in :attr:`error`.

    :param conninfo: of a role that may see all sessions: a superuser, or a member of
        ``pg_read_all_stats``.
    :param role: count the sessions of this role alone.
    :param application: count the sessions with this ``application_name`` alone.
    :param every: seconds from one sample to the next.
    :param limit: keep the sessions of each sample that has more than so many.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        role: str | None = None,
        application: str | None = None,
        every: float = 0.05,
        limit: int | None = None,
    ) -> None:
        self.series: list[tuple[float, int]] = []
        """Each sample: its moment by the monotonic clock, and how many sessions there were."""
        self.at_peak: list[Session] = []
        """The sessions of the first sample that had the most."""
        self.over: list[tuple[float, list[Session]]] = []
        """The samples that had more than *limit*, each with its moment."""
        self.failed = 0
        self.error = ""
        self._limit = limit
        self._conninfo = conninfo
        self._wanted = {"role": role, "application": application}
        self._every = every
        self._conn: psycopg.Connection[Any] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="session-sampler", daemon=True)

    def __repr__(self) -> str:
        failed = f", {self.failed} failed: {self.error}" if self.failed else ""
        return f"<SessionSampler: peak {self.peak} in {len(self.series)} samples{failed}>"

    @property
    def peak(self) -> int:
        """The most sessions that one sample had."""
        return len(self.at_peak)

    def __enter__(self) -> SessionSampler:
        """Takes the first sample. Raises LabError where that fails: nothing would be counted."""
        self._sample()
        if self.failed:
            raise LabError(f"the server's sessions cannot be counted: {self.error}")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends within seconds, also where the server does not answer any more."""
        self._over.set()
        self._thread.join(ENDS_WITHIN)
        if self._thread.is_alive():
            self._cut_off()
            self._thread.join(CONNECT_TIMEOUT + ENDS_WITHIN)

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self._sample()
        self._close()

    def _sample(self) -> None:
        try:
            if self._conn is None:
                self._conn = psycopg.connect(
                    self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT
                )
            found = self._conn.execute(_SESSIONS, self._wanted).fetchall()
        except psycopg.Error as error:
            self.failed += 1
            self.error = str(error).strip()
            self._close()
            return
        now = monotonic()
        if len(found) > self.peak:
            self.at_peak = [Session(*row) for row in found]
        if self._limit is not None and len(found) > self._limit:
            self.over.append((now, [Session(*row) for row in found]))
        self.series.append((now, len(found)))

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _cut_off(self) -> None:
        """Have the thread's wait for an answer end: psycopg then finds its socket at an end."""
        with suppress(OSError, AttributeError, psycopg.Error):
            duplicate = os.dup(self._conn.fileno())  # type: ignore[union-attr]
            with socket.socket(fileno=duplicate) as wire:
                wire.shutdown(socket.SHUT_RDWR)


def arrivals(log: str, *, role: str = "", application: str = "") -> Iterator[float]:
    """When the server let each session in, in seconds since the epoch, as its *log* has it.

    :param log: of a server with ``log_connections`` on and a ``log_line_prefix`` of ``%n``.
    :param role: those of this role alone.
    :param application: those with this ``application_name`` alone.
    """
    wanted = {f"user={role}" if role else "", f"application_name={application}"}
    wanted -= {"", "application_name="}
    for match in _AUTHORIZED.finditer(log):
        if wanted <= set(match[2].split()):
            yield float(match[1])
