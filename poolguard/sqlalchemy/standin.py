"""A pool that stands in for an engine's own: which of the two lends, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.pool import Pool

from ..runtime.guards import Guard
from ..worker.context import role

__all__ = ["StandIn"]


class StandIn(Pool):
    """Has the listeners of *plain*, and stands in for it in workers, and where *guard* is open.

    :param connect: gives a record its connection.
    """

    def __init__(self, plain: Pool, guard: Guard, connect: Callable[..., Any]) -> None:
        super().__init__(
            connect,
            echo=plain.echo,
            logging_name=plain._orig_logging_name,
            reset_on_return=plain._reset_on_return,
            dialect=plain._dialect,
        )
        self.dispatch = plain.dispatch
        self._plain = plain
        self._guard = guard
        self._lender: Any = None
        """The guard's pool, as it was last found open."""

    @property
    def _stands_in(self) -> bool:
        return self._guard.opened or role() == "worker"

    def _open_lender(self) -> Any:
        """The guard's pool; None where the engine's own is used. Raises where it is closed."""
        return self._guard.pool if self._stands_in else None

    # -- what an engine and its users ask ------------------------------------------------------

    def recreate(self) -> Pool:
        """The pool itself, as the connections stay."""
        if not self._stands_in:
            self._plain = self._plain.recreate()
            self._plain.dispatch = self.dispatch
        return self

    def dispose(self) -> None:
        """Nothing, where the connections are the guard's."""
        if not self._stands_in:
            self._plain.dispose()

    def status(self) -> str:
        """What there is, in a line."""
        if not self._stands_in:
            return self._plain.status()
        return (
            f"poolguard {self._guard.name!r}: {self.checkedin()} idle and {self.checkedout()} in "
            f"use of at most {self.size()} connections"
        )

    def size(self) -> int:
        """How many connections there may be."""
        return self._figure("size", "max_size")

    def checkedin(self) -> int:
        """How many are free."""
        return self._figure("checkedin", "idle")

    def checkedout(self) -> int:
        """How many are in use."""
        return self._figure("checkedout", "used")

    def overflow(self) -> int:
        """None: a guard has one bound."""
        return self._figure("overflow", "")

    def _figure(self, plains: str, guards: str) -> int:
        if self._stands_in:
            return int(self._guard.status().get(guards) or 0)
        ask = getattr(self._plain, plains, None)
        return int(ask()) if ask is not None else 0
