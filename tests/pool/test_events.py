"""Events are told to every listener, and none can harm another or the pool."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from poolguard.pool.events import (
    AcquireEnded,
    Closed,
    Connected,
    ConnectFailed,
    Leak,
    Listener,
    Listeners,
    Place,
    Returned,
    Warmed,
    hears_acquires,
    hears_returns,
)

CONNECTED = Connected("main", "warmup", 1.0, 2.0, Place("db", 5432, "shop"))
EVENTS = {
    "acquire_ended": AcquireEnded("main", "created", 1.5, 2.5, CONNECTED),
    "returned": Returned("main", 2.5, 3.0),
    "connected": CONNECTED,
    "connect_failed": ConnectFailed("main", "growth", 1.0, 2.0, "OperationalError: no"),
    "closed": Closed("main", "idle", 60.0),
    "warmed": Warmed("main", 2, 2, 0.1),
    "leak": Leak("main", "overdue", 12.5, "GET /orders", ("shop.py:7 in orders",), 1),
}


class Recorder(Listener):
    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def acquire_ended(self, event: AcquireEnded, /) -> None:
        self.told.append(("acquire_ended", event))

    def returned(self, event: Returned, /) -> None:
        self.told.append(("returned", event))

    def connected(self, event: Connected, /) -> None:
        self.told.append(("connected", event))

    def connect_failed(self, event: ConnectFailed, /) -> None:
        self.told.append(("connect_failed", event))

    def closed(self, event: Closed, /) -> None:
        self.told.append(("closed", event))

    def warmed(self, event: Warmed, /) -> None:
        self.told.append(("warmed", event))

    def leak(self, event: Leak, /) -> None:
        self.told.append(("leak", event))


class Failing(Listener):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __repr__(self) -> str:
        raise self._error

    def _fail(self, event: Any, /) -> None:
        raise self._error

    acquire_ended = returned = connected = connect_failed = closed = warmed = leak = _fail


def tell_all(listener: Listener) -> None:
    for name, event in EVENTS.items():
        getattr(listener, name)(event)


def test_every_event_is_there_with_a_method_of_its_own() -> None:
    methods = {name for name, is_ in vars(Listener).items() if name[0] != "_" and callable(is_)}
    assert methods == EVENTS.keys()


def test_a_listener_may_leave_out_what_it_does_not_need() -> None:
    tell_all(Listener())


def test_each_is_told_everything() -> None:
    one, other = Recorder(), Recorder()
    tell_all(Listeners([one, other]))
    assert one.told == other.told == list(EVENTS.items())


def test_one_that_fails_is_logged_and_the_next_is_told(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    tell_all(Listeners([Failing(RuntimeError("broken")), recorder]))
    assert recorder.told == list(EVENTS.items())
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * len(EVENTS)
    assert all(record.exc_info for record in caplog.records)
    assert "Warmed(pool='main', asked=2" in caplog.text


class Callback:
    """It cannot be hashed, and shows what it has."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, event: Any, /) -> None:
        raise RuntimeError("broken")

    def __repr__(self) -> str:
        return "s3cret"


def test_one_that_fails_may_be_any_object(caplog: pytest.LogCaptureFixture) -> None:
    class Delegating(Listener):
        def __getattribute__(self, name: str) -> Any:
            return Callback()

    class Empty:
        """It lacks all methods."""

    recorder = Recorder()
    tell_all(Listeners([Delegating(), Empty(), recorder]))  # type: ignore[list-item]
    assert recorder.told == list(EVENTS.items())
    assert len(caplog.records) == 2 * len(EVENTS)
    assert "s3cret" not in caplog.text


def test_what_is_meant_to_end_the_process_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        Listeners([Failing(KeyboardInterrupt())]).warmed(Warmed("main", 1, 1, 0.1))


class Acquires(Listener):
    def acquire_ended(self, event: AcquireEnded, /) -> None: ...


class Returns(Listener):
    def returned(self, event: Returned, /) -> None: ...


@pytest.mark.parametrize(
    ("listener", "acquires", "returns"),
    [
        (Listener(), False, False),
        (Acquires(), True, False),
        (Returns(), False, True),
        (Listeners([]), False, False),
        (Listeners([Listener(), Listeners([Acquires()])]), True, False),
        (Listeners([Listener(), Listeners([Returns()])]), False, True),
        (Recorder(), True, True),
    ],
)
def test_who_hears_what_happens_often(listener: Listener, acquires: bool, returns: bool) -> None:
    """What nobody hears is not told: an event costs time."""
    assert (hears_acquires(listener), hears_returns(listener)) == (acquires, returns)


@pytest.mark.parametrize("event", [*EVENTS.values(), CONNECTED.place])
def test_events_cannot_be_changed(event: Any) -> None:
    with pytest.raises(AttributeError):
        setattr(event, event._fields[0], None)


def test_repr_names_the_listeners_and_does_not_ask_them() -> None:
    assert repr(Listeners([Failing(ValueError())])) == "<Listeners Failing>"
