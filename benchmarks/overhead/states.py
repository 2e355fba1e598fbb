"""The states of tracing in which a request is measured, and who plays in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Door = Literal["wsgi", "asgi"]

SAMPLED_GOAL = 0.3
OTHER_GOAL = 0.1
WHO = ("bare", "pool", "ours")
"""psycopg_pool's own pool; the guard's, without the middleware; the guard's, with it."""
UNIT = ("unspanned", "spanned")
"""psycopg_pool's own, below a server span that records; the same with a child span around it: the
difference is the unit. It is taken of whole requests, as what it is compared with: a loop that does
nothing but spans has them in the processor's caches, and makes them look cheaper."""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
"""Of the client: the flag that says whether it is sampled comes after it."""


class State(NamedTuple):
    """What a process has of OpenTelemetry, and what is there when a request enters."""

    goal: float | None
    """At most this part of a recording child span."""
    has: Literal["nothing", "api", "sdk"] = "sdk"
    sampler: Literal["always_on", "always_off", "parent"] = "always_on"
    server_span: bool = True
    """An instrumentation has begun its server span further out."""
    traceparent: str | None = None
    """The request's header."""
    metrics: bool = False


def _own(flag: str) -> State:
    """There is no goal where an own span replaces an instrumentation's: that is not free either."""
    return State(None, sampler="parent", server_span=False, traceparent=TRACEPARENT + flag)


STATES: Mapping[str, State] = {
    "no SDK": State(OTHER_GOAL, has="nothing", server_span=False),
    "API, no SDK": State(OTHER_GOAL, has="api", server_span=False),
    "sampler off": State(OTHER_GOAL, sampler="always_off"),
    "client unsampled": State(OTHER_GOAL, sampler="parent", traceparent=f"{TRACEPARENT}00"),
    "sampled": State(SAMPLED_GOAL),
    "metrics on": State(SAMPLED_GOAL, metrics=True),
    "own span, unsampled": _own("00"),
    "own span": _own("01"),
}
