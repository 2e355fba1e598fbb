"""The living processes that share a ledger: what they tell each other, and how they are woken.

Each has a record in the shared file, and a FIFO in the folder, its *bell*. A byte written to the
FIFO says only that there is news. The news itself is in the records, which a process reads as they
are when it wakes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any

from ...errors import RuntimeDirError
from ...util.logs import logger
from ...util.rundir import RuntimeDir
from ..sharing import Member
from ..terms import Scope
from .file import MOST_PROCESSES, HostFile

__all__ = ["FRESH", "Members"]

_STARVING = Member._fields.index("starving")
FRESH = 0.02
"""Seconds for which the last look at which processes live is good enough."""


class Members:
    """This process among the others. Not thread-safe: the ledger's lock must be held."""

    def __init__(self, file: HostFile, folder: RuntimeDir, name: str, scope: Scope) -> None:
        self._file = file
        self._folder = folder
        self._name = name
        self._looked_at = 0.0
        self._siblings: list[int] = []
        self.version = 0
        self._remove_dead()
        number = file.members.take(0, MOST_PROCESSES, 0)
        if number is None:
            raise RuntimeDirError(
                f"{MOST_PROCESSES} processes share the ledger {name}, and that is the most: give "
                f"some of them a runtime_dir of their own"
            )
        self._number = number
        self.end = number + 1
        """No process seen so far has this number, or a higher one."""
        self.me = Member(number, None, 0, 0, draining=False, scope=scope, pid=os.getpid())
        file.write_member(self.me)
        file.change_version()
        self.bell = -1
        """The descriptor of this process' own FIFO; -1 where it has none."""
        try:
            self.bell = folder.make_fifo(self._bell_of(number))
        except RuntimeDirError as error:
            logger.warning(
                "poolguard: %s. Until then this process looks twice a second what siblings need",
                error,
            )

    def tell(self, **news: Any) -> None:
        """Publish what this process holds and needs, with the fields of it that have changed."""
        before = self.me
        me = before._replace(**news) if news else before
        since = 0.0
        if me.starving and not me.held:
            since = before.without_since or monotonic()
        if since != me.without_since:
            me = me._replace(without_since=since)
        self.me = me
        if me[_STARVING:] == before[_STARVING:] and me.terms is before.terms and not me.draining:
            self._file.write_held(me.number, me.held)  # what changes most often
            return
        self._file.write_member(me)
        same = before._replace(held=me.held, starving=me.starving, without_since=me.without_since)
        if me.floor != before.floor or me != same:
            self._file.change_version()

    def restore(self) -> None:
        """Publish it again, should the record be damaged."""
        if self._file.member(self._number) != self.me:
            self._file.write_member(self.me)
            self._file.change_version()

    def look(self, within: float = FRESH) -> bool:
        """See anew which processes live, and clear the records of those that have died.

        Returns False where that was done less than *within* seconds ago, and is not done again.
        """
        now = monotonic()
        if now - self._looked_at < within:
            return False
        self._looked_at = now
        self._remove_dead()
        self.version = self._file.version
        self._siblings = self._others()
        self.end = max(self.end, 1 + max(self._siblings, default=0))
        return True

    def others_now(self) -> list[int]:
        """The numbers of the others that live now. That is no look: what has changed since the last
        one is still news."""
        self._remove_dead()
        return self._others()

    @property
    def changed(self) -> bool:
        """A process has come, gone, or changed its terms since the last look. One that was killed
        does not say so."""
        return self.version != self._file.version

    def siblings(self) -> list[Member]:
        """The others that lived at the last look, with what they tell now."""
        return [self._file.member(number) for number in self._siblings]

    def starving(self) -> list[int]:
        """The numbers of the others that say they starve."""
        return [number for number in self._file.starving() if number != self._number]

    def ring(self, numbers: Iterable[int] | None = None) -> None:
        """Wake the others of these *numbers*, or all that lived at the last look."""
        for number in self._siblings if numbers is None else numbers:
            if not self._folder.ring(self._bell_of(number)):
                self._looked_at = 0.0  # it has died: have the next look see that

    def empty_bell(self) -> None:
        """Empty this process' own FIFO."""
        with suppress(OSError):  # it is empty, or there is none
            os.read(self.bell, 4096)

    def leave(self) -> None:
        """End this process' part."""
        self._remove(self._number)
        self.close()

    def close(self) -> None:
        """Close the FIFO."""
        if self.bell >= 0:
            os.close(self.bell)
            self.bell = -1

    def _others(self) -> list[int]:
        living = self._file.members.taken(0, MOST_PROCESSES)
        return [number for number in living if number != self._number]

    def _remove_dead(self) -> None:
        for number in self._file.members.inherit(0, MOST_PROCESSES):
            self._remove(number)
        for number in self._file.starving():
            if not self._file.members.is_taken(number):  # no process says so
                self._file.clear_member(number)

    def _remove(self, number: int) -> None:
        self._file.clear_member(number)
        self._file.change_version()
        if self._file.is_found(self._folder):  # otherwise the bell is in use by another ledger
            self._folder.remove(self._bell_of(number))
        self._file.members.free(number)

    def _bell_of(self, number: int) -> str:
        return f"{self._name}.{number}.bell"
