"""What remembers what a pool was asked for, and by that knows what it will likely need."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

__all__ = ["Asked", "Memory"]


class Asked(NamedTuple):
    """What a pool was asked for between two looks at it. Times by the monotonic clock."""

    since: float
    until: float
    lent: int
    """The most connections that were lent at once."""
    waiting: int
    """The most acquires that waited at once."""
    created: int
    """Acquires that were given a connection which was made while they waited."""
    level: int
    """The connections that were to be kept warm, as the memory had said."""
    floor: int
    """The connections that are kept warm whatever it says."""


class Memory(Protocol):
    """Told of each time between two looks. It may read and write files, and is called with no lock
    held."""

    asks: bool
    """It wants to be given an idle connection: see :meth:`ask`."""

    @property
    def reason(self) -> str:
        """Why the level is what it is, in a word."""

    def remember(self, asked: Asked, /) -> int:
        """Record that. Returns how many connections are to be kept warm from now on, beyond the
        floor, while nobody else needs their slots; 0: no more than the floor."""

    async def ask(self, conn: Any, /) -> None:
        """Ask the server something over an idle connection, in much less than ``check_timeout``,
        and leave it as it was. In a sync pool nothing is awaited. Raises :exc:`psycopg.Error` where
        the connection is of no use any more."""

    def close(self) -> None:
        """The pool has ended."""
