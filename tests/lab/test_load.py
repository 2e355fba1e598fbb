"""The load's clients give up when they are told to."""

from __future__ import annotations

import asyncio
from time import monotonic

from poolguard.lab.load import drive
from poolguard.lab.server import listen
from poolguard.lab.story import Arrival


def test_a_client_gives_up_in_the_time_it_is_given() -> None:
    with listen() as listener:  # its backlog takes the request, which is not answered
        arrivals = [Arrival(0.0, "day")]
        driven = drive(listener.getsockname(), arrivals, began=monotonic(), give_up=0.2)
        (sample,), _ = asyncio.run(driven)
    assert sample.failed
    assert sample.status == 0
    assert 0.2 <= sample.latency < 5
