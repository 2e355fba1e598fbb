"""A clock that a test moves by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..util import clock

__all__ = ["ManualClock"]


class ManualClock:
    """A clock that :meth:`advance` moves. Calling it tells the time, in seconds.

    :param start: what it tells at first; by default the time that poolguard's own clock tells.
    :param ticks: whether it runs on by itself, too. Otherwise it stands still until it is moved.

    Where time is an argument, as it is for all that decides in the pool, it is given by hand:
    ``core.take(clock())``. A pool that runs ages by it within :meth:`installed`.
    """

    def __init__(self, start: float | None = None, *, ticks: bool = False) -> None:
        first = clock.now() if start is None else start
        self._running: Callable[[], float] = clock.now if ticks else lambda: first
        self._ahead = first - clock.now() if ticks and start is not None else 0.0

    def __repr__(self) -> str:
        return f"<ManualClock at {self():g}>"

    def __call__(self) -> float:
        return self._running() + self._ahead

    def advance(self, seconds: float) -> float:
        """Let so many seconds pass; returns the time then. Pools that are open in this process look
        at once at what has become due.

        Raises :exc:`ValueError` for a negative number: the clock never goes back.
        """
        if not seconds >= 0:
            raise ValueError(f"{seconds!r} seconds cannot pass: the clock never goes back")
        self._ahead += seconds
        if (base := sys.modules.get("poolguard.pool.base")) is not None:
            for pool in [*base._open_pools]:
                pool._ring()
        return self()

    @contextmanager
    def installed(self) -> Iterator[ManualClock]:
        """Within the block all pools of this process age by this clock.

        Open them within it, and close them there: outside it the time is another one. What ages are
        connections, their checks, lifetimes and idle times, leaks, and the pauses after a connect
        that has failed. What is a wait in real time remains one: that for an answer of the
        server's, and an async acquire, which times out by its event loop's clock. A sync acquire
        whose time is over by this clock sees that within a second.

        Let the clock tick there, unless the test is about a pool that has nothing to do meanwhile:
        while time stands still none of its pauses ends. It opens nothing beside connections that
        are lent, for instance, since their return may serve the queue within milliseconds.
        """
        real = clock.now
        _replace(real, self)
        try:
            yield self
        finally:
            _replace(self, real)


def _replace(old: Callable[[], float], new: Callable[[], float]) -> None:
    """Have each file of poolguard's that has imported the clock *old* go by *new*, and whatever
    imports it from now on."""
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] == "poolguard" and module is not None:
            for key, value in [*vars(module).items()]:
                if value is old:
                    setattr(module, key, new)
