"""The protocol of a ledger: what grants a pool the slots that its connections need.

A ledger has one part for each of its users. A pool leases slots from :class:`Ledger` itself. What
processes owe each other goes through :class:`Siblings`, what dead processes have left through
:class:`Orphans`, and :class:`Usage` counts all of them together. No method blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from .sharing import Owed
from .slots import Backend, Orphan, Seat, Slot
from .terms import Granted, Terms

__all__ = ["RECHECK", "TEND_EVERY", "Ledger", "Orphans", "Say", "Siblings", "Usage"]

RECHECK = 0.25
"""Seconds after which a process that needs a slot looks again: the dead do not say that they go,
and processes that cannot reach each other do not say that they have made room."""

TEND_EVERY = 0.5
"""Seconds between two looks at a ledger that is shared: a process that dies tells of nothing."""

Say = Callable[[int, str], None]
"""Takes a level of logging and a text."""


class Ledger(Protocol):
    """What a pool asks before it connects."""

    @property
    def siblings(self) -> Siblings:
        """The other processes that share this ledger."""

    @property
    def orphans(self) -> Orphans:
        """The slots of owners that have died."""

    @property
    def usage(self) -> Usage:
        """How many connections and processes there are, of all that share the limit."""

    # -- terms ---------------------------------------------------------------------------------

    def agree(self, terms: Terms) -> Terms:
        """Go by *terms* from now on.

        Returns them with the share that rules: the smallest, while living processes disagree.
        """

    @property
    def published(self) -> Granted | None:
        """What living siblings have learned from the server, as far as it binds this process too;
        None where none has learned anything."""

    @property
    def partitioned(self) -> bool:
        """Some of the processes that are to share this ledger do not. Its limit is a part of what
        it would be."""

    @property
    def limit(self) -> int | None:
        """Slots that this process could have at most; None where nothing bounds them."""

    # -- slots ---------------------------------------------------------------------------------

    def lease(self, n: int) -> list[Slot]:
        """Take up to *n* free slots. Fewer, or none, is an answer and not an error."""

    def record_backend(self, slot: Slot, backend: Backend) -> None:
        """Record for which session *slot* is held, in case this process dies."""

    def release(self, slot: Slot) -> None:
        """Give back a slot whose connection the server has ended."""

    def abandon(self, slot: Slot, *, overdue: bool = False) -> None:
        """Give back a slot of which it is not known whether the server has ended the connection.

        :param overdue: it ought to have done so by now.
        """

    def seat(self, slot: Slot) -> Seat | None:
        """The lock that the session of *slot* is to take at its server, and to keep; None where it
        need not take any."""

    def unseated(self, slot: Slot) -> None:
        """The session of *slot* could not take that lock: the slot is another host's."""

    @property
    def end(self) -> int | None:
        """Slots of this number and above are to be given back as soon as that can be: the budget
        has shrunk. None: there is no such number."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback*, from any thread, when a slot may have become free.

        Returns a function that ends the subscription.
        """

    @property
    def in_use(self) -> int:
        """Slots taken now by all that use the same database, or have the same role where that is
        the limit that binds this process most."""

    def explain(self) -> str:
        """Text for errors: which processes hold the slots, and what would help."""

    # -- upkeep --------------------------------------------------------------------------------

    @property
    def recheck(self) -> float | None:
        """Seconds after which a slot may have become free without a callback; None: never."""

    def maintain(self, say: Say) -> bool:
        """Look after the ledger itself, now and then; *say* takes what is to be logged.

        Returns whether slots are taken that no living process holds: a connection is to ask the
        server about them (:attr:`orphans`).
        """

    def close(self) -> None:
        """End this process' part in the ledger: the last slot was released, or the process ends."""


class Siblings(Protocol):
    """What this process tells the others that share its ledger, and what they want of it."""

    def fileno(self) -> int:
        """A descriptor that is readable when siblings have news; -1 where there are none."""

    def catch_up(self) -> None:
        """Read the siblings' news: :meth:`fileno` is readable."""

    @property
    def left_alone(self) -> float:
        """Seconds for which a process that is asked for nothing need not see whether the others
        live."""

    def report_starving(self, n: int) -> None:
        """Say that *n* more slots are needed and none was free; 0 takes that back."""

    def report_failing(self, fails: bool) -> None:
        """Say whether connecting fails. No floor is kept for a process that cannot connect."""

    def drain(self) -> None:
        """Say that this process will end: what is guaranteed to it may go to others."""

    def guaranteed(self, floor: int) -> int:
        """How many of a floor's connections this process has a right to, whatever others need.

        It is 0 where there is less than one connection for each process: then any of them may be
        asked to give up its only one.
        """

    def owed(self) -> Owed:
        """How many connections this process is to give up for its siblings now."""

    @property
    def could_help(self) -> bool:
        """Siblings starve, and what this process holds would help them."""


class Orphans(Protocol):
    """Slots whose owners have died. They stay taken while the server still has their sessions."""

    def claim(self) -> list[Orphan]:
        """The orphans that the server is to be asked about now, each to be resolved by the caller.

        No other process is given them meanwhile.
        """

    def resolve(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        """Free those of the claimed *orphans* whose backends are *gone*. The others can be claimed
        again."""

    @property
    def has_taken_over(self) -> bool:
        """One of this process' own slots was a dead owner's, and its backend is to be asked
        about."""


class Usage(Protocol):
    """What all processes have together that the limit binds which leaves this process least."""

    @property
    def processes(self) -> int:
        """How many of them live, with this one."""

    @property
    def established(self) -> int:
        """How many connections they have. Those that are being opened do not count yet."""

    @property
    def database_share(self) -> int | None:
        """What the processes that use the same database have a right to while others want the
        rest; the limit where there are no others, and None where there is no limit."""

    def expected(self) -> int:
        """How many connections this process will likely use, by what its siblings hold, and at most
        its fair share; 0 where there are no siblings."""
