"""The pools' metrics: OpenTelemetry's conventional ones for connection pools, and poolguard's own.

What a pool counts and has is read when a reader collects; nothing is counted for it on a request's
way. Only durations are recorded as they pass. The instruments are made once the process has a
MeterProvider, whenever somebody sets it: until then the durations of the first connects are kept.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Literal, NamedTuple

from .. import __version__
from ..listener import AcquireEnded, Connected, Listener, Returned
from .figures import Figures, figures, forget

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation

__all__ = [
    "BUCKETS",
    "INSTRUMENTS",
    "POOL_NAME",
    "Instrument",
    "MetricListener",
    "UseListener",
    "look",
]

logger = logging.getLogger("poolguard")

BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Seconds. The SDK's own suit milliseconds."""
KEPT = 500
"""Durations kept while there is no provider."""
NEW_FOR = 1.0
"""Seconds for which figures once read serve the other instruments of one collection."""
POOL_NAME = "db.client.connection.pool.name"
"""The attribute that all of them have."""

CREATE_TIME = "db.client.connection.create_time"
WAIT_TIME = "db.client.connection.wait_time"
USE_TIME = "db.client.connection.use_time"


class Instrument(NamedTuple):
    """One metric, as a backend sees it."""

    name: str
    kind: Literal["counter", "updowncounter", "gauge", "histogram"]
    unit: str
    description: str
    attribute: str | None = None
    """What tells its series of one pool apart."""


INSTRUMENTS = (
    Instrument(
        "db.client.connection.count",
        "updowncounter",
        "{connection}",
        "The number of connections that are currently in state described by the state attribute.",
        "db.client.connection.state",
    ),
    Instrument(
        "db.client.connection.idle.max",
        "updowncounter",
        "{connection}",
        "The maximum number of idle open connections allowed.",
    ),
    Instrument(
        "db.client.connection.idle.min",
        "updowncounter",
        "{connection}",
        "The minimum number of idle open connections allowed: the floor that is kept warm.",
    ),
    Instrument(
        "db.client.connection.max",
        "updowncounter",
        "{connection}",
        "The maximum number of open connections allowed.",
    ),
    Instrument(
        "db.client.connection.limit",
        "updowncounter",
        "{connection}",
        "The maximum number of open connections allowed: the name to come of "
        "db.client.connection.max.",
    ),
    Instrument(
        "db.client.connection.pending_requests",
        "updowncounter",
        "{request}",
        "The number of current pending requests for an open connection.",
    ),
    Instrument(
        "db.client.connection.timeouts",
        "counter",
        "{timeout}",
        "The number of connection timeouts that have occurred trying to obtain a connection from "
        "the pool.",
    ),
    Instrument(
        CREATE_TIME,
        "histogram",
        "s",
        "The time it took to create a new connection.",
    ),
    Instrument(
        WAIT_TIME,
        "histogram",
        "s",
        "The time it took to obtain an open connection from the pool, where none was free.",
    ),
    Instrument(
        USE_TIME,
        "histogram",
        "s",
        "The time between borrowing a connection and returning it to the pool.",
    ),
    Instrument(
        "poolguard.acquires",
        "counter",
        "{acquire}",
        "How often somebody asked for a connection, by what came of it.",
        "poolguard.acquire.outcome",
    ),
    Instrument(
        "poolguard.connections.created",
        "counter",
        "{connection}",
        "Connections that were opened, by the reason.",
        "poolguard.create.reason",
    ),
    Instrument(
        "poolguard.connections.closed",
        "counter",
        "{connection}",
        "Connections that have ended, by the reason.",
        "poolguard.close.reason",
    ),
    Instrument(
        "poolguard.budget.limit",
        "gauge",
        "{connection}",
        "Connections that all workers of the ledger may hold together. Each of them reports the "
        "same ledger: take the maximum, never the sum.",
    ),
    Instrument(
        "poolguard.budget.in_use",
        "gauge",
        "{connection}",
        "Connections that all workers of the ledger hold together. Each of them reports the same "
        "ledger: take the maximum, never the sum.",
    ),
    Instrument(
        "poolguard.warmup.duration",
        "gauge",
        "s",
        "The time from the opening of the pool until it reached its floor.",
    ),
)
"""All that there are."""


class _Round:
    """The pools' figures, read once for all instruments of one collection.

    The API does not tell a callback which collection asks. Each asks every instrument once, so a
    second question for the same one is the next collection's.
    """

    def __init__(self) -> None:
        self._figures: dict[str, Figures] = {}
        self._told: set[str] = set()
        self._read_at = -NEW_FOR

    def series(self, instrument: str) -> Iterable[tuple[str, str, float]]:
        """The pool, the value of the instrument's own attribute, and the figure."""
        now = monotonic()
        if instrument in self._told or now - self._read_at >= NEW_FOR:
            self._figures, self._read_at = figures(), now
            self._told = set()
        self._told.add(instrument)
        for pool, found in self._figures.items():
            for value, figure in found.get(instrument, {}).items():
                yield pool, value, figure


class _Made:
    """The instruments of one provider."""

    def __init__(self, provider: MeterProvider) -> None:
        self.provider = provider
        self.histograms: dict[str, Histogram] = {}
        self._round = _Round()
        meter = provider.get_meter("poolguard", __version__)
        make = {
            "counter": meter.create_observable_counter,
            "updowncounter": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for each in INSTRUMENTS:
            if each.kind == "histogram":
                self.histograms[each.name] = meter.create_histogram(
                    each.name,
                    each.unit,
                    each.description,
                    explicit_bucket_boundaries_advisory=BUCKETS,
                )
            else:
                observe = partial(self._observe, each)
                make[each.kind](each.name, [observe], each.unit, each.description)

    def _observe(self, each: Instrument, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [
            Observation(
                figure, {POOL_NAME: pool} | ({} if not each.attribute else {each.attribute: value})
            )
            for pool, value, figure in self._round.series(each.name)
        ]


class _Recorder:
    """Where durations go: to the histograms, or to a shelf until there are any."""

    def __init__(self) -> None:
        self._made: _Made | None = None
        self._last: _Made | None = None
        """Those made last, also by the parent of this process."""
        self._refused: MeterProvider | None = None
        """One for which they could not be made."""
        self._failed = False
        self._kept: deque[tuple[str, float, str]] = deque()
        self._lock = threading.Lock()
        self._making: threading.Thread | None = None

    def record(self, name: str, seconds: float, pool: str) -> None:
        made = self._made
        if made is not None:
            made.histograms[name].record(seconds, {POOL_NAME: pool})
            return
        if len(self._kept) < KEPT:
            self._kept.append((name, seconds, pool))
        self.look()

    def look(self, wait: float = 0.0) -> None:
        if "opentelemetry.metrics" not in sys.modules:
            return
        with self._lock:
            if self._making is None and (provider := self._new_provider()) is not None:
                thread = threading.Thread(
                    target=Context().run,  # what is recorded now is no part of the trace at hand
                    args=(self._make, provider),
                    name="poolguard-metrics",
                    daemon=True,
                )
                self._making = thread
                try:
                    thread.start()
                except RuntimeError:  # the process may have no more threads: later, then
                    self._making = None
            making = self._making
        if making is None:
            self._unpack()  # what was kept while they were being made
        elif wait > 0:
            making.join(wait)

    def _new_provider(self) -> MeterProvider | None:
        """The process' provider, if its instruments are yet to be made."""
        from opentelemetry.metrics import get_meter_provider  # waits for who is importing it

        try:
            provider = get_meter_provider()
        except Exception as error:  # noqa: BLE001 - the environment may name one that fails to load
            if not self._failed:
                logger.warning("poolguard's metrics are not recorded: %r", error)
            self._failed = True
            return None
        if type(provider).__name__ == "_ProxyMeterProvider":  # until another one is set
            return None
        known = (self._made and self._made.provider, self._refused)
        return None if any(provider is each for each in known) else provider

    def _make(self, provider: MeterProvider) -> None:
        try:
            if self._last is None or self._last.provider is not provider:
                self._last = _Made(provider)
            self._made = self._last  # those of a provider that has come through a fork go on
            self._unpack()
        except Exception:
            self._refused = provider
            logger.exception("poolguard's metrics could not be set up: they are not recorded")
        finally:
            self._making = None

    def _unpack(self) -> None:
        while self._made is not None and self._kept:
            try:
                name, seconds, pool = self._kept.popleft()
            except IndexError:
                return  # another thread does the rest
            self._made.histograms[name].record(seconds, {POOL_NAME: pool})

    def forget(self) -> None:
        """In a forked child: the durations are the parent's, and its provider may be another."""
        self._made, self._making = None, None
        self._kept.clear()
        self._lock = threading.Lock()


_recorder = _Recorder()


def look(wait: float = 0.0) -> None:
    """Have the instruments made if the process has a provider by now.

    That is done in a thread of its own, for which this waits at most *wait* seconds: it must wait
    for a collection that is under way, and one that was so at a fork does not end in the child.
    """
    _recorder.look(wait)


class MetricListener(Listener):
    """Records how long connects took, and acquires that had to wait."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def acquire_ended(self, event: AcquireEnded, /) -> None:
        if event.outcome in ("waited", "created"):
            _recorder.record(WAIT_TIME, event.ended - event.began, event.pool)

    def connected(self, event: Connected, /) -> None:
        _recorder.record(CREATE_TIME, event.ended - event.began, event.pool)


class UseListener(MetricListener):
    """Records how long connections are lent as well: one record more for each acquire."""

    def returned(self, event: Returned, /) -> None:
        _recorder.record(USE_TIME, event.ended - event.began, event.pool)


def _after_fork_in_child() -> None:
    forget()
    _recorder.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
