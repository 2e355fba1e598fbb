"""Events of the matrix: how a worker begins, with the database there, slow, away or full."""

from __future__ import annotations

from collections.abc import Mapping

from ..doors.server import SYNC
from .stage import Event, Stage

__all__ = ["EVENTS"]


def first_requests(stage: Stage) -> str:
    """The first 30 requests create nothing and wait for nothing, where connects take 150 ms."""
    at_once = 1 if stage.door is SYNC else 3
    with stage.network() as network:
        server = stage.serve(stage.dsn(network), POOLGUARD_BUDGET="8", POOLGUARD_FLOOR=str(at_once))
        for _ in range(30 // at_once):
            answers = server.get_together(*["/query"] * at_once)
            assert [answer.status for answer in answers] == [200] * at_once
        status = server.status()
    assert status["acquires"] == {"acquired": 30}
    assert status["created"] == {"warmup": at_once}
    return "30 acquired"


EVENTS: Mapping[str, Event] = {"first requests": first_requests}
