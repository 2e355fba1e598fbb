"""What the server says of a contender: its connections over time, and when each arrived."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import TracebackType

import psycopg

from poolguard.lab.postgres import PrivatePostgres
from poolguard.telemetry.recorded import Span, spans_of

__all__ = ["ROLE", "Sampler", "opened", "spans"]

ROLE = "contender"
"""Who contenders are on the server, and nobody else is."""
EVERY = 0.05

_AUTHORIZED = re.compile(rf"^([\d.]+) .*connection authorized: user={ROLE}\b", re.MULTILINE)


class Sampler:
    """Counts the contender's connections at the server, every 50 ms, in a thread.

    While the server is away it counts none.
    """

    def __init__(self, server: PrivatePostgres) -> None:
        self.counts: list[tuple[float, int]] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self._count()
            except psycopg.Error:
                self.counts.append((monotonic(), 0))

    def _count(self) -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        with self._server.connect() as conn:
            while not self._stop.wait(EVERY):
                row = conn.execute(query, [ROLE]).fetchone()
                assert row is not None
                self.counts.append((monotonic(), row[0]))


def opened(log: str) -> Iterator[float]:
    """When the server let each of the contender's connections in, in seconds since the epoch."""
    for match in _AUTHORIZED.finditer(log):
        yield float(match[1])


def spans(folder: Path) -> Iterator[Span]:
    """The spans that the workers wrote, one JSON object a line."""
    for path in sorted(folder.glob("*.spans")):
        for line in path.read_text().splitlines():
            yield from filter(None, spans_of(json.loads(line)))
