"""What a host tells the table each minute, what it reads there, and when. It does no I/O but that
of the ring's file.

Whichever process of the host finds the turn due, and has an idle connection, takes it: so none is
elected, and none is missed when it ends. An exchange is one message, and so one transaction: it
tells what has not been told, and reads what other hosts have told since. What decisions will look
at in the next quarter of an hour is read with it when that is due. A new process reads it before it
warms up, where the ring does not have it yet.

What was created is counted as told before it is sent. Where an answer is lost, the minutes are told
again without that: it may be missed, and is never counted twice. The other figures are the highest
of any host, however often they are told.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

from .expected import local_offset, needed
from .minutes import DAY, HOUR, KEPT
from .ring import Ring
from .table import PLAINLY, READ_ONLY, Table, answer_of
from .told import State

__all__ = ["SETTLED", "Exchange", "Question"]

MINUTE = 60.0
SETTLED = 75.0
"""Seconds after its end in which all processes of a host have told of a minute. At rest they look
once in a minute."""
AT_ONCE = DAY
"""Minutes that are told at once, at most: a table may be made when hosts know five weeks."""
AGAIN = 10
"""Minutes after which the table is asked again that could not be used, ..."""
SAID_AGAIN = DAY
"""... and after which it is said again why."""
RECENT = 30
"""The last minutes are read each time: other hosts tell late of them."""
AHEAD, MARGIN = 20, 5
"""Minutes for which is read ahead what decisions look at, and that are left when it is read
again."""
CLEARED_EVERY = HOUR


class Question(NamedTuple):
    """One message to the server, and what it means for the host."""

    query: str
    values: dict[str, Any]
    turn: int | None
    """None: it is another process' turn, and nothing is told."""
    told: int
    """It tells what the host was asked for up to this minute."""
    counted: int
    """What was created up to this minute had been counted before."""
    known: int
    """It reads what decisions look at until this minute; 0: no more than the last half hour."""
    writes: bool = True
    """It tells anything at all."""


class Exchange:
    """One process' part in the exchange of its host, for one guard.

    Moments are seconds since 1970.

    :param offset: as :func:`~poolguard.history.expected.decide` has it.
    """

    def __init__(self, table: Table, offset: Callable[[int], int] = local_offset) -> None:
        self.table = table
        self._offset = offset
        self._look_at = 0.0
        """Until then it is no turn of this host's, as the file said."""

    def __repr__(self) -> str:
        return f"<Exchange {self.table}>"

    # -- when ----------------------------------------------------------------------------------

    def is_due(self, ring: Ring, now: float) -> bool:
        """Whether this host has a turn. Most answers cost no look at the file."""
        if self._look_at - 2 * AGAIN * MINUTE < now < self._look_at:
            return False
        state = ring.told.read()
        turn = _turn(state, now)
        due = not turn < state.next <= turn + 2 * AGAIN
        self._look_at = 0.0 if due else (turn + 1) * MINUTE + state.late
        return due

    def knows(self, ring: Ring, now: float) -> bool:
        """Whether the host has read what decisions look at now."""
        minute = int(now // MINUTE)
        return minute + MARGIN <= ring.told.read().known <= minute + AHEAD

    # -- the message ---------------------------------------------------------------------------

    def turn(self, ring: Ring, now: float, *, writes: bool) -> Question | None:
        """What to ask in a turn that is due; None where another process has it.

        It ends with :meth:`answered`, :meth:`refused` or :meth:`lost`.

        :param writes: the server takes writes. Where it does not, nothing is told, but read.
        """
        if not _begun(ring):
            return None
        if not self.is_due(ring, now):
            ring.told.end()
            return None
        turn = _turn(ring.told.read(), now)
        told, counted, upto = _untold(ring, now)
        query, values = PLAINLY, dict[str, Any]()
        minutes = {
            at: demand if at > counted else demand._replace(created=0)
            for at, demand in enumerate(ring.read(told + 1, upto + 1), told + 1)
            if demand is not None
        }
        if writes and minutes:
            writing, values = self.table.writing(ring.guard, minutes)
            query += writing
        if writes and turn % CLEARED_EVERY == 0:
            query += self.table.clearing()
        known = 0 if self.knows(ring, now) else int(now // MINUTE) + AHEAD
        reading, asked = self.table.reading(ring.guard, self._ranges(now, known))
        state = ring.told.read()
        ring.told.write(state._replace(counted=max(counted, upto), told=told, next=turn + 1))
        return Question(query + reading, values | asked, turn, upto, counted, known, writes)

    def reading(self, ring: Ring, now: float) -> Question:
        """What a process asks that is about to decide for the first time; it ends as a turn does.
        Several of a host may ask it at the same time."""
        turn = _turn(ring.told.read(), now) if _begun(ring) else None
        told, counted, _ = _untold(ring, now)
        if turn is not None:
            state = ring.told.read()
            after = turn + 1 if self.is_due(ring, now) else state.next
            ring.told.write(state._replace(counted=counted, told=told, next=after))
        known = int(now // MINUTE) + AHEAD
        query, values = self.table.reading(ring.guard, self._ranges(now, known))
        return Question(PLAINLY + query, values, turn, told, counted, known)

    def _ranges(self, now: float, known: int) -> list[tuple[int, int]]:
        minute = int(now // MINUTE)
        recent = (minute - RECENT, minute + 1)
        if not known:
            return [recent]
        # In the file, minutes that are older have the places of those that come now.
        oldest = minute - KEPT + MARGIN
        ranges = needed(minute, known, self._offset)
        return [(max(first, oldest), end) for first, end in ranges]

    # -- its end -------------------------------------------------------------------------------

    def answered(self, ring: Ring, question: Question, row: Any) -> str | None:
        """The server has done all of it, and answers this. Returns what is to be said now."""
        # The minutes after these are this host's alone, until it has told of them.
        upto = max(question.told, question.counted)
        ring.merge({at: each for at, each in answer_of(row).items() if at <= upto})
        if question.turn is None:
            return None
        state = ring.told.read()
        known = question.known or state.known
        ring.told.write(state._replace(told=question.told, known=known))
        said = None if question.writes else self._news(ring, question.turn, READ_ONLY)
        ring.told.end()
        return said

    def refused(self, ring: Ring, question: Question, why: str) -> str | None:
        """The server has done nothing of it. Returns what is to be said now."""
        if question.turn is None:
            return None
        state = ring.told.read()
        ring.told.write(state._replace(counted=question.counted, next=question.turn + AGAIN))
        said = self._news(ring, question.turn, why)
        ring.told.end()
        return said

    def lost(self, ring: Ring, question: Question) -> None:
        """Nobody knows what the server has done of it."""
        if question.turn is not None:
            ring.told.end()

    def _news(self, ring: Ring, turn: int, why: str) -> str | None:
        """*why*, unless a process of this host has said it lately."""
        state, of = ring.told.read(), crc32(why.encode(errors="replace"))
        if state.said_of == of and state.said <= turn < state.said + SAID_AGAIN:
            return None
        ring.told.write(state._replace(said=turn, said_of=of))
        return why


def _begun(ring: Ring) -> bool:
    """Take the turn; False where another process of the host has it."""
    if not ring.told.begin():
        return False
    state = ring.told.read()
    if not 0 < state.late < MINUTE:
        ring.told.write(state._replace(late=random.randrange(1, int(MINUTE))))
    return True


def _turn(state: State, now: float) -> int:
    return int((now - state.late) // MINUTE)


def _untold(ring: Ring, now: float) -> tuple[int, int, int]:
    """The minute up to which all is told; that up to which what was created is counted, and others'
    figures are recorded, too; and the one up to which is to be told now.

    A host that has known nothing for a while has nothing to tell of that, and takes what others
    say.
    """
    settled = int((now - SETTLED) // MINUTE) - 1
    oldest = settled - KEPT + HOUR
    state = ring.told.read()
    before = min(state.counted, settled)
    since = max(before, oldest)
    own = ring.read(since + 1, settled + 1)
    counted = since + next((n for n, each in enumerate(own) if each is not None), len(own))
    # In between, an answer was lost.
    told = max(min(state.told, before), oldest) if state.told < state.counted else counted
    return told, counted, min(settled, told + AT_ONCE)
