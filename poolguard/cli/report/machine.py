"""The comparison as JSON, for scripts and for continuous integration."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...lab.result import Comparison, Run
from .summary import caveats, factor, summarise, verdict

__all__ = ["VERSION", "to_json"]

VERSION = 1
"""It is raised when a key changes its meaning or goes, and not when keys are added."""


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that was measured as JSON-ready data, the figures first.

    All times are seconds; moments count from the beginning of the traffic. The keys are stable:

    ``version``
        1.
    ``verdict``, ``factor``, ``caveats``
        The sentence; the ordinary pool's maximum ÷ poolguard's, or null; a list of sentences.
    ``summary``
        A list, the ordinary pool first, of ``{name, requests, failed, p50, p99, maximum,
        created_during, created_outside_burst, opened, opened_before, peak, budget, lag,
        slowest_by_phase: {phase: seconds}}``.
    ``facts``
        ``{name: value}``: versions and conditions.
    ``phases``
        A list of ``{name, title, start, end}``.
    ``runs``
        A list in the order of ``summary`` of ``{name, budget, lag, samples, opened, connections,
        spans}``, where ``samples`` are ``{at, latency, status, phase, created}`` (``status`` is 0
        where no answer came), ``opened`` is a list of moments, ``connections`` a list of
        ``[moment, count]``, and ``spans`` are ``{name, kind, trace_id, span_id, parent_id, start,
        end, attributes}`` with ``start`` and ``end`` in seconds since the epoch.
    """
    return {
        "version": VERSION,
        "verdict": verdict(comparison),
        "factor": factor(comparison),
        "caveats": caveats(comparison),
        "summary": [asdict(summarise(run)) for run in comparison.runs],
        "facts": dict(comparison.facts),
        "phases": [
            {"name": name, "title": title, "start": start, "end": end}
            for name, title, start, end in comparison.phases
        ],
        "runs": [_run(run) for run in comparison.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "budget": run.budget,
        "lag": run.lag,
        "samples": [asdict(sample) for sample in run.samples],
        "opened": list(run.opened),
        "connections": [[at, count] for at, count in run.connections],
        # by hand: asdict would deep-copy attributes, and a mappingproxy refuses to be copied
        "spans": [
            {
                "name": span.name,
                "kind": span.kind,
                "trace_id": span.trace_id,
                "span_id": span.span_id,
                "parent_id": span.parent_id,
                "start": span.start,
                "end": span.end,
                "attributes": dict(span.attributes),
            }
            for span in run.spans
        ],
    }
