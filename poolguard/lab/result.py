"""What a run of the demo has measured: plain data, and all that its reports know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..telemetry.recorded import Span

__all__ = ["Comparison", "Run", "Sample", "Span"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of the open-loop load."""

    at: float
    """When it was meant to start, in seconds since the traffic began."""
    latency: float
    """Seconds from the *intended* start to the end of the response, so that no stall is hidden."""
    status: int
    """The HTTP status; 0 where no answer came (refused, reset, timed out)."""
    phase: str
    """The ``name`` of the story's phase it belongs to."""
    created: bool = False
    """Whether it was served by a connection that was opened while it waited for one."""

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 400


@dataclass(frozen=True, slots=True)
class Run:
    """One contender under the whole story."""

    name: str
    samples: tuple[Sample, ...]
    opened: tuple[float, ...]
    """When the server saw each connection arrive, in seconds since the traffic began; negative
    before it."""
    connections: tuple[tuple[float, int], ...]
    """Server connections over time, sampled: (seconds since the traffic began, how many)."""
    budget: int
    """Server connections that the contender was told it may use."""
    lag: float
    """By how many seconds the load generator itself was late at worst."""
    spans: tuple[Span, ...] = ()

    @property
    def peak(self) -> int:
        return max((n for _, n in self.connections), default=0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both contenders under the same story, and what a reader must know to judge them."""

    phases: tuple[tuple[str, str, float, float], ...]
    """(name, title, start, end) of each phase, in seconds since the traffic began."""
    runs: tuple[Run, ...]
    """The ordinary pool first, poolguard last."""
    facts: Mapping[str, str]
    """Versions and conditions, in the order in which they are to be read."""
