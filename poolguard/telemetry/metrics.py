"""The pools' metrics: OpenTelemetry's conventional ones for connection pools, and poolguard's own.

What a pool counts and has is read when a reader collects; nothing is counted for it on a request's
way. Imported where there is a MeterProvider: all others are spared it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..util.version import __version__
from .figures import Figures, figures
from .names import CREATE_TIME, POOL_NAME, USE_TIME, WAIT_TIME
from .serving import context_of

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
    from opentelemetry.trace import Span

__all__ = ["BUCKETS", "INSTRUMENTS", "Instrument", "Made"]

BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Seconds. The SDK's own suit milliseconds."""
NEW_FOR = 1.0
"""Seconds for which figures once read serve the other instruments of one collection."""


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
        "The minimum number of idle open connections allowed: the level that is kept warm.",
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
        "poolguard.connections.floor",
        "updowncounter",
        "{connection}",
        "The connections that are kept warm, and are guaranteed.",
    ),
    Instrument(
        "poolguard.connections.expected",
        "updowncounter",
        "{connection}",
        "The level that is kept warm while nobody else needs the slots, by why it is that: 0 for "
        "all reasons but the one that holds.",
        "poolguard.expected.reason",
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
        "poolguard.budget.guaranteed",
        "gauge",
        "{connection}",
        "Connections that this host can have at any time, whatever other hosts of the fleet need.",
    ),
    Instrument(
        "poolguard.budget.fair",
        "gauge",
        "{connection}",
        "Connections that this host can have while other hosts of the fleet want the rest.",
    ),
    Instrument(
        "poolguard.budget.fleet.limit",
        "gauge",
        "{connection}",
        "The budget of the whole fleet, of which each host has one for its control session. Each "
        "host reports the same fleet: take the maximum, never the sum.",
    ),
    Instrument(
        "poolguard.budget.fleet.granted",
        "gauge",
        "{connection}",
        "Connections that the hosts of the fleet were granted for their pools, used or free.",
    ),
    Instrument(
        "poolguard.budget.fleet.in_use",
        "gauge",
        "{connection}",
        "Connections that the pools of all hosts of the fleet hold together.",
    ),
    Instrument(
        "poolguard.budget.fleet.needed",
        "gauge",
        "{connection}",
        "Connections that hosts of the fleet need, and have not found.",
    ),
    Instrument(
        "poolguard.budget.fleet.hosts",
        "gauge",
        "{host}",
        "The hosts of the fleet.",
    ),
    Instrument(
        "poolguard.budget.fleet.unreachable",
        "gauge",
        "{ledger}",
        "1 while this host cannot use the fleet's ledger, and opens no connection, else 0.",
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
        is_next = instrument in self._told
        if is_next or now - self._read_at >= NEW_FOR:
            self._figures, self._read_at = figures(), now
        if is_next:  # not for a collection that takes long: the next one would take old figures
            self._told = set()
        self._told.add(instrument)
        for pool, found in self._figures.items():
            for value, figure in found.get(instrument, {}).items():
                yield pool, value, figure


class Made:
    """The instruments of one provider. Making them waits for a collection that is under way."""

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

    def record(self, histogram: str, seconds: float, pool: str, span: Span | None) -> None:
        """Record it in the context of *span*, to which its exemplar leads; None has no exemplar."""
        self.histograms[histogram].record(seconds, {POOL_NAME: pool}, context_of(span))

    def _observe(self, each: Instrument, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        # Who collects may be a request that has a span; the figures are none of its trace.
        context = context_of(None)
        return [
            Observation(
                figure,
                {POOL_NAME: pool} | ({} if not each.attribute else {each.attribute: value}),
                context,
            )
            for pool, value, figure in self._round.series(each.name)
        ]
