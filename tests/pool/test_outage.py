"""When a server that is away is tried again, and what is said of it: times in, times out."""

from __future__ import annotations

import math

import pytest

from poolguard.pool.outage import (
    JITTER,
    RETRY_AFTER,
    RETRY_WHEN_ASKED,
    RETRY_WHEN_CLOSED,
    RETRY_WHEN_REFUSED,
    Failure,
    Outage,
)

NOW = 1000.0


def failing(times: int = 1, *, reconnect_timeout: float = math.inf) -> Outage:
    """One in which so many connects have failed, each at once, a second apart, the last at NOW."""
    outage = Outage(reconnect_timeout)
    for ago in reversed(range(times)):
        outage.failed(NOW - ago, NOW - ago, "away")
    return outage


def test_while_connecting_works_there_is_nothing_to_wait_for() -> None:
    outage = Outage(300.0)
    assert outage.retry_at(asked=True) is None
    assert not outage.lasts
    outage.failed(NOW, NOW, "away")
    assert (outage.lasts, outage.last_error) == (True, "away")
    outage.ended()
    assert (outage.lasts, outage.last_error, outage.retry_at(asked=False)) == (False, None, None)


@pytest.mark.parametrize(("asked", "delay"), [(False, RETRY_AFTER), (True, RETRY_WHEN_ASKED)])
def test_it_is_tried_again_after_a_while_but_not_by_all_in_step(
    *, asked: bool, delay: float
) -> None:
    delays = {failing().retry_at(asked=asked) for _ in range(50)}
    assert len(delays) == 50
    for at in delays:
        assert at is not None
        assert (1 - JITTER) * delay <= at - NOW <= (1 + JITTER) * delay


def test_the_delay_does_not_grow() -> None:
    at = failing(1000).retry_at(asked=False)
    assert at is not None
    assert at - NOW <= (1 + JITTER) * RETRY_AFTER


def test_a_server_without_room_is_no_outage() -> None:
    """It serves the connections that stand; who waits is not to wait for a server that is away."""
    outage = Outage(math.inf)
    outage.failed(NOW, NOW, "too many clients", refused=True)
    assert (outage.lasts, outage.refused, outage.last_error) == (False, True, "too many clients")
    at, soon = outage.retry_at(asked=True), outage.retry_at(asked=True, closed=True)
    assert at is not None
    assert soon is not None
    assert (1 - JITTER) * RETRY_WHEN_REFUSED <= at - NOW <= (1 + JITTER) * RETRY_WHEN_REFUSED
    assert soon - NOW <= (1 + JITTER) * RETRY_WHEN_CLOSED
    outage.failed(NOW, NOW, "away")
    assert (outage.lasts, outage.refused) == (True, False)
    outage.ended()
    assert not outage.refused


def test_few_of_many_failures_are_said() -> None:
    outage = Outage(math.inf)
    said = [n for n in range(1, 40) if outage.failed(NOW, NOW, "away").is_said]
    assert said == [1, 2, 4, 8, 16, 32]
    outage.ended()
    assert outage.failed(NOW, NOW, "away again").is_said


def test_it_gives_up_once_in_each_reconnect_timeout_and_goes_on() -> None:
    """Counted from the begin of the first connect that failed."""
    outage = Outage(10.0)
    gave_up = [
        NOW + after
        for after in range(5, 40, 5)
        if outage.failed(NOW + after - 5, NOW + after, "away").gives_up
    ]
    assert gave_up == [NOW + 10, NOW + 20, NOW + 30]
    assert outage.retry_at(asked=False) is not None


def test_whoever_is_to_be_told_first_is_told_in_time() -> None:
    """A probe is due then; later ones do not follow each other because of it."""
    outage = Outage(0.5)
    outage.failed(NOW, NOW, "away")
    assert outage.retry_at(asked=False) == NOW + 0.5
    assert outage.failed(NOW + 0.5, NOW + 0.5, "away") == Failure(is_said=True, gives_up=True)
    at = outage.retry_at(asked=False)
    assert at is not None
    assert at >= NOW + 0.5 + (1 - JITTER) * RETRY_AFTER


def test_an_outage_begins_anew_after_a_connect_that_ended_well() -> None:
    outage = failing(3, reconnect_timeout=2.5)
    outage.ended()
    assert not outage.failed(NOW + 10, NOW + 10, "away").gives_up


def test_its_repr_says_how_bad_it_is() -> None:
    assert repr(failing(3)) == "<Outage 3 failed, away>"
