"""Computes the figures of a run and the verdict on two, once for all that shows them.

Percentiles are nearest-rank, so each is the latency of a request that really happened. They are
taken over *all* requests: a failed one counts with the time until it failed. Failing fast could
still flatter a run, so the verdict never prefers the one that failed more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...lab.result import Comparison, Run

__all__ = [
    "BURST",
    "Row",
    "Summary",
    "caveats",
    "clock",
    "factor",
    "percentile",
    "rows",
    "summarise",
    "verdict",
]

BURST = "burst"
"""The one phase in which any pool has to open connections during requests."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run; times in seconds, None where there was no request to measure."""

    name: str
    requests: int
    failed: int
    p50: float | None
    p99: float | None
    maximum: float | None
    created_during: int
    """Requests served by a connection that was opened while they waited for one.

    May exceed ``opened``: several that wait can be served by one new connection in turn.
    """
    created_outside_burst: int
    opened: int
    """Connections that the server saw arrive, in all."""
    opened_before: int
    """How many of them arrived before the traffic began."""
    peak: int
    budget: int
    lag: float
    slowest_by_phase: Mapping[str, float]
    """The maximum of each phase that had requests, by the phase's name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the side-by-side table: a label, and a value for each run."""

    label: str
    values: tuple[str, ...]
    detail: bool = False
    """Whether it is a part of the row above it."""


def percentile(latencies: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile of *sorted* latencies; ``share`` is 0.99 for the 99th."""
    if not latencies:
        return None
    return latencies[max(1, math.ceil(share * len(latencies))) - 1]


def summarise(run: Run) -> Summary:
    """All figures of one run."""
    latencies = sorted(sample.latency for sample in run.samples)
    created = [sample for sample in run.samples if sample.created]
    slowest: dict[str, float] = {}
    for sample in run.samples:
        slowest[sample.phase] = max(sample.latency, slowest.get(sample.phase, 0.0))
    return Summary(
        name=run.name,
        requests=len(latencies),
        failed=sum(sample.failed for sample in run.samples),
        p50=percentile(latencies, 0.50),
        p99=percentile(latencies, 0.99),
        maximum=latencies[-1] if latencies else None,
        created_during=len(created),
        created_outside_burst=sum(sample.phase != BURST for sample in created),
        opened=len(run.opened),
        opened_before=sum(at < 0 for at in run.opened),
        peak=run.peak,
        budget=run.budget,
        lag=run.lag,
        slowest_by_phase=slowest,
    )


def factor(comparison: Comparison) -> float | None:
    """The ordinary pool's maximum ÷ poolguard's: above 1 where poolguard is faster."""
    ordinary, guarded = _contenders(comparison)
    if not ordinary.maximum or not guarded.maximum:
        return None
    return ordinary.maximum / guarded.maximum


def verdict(comparison: Comparison) -> str:
    """The outcome in one sentence, whichever way it went."""
    ordinary, guarded = _contenders(comparison)
    ratio = factor(comparison)
    if ratio is None:
        return "There is no verdict: one of the runs has no request to measure."
    times = (
        f"poolguard's slowest request took {clock(guarded.maximum)}, "
        f"the ordinary pool's {clock(ordinary.maximum)}"
    )
    if guarded.failed * ordinary.requests > ordinary.failed * guarded.requests:
        return (
            f"poolguard failed {guarded.failed:,} of {guarded.requests:,} requests, the ordinary "
            f"pool {ordinary.failed or 'none'}: that outweighs any time. {times}."
        )
    if ratio >= 1.05:
        return f"{times}: {_times(ratio)} as long."
    if ratio > 1 / 1.05:
        return f"{times}: about the same."
    return f"{times}: here poolguard was the slower one, {_times(1 / ratio)} as long."


def caveats(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the verdict; empty when all is well."""
    found = []
    for summary in map(summarise, comparison.runs):
        if summary.failed:
            found.append(
                f"{summary.name}: {summary.failed:,} of {summary.requests:,} requests failed."
            )
        if summary.peak > summary.budget:
            found.append(
                f"{summary.name}: {summary.peak} server connections at once, "
                f"over its budget of {summary.budget}."
            )
        if summary.maximum and summary.lag > summary.maximum / 10:
            found.append(
                f"{summary.name}: the load generator itself was up to {clock(summary.lag)} late; "
                "smaller differences mean nothing."
            )
    return found


def rows(comparison: Comparison) -> list[Row]:
    """The side-by-side table, without its header."""
    runs = [summarise(run) for run in comparison.runs]

    def row(label: str, *values: str, detail: bool = False) -> Row:
        return Row(label, values, detail)

    return [
        row("requests", *(f"{s.requests:,}" for s in runs)),
        row("failed", *(f"{s.failed:,}" for s in runs)),
        row("median latency", *(clock(s.p50) for s in runs)),
        row("99th percentile", *(clock(s.p99) for s in runs)),
        row("slowest request", *(clock(s.maximum) for s in runs)),
        *(
            row(title, *(clock(s.slowest_by_phase.get(name)) for s in runs), detail=True)
            for name, title, _, _ in comparison.phases
        ),
        row("requests whose connection was created", *(f"{s.created_during:,}" for s in runs)),
        row(
            "of these outside the burst",
            *(f"{s.created_outside_burst:,}" for s in runs),
            detail=True,
        ),
        row("connections opened in all", *(f"{s.opened:,}" for s in runs)),
        row("of these before the traffic", *(f"{s.opened_before:,}" for s in runs), detail=True),
        row("most server connections / budget", *(f"{s.peak} / {s.budget}" for s in runs)),
        row("load generator late by at most", *(clock(s.lag) for s in runs)),
    ]


def clock(seconds: float | None) -> str:
    """A duration as people say it: ``20 µs``, ``6.1 ms``, ``251 ms``, ``1.62 s``."""
    if seconds is None:
        return "–"
    milliseconds = seconds * 1000
    if milliseconds >= 999.5:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:,.1f} s"
    if milliseconds >= 9.95:
        return f"{milliseconds:.0f} ms"
    if milliseconds >= 0.0995:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds * 1000:.0f} µs" if seconds > 0 else "0 ms"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 9.95 else f"{ratio:,.0f} times"


def _contenders(comparison: Comparison) -> tuple[Summary, Summary]:
    return summarise(comparison.runs[0]), summarise(comparison.runs[-1])
