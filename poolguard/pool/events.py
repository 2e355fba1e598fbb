"""What happens in a pool, as events for listeners: the seam between the pool and telemetry.

Events are plain data with times of :func:`poolguard.util.clock.now`, in seconds: named tuples,
which are made in a fraction of the time that frozen dataclasses take, their classes at each boot as
well. A :class:`Listener` is told of them in the thread or task in which they happen: an acquire in
its request's own context, a connect in an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from ..util.logs import name_of
from ..util.rarely import Failures

__all__ = [
    "AcquireEnded",
    "CloseReason",
    "Closed",
    "ConnectFailed",
    "Connected",
    "CreateReason",
    "Leak",
    "LeakKind",
    "Listener",
    "Listeners",
    "Outcome",
    "Place",
    "Returned",
    "Warmed",
    "hears_acquires",
    "hears_returns",
]

Outcome = Literal["acquired", "waited", "created", "timeout", "rejected", "error"]
"""What an acquire was; :mod:`poolguard.pool.outcomes` has the rules."""

CreateReason = Literal["warmup", "growth", "headroom", "lifetime", "replace"]
"""Why a connection was opened: to reach the floor at first; for a request that waits; in place of
one that is about to expire; in place of one that was lost."""

CloseReason = Literal["lost", "idle", "lifetime", "discarded", "yielded", "shutdown"]
"""Why a connection ended: the server or the network ended it; it was idle above the floor; it was
old; it came back unfit for use, or the pool was drained; another worker of the same budget needed
its slot; the pool was closed."""

LeakKind = Literal["overdue", "returned", "unreturned", "nested", "collected", "abandoned"]
"""What is wrong with a lent connection: it is held longer than ``leak_after``; such a one came back
after all; the request that took it has ended; its request acquires another one of the same pool;
nothing refers to it any more, so that it cannot be returned; the thread, or greenlet, that used it
last has ended, and the pool has taken it back."""


class Place(NamedTuple):
    """Where a connection leads, as libpq resolved it."""

    host: str
    port: int
    database: str


class Connected(NamedTuple):
    """A connection was opened."""

    pool: str
    reason: CreateReason
    began: float
    ended: float
    place: Place


class ConnectFailed(NamedTuple):
    """A connection could not be opened."""

    pool: str
    reason: CreateReason
    began: float
    ended: float
    error: str
    """Fit to be shown: it holds no part of the connection string."""


class AcquireEnded(NamedTuple):
    """An acquire has ended, with a connection or without."""

    pool: str
    outcome: Outcome
    began: float
    ended: float
    connected: Connected | None
    """How the delivered connection came to be; None where none was delivered."""
    place: Place | None = None
    """Where the connection leads, or would have led; None where that is not known yet."""


class Returned(NamedTuple):
    """A connection came back, whether the pool has kept it or not."""

    pool: str
    began: float
    """When it was lent."""
    ended: float


class Closed(NamedTuple):
    """A connection is gone: the server has ended its side too."""

    pool: str
    reason: CloseReason
    age: float


class Warmed(NamedTuple):
    """The pool has reached its floor for the first time."""

    pool: str
    asked: int
    opened: int
    seconds: float


class Leak(NamedTuple):
    """A connection is lent in a way that can empty the pool."""

    pool: str
    kind: LeakKind
    held: float
    """Seconds for which it has been lent."""
    acquirer: str | None
    """The request, as ``GET /path``; None where it is not known."""
    stack: tuple[str, ...]
    """Where it was taken, innermost first; where it is acquired, for ``nested``. Empty where
    ``leak_after`` is 0, except for ``nested``."""
    times: int
    """How often this kind has been noticed in this pool."""


class Listener:
    """Told of a pool's events. Every method does nothing by default: define those you need.

    The methods are called synchronously and must not block. What they raise is logged, the 1st,
    2nd, 4th, 8th … time, and otherwise ignored. ``acquire_ended`` and ``returned`` run in the
    thread or task that acquires or returns, when no lock is held: they delay that one request by
    what they take. The others run in threads beside the requests, where one that blocks costs a
    thread each time, and closing the pool all of its time; only where a leak is told of may they
    run in a request. In an async pool all run on its loop, and one that blocks stops the loop.
    """

    hears_immediate: bool = True
    """Whether :meth:`acquire_ended` is to be called for acquires that found a connection free, too:
    almost all do, and an event costs time. Where no listener wants to hear of them, only the
    request that has acquired is told."""

    def acquire_ended(self, event: AcquireEnded, /) -> None: ...

    def returned(self, event: Returned, /) -> None: ...

    def connected(self, event: Connected, /) -> None: ...

    def connect_failed(self, event: ConnectFailed, /) -> None: ...

    def closed(self, event: Closed, /) -> None: ...

    def warmed(self, event: Warmed, /) -> None: ...

    def leak(self, event: Leak, /) -> None: ...


class Listeners(Listener):
    """Several listeners as one; none of them can harm the pool or each other."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = tuple(listeners)
        # Those that do nothing, as the default does, are not called: acquires are many.
        self._of_acquires = tuple(
            each
            for each in self._listeners
            if not isinstance(each, Listener)
            or _defines(each.acquire_ended, Listener.acquire_ended)
        )
        self._failures = Failures()

    def __repr__(self) -> str:
        return f"<Listeners {', '.join(map(name_of, self._listeners))}>"

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._listeners)

    def acquire_ended(self, event: AcquireEnded, /) -> None:
        for listener in self._of_acquires:
            try:
                listener.acquire_ended(event)
            except Exception:  # noqa: BLE001 - logged
                self._failed(listener, "acquire_ended", event)

    def returned(self, event: Returned, /) -> None:
        self._tell("returned", event)

    def connected(self, event: Connected, /) -> None:
        self._tell("connected", event)

    def connect_failed(self, event: ConnectFailed, /) -> None:
        self._tell("connect_failed", event)

    def closed(self, event: Closed, /) -> None:
        self._tell("closed", event)

    def warmed(self, event: Warmed, /) -> None:
        self._tell("warmed", event)

    def leak(self, event: Leak, /) -> None:
        self._tell("leak", event)

    def _tell(self, method: str, event: object) -> None:
        for listener in self._listeners:
            try:
                getattr(listener, method)(event)
            except Exception:  # noqa: BLE001 - logged
                self._failed(listener, method, event)

    def _failed(self, listener: Listener, method: str, event: object) -> None:
        where = (id(listener), method)  # it need not be hashable
        self._failures.log(where, "a listener failed on %r; the pool goes on", event)


def hears_acquires(listener: Listener, *, immediate: bool = False) -> bool:
    """Whether any listener wants to be told of acquires; of *immediate* ones."""
    if isinstance(listener, Listeners):
        return any(hears_acquires(each, immediate=immediate) for each in listener)
    heard = _defines(listener.acquire_ended, Listener.acquire_ended)
    return heard and (listener.hears_immediate or not immediate)


def hears_returns(listener: Listener) -> bool:
    """Whether any listener wants to be told of returns, which are as many."""
    if isinstance(listener, Listeners):
        return any(hears_returns(each) for each in listener)
    return _defines(listener.returned, Listener.returned)


def _defines(method: Callable[..., None], default: Callable[..., None]) -> bool:
    return getattr(method, "__func__", None) is not default
