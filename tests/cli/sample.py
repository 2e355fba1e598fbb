"""A comparison made up from a fixed seed: what a demo run looks like, without running one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from poolguard.lab.result import Comparison, Run, Sample, Span

__all__ = ["DAY", "PHASES", "Tags", "against", "comparison", "run_of"]

Tags = dict[str, str | int | float | bool]

PHASES = (
    ("cold", "cold start", 0.0, 4.0),
    ("day", "steady day", 4.0, 9.0),
    ("night", "quiet night", 9.0, 14.0),
    ("morning", "morning ramp", 14.0, 19.5),
    ("burst", "burst", 19.5, 24.0),
)
DAY = (("day", "the day", 0.0, 10.0),)
EPOCH = 1_790_000_000.0

Queue = tuple[float, float, float]
"""(when it builds up, how long its first request waits, how fast it drains)."""


def run_of(*latencies: float, name: str = "pool", failed: int = 0, **fields: Any) -> Run:
    """A run of one phase, a request a second, the first ``failed`` of them refused."""
    samples = tuple(
        Sample(at=at + 0.5, latency=latency, status=0 if at < failed else 200, phase="day")
        for at, latency in enumerate(latencies)
    )
    values: dict[str, Any] = {"opened": (), "connections": (), "budget": 10, "lag": 0.0}
    return Run(name=name, samples=samples, **(values | fields))


def against(ordinary: Run, guarded: Run) -> Comparison:
    return Comparison(DAY, (ordinary, guarded), {})


def comparison() -> Comparison:
    """About 4,000 requests a run: spikes without poolguard, and hardly any with it."""
    ordinary = _run(
        "ordinary pool",
        random.Random(1),
        queues=[(0.0, 1.58, 0.8), (14.6, 0.42, 0.5), (15.9, 0.78, 0.6), (17.3, 0.61, 0.7),
                (20.4, 1.21, 0.7)],
        opened=[-0.4, -0.3, -0.2, -0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 14.8, 15.1, 15.9, 16.0,
                16.3, 16.6, 17.3, 17.6, 17.9, *(20.5 + 0.3 * n for n in range(9))],
        held=lambda at: 4 + min(6, int(at / 0.3)) - 5 * (10 < at < 15) + 6 * (at > 21),
        spans=(),
    )  # fmt: skip
    guarded = _run(
        "poolguard",
        random.Random(2),
        queues=[(20.4, 0.21, 1.0), (20.9, 0.12, 1.0)],
        opened=[*(-0.9 + 0.01 * n for n in range(12)), *(20.45 + 0.004 * n for n in range(11))],
        held=lambda at: 12 + 7 * (at > 20.5),
        spans=tuple(_spans()),
    )
    return Comparison(
        phases=PHASES,
        runs=(ordinary, guarded),
        facts={
            "application": "one query of 3 ms a request, 2 workers × 8 threads",
            "traffic": "open loop, the same 4,000 moments for both runs",
            "connect": "150 ms, as over TLS to another zone",
            "budget": "20 server connections",
            "versions": "Python 3.11, gunicorn 27, psycopg_pool 3.3, PostgreSQL 18",
        },
    )


def _run(
    name: str,
    rng: random.Random,
    *,
    queues: list[Queue],
    opened: list[float],
    held: Callable[[float], int],
    spans: tuple[Span, ...],
) -> Run:
    samples = tuple(_samples(rng, queues))
    connections = tuple((tenth / 10, held(tenth / 10)) for tenth in range(241))
    return Run(name, samples, tuple(opened), connections, budget=20, lag=0.0021, spans=spans)


def _samples(rng: random.Random, queues: list[Queue]) -> Iterator[Sample]:
    at = 0.0
    while at < 24.0:
        wait = max((_left(queue, at) for queue in queues), default=0.0)
        latency = rng.lognormvariate(-5.1, 0.35) + wait * rng.uniform(0.75, 1.0)
        phase = next(name for name, _, _, end in PHASES if at < end)
        created = wait > 0.02 and rng.random() < 0.04
        yield Sample(round(at, 4), round(latency, 5), 200, phase, created)
        at += 1 / _rate(at)


def _left(queue: Queue, at: float) -> float:
    since, first, drained = queue
    return max(first - (at - since) * drained, 0.0) if at >= since else 0.0


def _rate(at: float) -> float:
    if 9.0 <= at < 14.0:
        return 6.0
    if 14.0 <= at < 19.5:
        return 60.0 + 38.0 * (at - 14.0)
    if 20.4 <= at < 21.2:
        return 900.0
    return 180.0


def _spans() -> Iterator[Span]:
    for number in range(5):
        yield from _request("acquired", number, wait=0.00002)
        yield from _request("waited", number, wait=0.008 + 0.003 * number)
        yield from _request("created", number, wait=0.151 + 0.004 * number)


def _request(outcome: str, number: int, *, wait: float) -> Iterator[Span]:
    trace, start = f"{outcome}-{number}", EPOCH + number
    acquired = start + 0.0008 + wait
    counted = {} if outcome == "acquired" else {f"poolguard.request.{outcome}_count": 1}
    place: Tags = {
        "server.address": "127.0.0.1",
        "server.port": 5432,
        "db.namespace": "demo",
    }
    tags: Tags = {
        "poolguard.request.outcome": outcome,
        "poolguard.request.acquire_count": 1,
        **counted,
        "poolguard.request.wait_time": wait,
    }
    yield Span("GET /orders", "SERVER", trace, "1", None, start, acquired + 0.0049, tags)
    yield Span(
        "pool.acquire", "INTERNAL", trace, "2", "1", start + 0.0008, acquired,
        {
            "poolguard.acquire.outcome": outcome,
            "poolguard.acquire.wait_time": wait,
            "poolguard.connection.age": 0.0004 if outcome == "created" else 23.4,
            "db.client.connection.pool.name": "default",
            **place,
        },
    )  # fmt: skip
    if outcome == "created":
        yield Span(
            "pool.connect", "CLIENT", trace, "3", "2", start + 0.0011, acquired - 0.0004, place
        )
    yield Span("SELECT orders", "CLIENT", trace, "4", "1", acquired, acquired + 0.0041, place)
