"""What a storm counts, who holds which connection, and what must be so of a pool at rest."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from psycopg.pq import PipelineStatus, TransactionStatus

SIZES = ((4, 4), (2, 8), (1, 1), (0, 3), (8, 16))
"""The pools' minimum and maximum, in turn."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a pool is made."""

    name: str
    min_size: int
    max_size: int
    callbacks: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def closes(self) -> bool:
        """Its connections come back by their own ``close()``."""
        return "close_returns" in self.options


def shapes(flavour: str, rng: Random) -> Iterator[Shape]:
    """The pools of a storm, without end."""
    nth = 0
    while True:
        for low, high in SIZES:
            nth += 1
            callbacks = [name for name in ("configure", "check", "reset") if rng.random() < 0.5]
            more = {"max_waiting": 2 * high, "max_lifetime": 3.0, "close_returns": True}
            options = {name: value for name, value in more.items() if rng.random() < 0.3}
            options["timeout"] = rng.choice((0.02, 0.2, 1.0))
            yield Shape(f"storm-{flavour}-{nth}", low, high, tuple(callbacks), options)


class Witness:
    """Counts, and knows who holds which connection. No signal's handler raises in here."""

    def __init__(self) -> None:
        self.stormy = False
        """Callbacks misbehave now."""
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.notes: list[str] = []
        self._held: dict[int, int] = {}
        """The backend of each connection that is lent, by the identity of the object."""
        self._lock = threading.Lock()
        logging.getLogger().addHandler(logging.NullHandler())
        sys.unraisablehook = lambda said: self._count(said.exc_value, " that nobody could catch")
        threading.excepthook = lambda said: self._count(said.exc_value, " that ended a thread")

    def loop_said(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """The event loop has an error that nobody else has."""
        self._count(context.get("exception"), " in the event loop")

    def lent(self, conn: Any) -> None:
        """The pool has lent *conn* to the caller."""
        self.holds(conn, "lent twice")
        self.counts["acquires"] += 1
        if conn.closed:
            self.say("dirty", "lent closed")
            return
        status = TransactionStatus(conn.pgconn.transaction_status)
        pipeline = PipelineStatus(conn.pgconn.pipeline_status)
        if status != TransactionStatus.IDLE or pipeline != PipelineStatus.OFF:
            self.say("dirty", f"lent {status.name}, pipeline {pipeline.name}")

    def holds(self, conn: Any, otherwise: str) -> None:
        """The caller has *conn*, and nobody else may, until :meth:`returned`."""
        pid = 0 if conn.closed else conn.pgconn.backend_pid
        with self._lock:
            double = id(conn) in self._held or (pid and pid in self._held.values())
            self._held[id(conn)] = pid
        if double:
            self.say("double", otherwise)

    def returned(self, conn: Any) -> None:
        """The caller will not touch *conn* any more, but return it."""
        with self._lock:
            self._held.pop(id(conn), None)

    def ended(self, error: BaseException) -> None:
        """What somebody did ended so."""
        interrupted = not isinstance(error, Exception) or isinstance(error, asyncio.TimeoutError)
        self._count(error, count="interrupted" if interrupted else "errors")

    def _count(self, error: BaseException | None, where: str = "", count: str = "errors") -> None:
        self.counts[count] += 1
        self.errors[type(error).__name__ + where] += 1

    def say(self, fault: str, text: str, n: int = 1) -> None:
        """There is a fault."""
        self.counts[fault] += n
        if text not in self.notes and len(self.notes) < 10:
            self.notes.append(text)

    def unsettled(self, status: Mapping[str, Any], stats: Mapping[str, int], there: int) -> str:
        """What is wrong with a pool at rest of which the server counts so many sessions."""
        idle, size, free = status["idle"], stats.get("pool_size"), stats.get("pool_available")
        zeros = {name: status[name] for name in ("used", "opening", "waiting")}
        if not any(zeros.values()) and idle >= status["floor"] and idle == size == free == there:
            return ""
        said = ", ".join(f"{name} {n}" for name, n in zeros.items())
        return f"{said}, idle {idle}, pool_size {size}, pool_available {free}, server {there}"

    def judge(self, shape: Shape, used: int, had: int, wrong: str) -> bool:
        """Whether a pool at rest is whole, of which *had* connections could be had at once."""
        self.counts["looks"] += 1
        lost = max(used, shape.max_size - had)
        self.counts["lost"] += lost
        self.counts["unsettled"] += bool(wrong)
        if lost or wrong:
            self.notes.append(f"{shape}: {had} to be had at once; {wrong or 'settled'}")
        return not lost and not wrong

    def print(self) -> None:
        """All of it, as one line of JSON."""
        told = {"counts": self.counts, "errors": self.errors, "notes": self.notes}
        print(json.dumps(told), flush=True)
