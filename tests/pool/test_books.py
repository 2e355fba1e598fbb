"""The books of a pool: what is counted when two things happen at once, and what is logged."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from poolguard.budget.ledger import Slot, StaticLedger
from poolguard.listener import Place
from poolguard.pool._seams import Counts
from poolguard.pool.books import Books
from poolguard.pool.seat import Seat
from poolguard.pool.upkeep import Pace
from tests.pool.support import Recorder

PLACE = Place("db", 5432, "shop")


def books(recorder: Recorder | None = None, **arguments: Any) -> Books:
    made = Books(
        ledger=arguments.pop("ledger", None),
        listener=recorder or Recorder(),
        pace=Pace(25.0, 1.0, 600.0),
        max_connecting=32,
        max_lifetime=3600.0,
        reconnect_timeout=arguments.pop("reconnect_timeout", math.inf),
    )
    made.opened("shop", 1000.0, lambda: None)
    return made


@pytest.mark.parametrize("order", ["end first", "told between", "connect first"])
def test_the_end_of_a_connection_is_counted_once(order: str) -> None:
    """Whether the watch tells of it before, while or after its connect is booked."""
    recorder = Recorder()
    made = books(recorder)
    seat = Seat(Slot(0), 1000.0)
    made.opening = 1
    if order == "end first":
        seat.gone = True
        made.ended(seat)
    if order == "told between":
        seat.gone = True
    made.connected(seat, "growth", PLACE)
    if order != "end first":
        made.ended(seat)
    made.tell()
    assert recorder.closes == ["lost"]
    assert made.status(Counts(0, 0, 0, 0, 0, 1, 0))["closed"] == {"lost": 1}


def test_a_slot_is_given_back_once() -> None:
    ledger = StaticLedger(2)
    made = books(ledger=ledger)
    (slot,) = ledger.lease(1)
    seat = Seat(slot, 1000.0)
    made.ended(seat)
    made.ended(seat)
    made.lessee.vacate(seat)
    assert ledger.in_use == 0


def test_a_long_outage_is_told_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    recorder = Recorder()
    made = books(recorder)
    made.opening = 1000
    for _ in range(1000):
        made.connect_failed(Seat(None, 1000.0), "growth", OSError("away"))
    made.tell()
    assert len(caplog.records) == 10
    assert {record.name for record in caplog.records} == {"psycopg.pool"}
    assert len(recorder.failures) == 1000


def test_giving_up_is_told_once_in_each_reconnect_timeout() -> None:
    made = books(reconnect_timeout=0.0)
    made.opening = 3
    assert made.connect_failed(Seat(None, 0.0), "growth", OSError())
    made = books(reconnect_timeout=1e9)
    made.opening = 3
    assert not made.connect_failed(Seat(None, 0.0), "growth", OSError())
