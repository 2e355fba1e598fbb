"""What one host knows of its fleet, and what its rights are by that. Pure: time is an argument.

Between hosts the rights are those between the processes of one host
(:mod:`poolguard.budget.sharing`), where a host counts as much as it has workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..sharing import Member, Owed, Right, owed_by_all, rights
from ..terms import Terms
from .arrivals import Arrivals
from .board import Board, Line
from .keys import DOOR
from .room import room_for_pools
from .steps import Figures

__all__ = ["MOST_NOTIFIED", "FleetView"]

MOST_NOTIFIED = 50
"""Hosts up to which they notify each other. A notification wakes every one of them, so that those
of a larger fleet look by themselves."""
ROUNDING = 1e-9


class _Shares(NamedTuple):
    """Rights as of the last look at the board."""

    mine: Right
    height: float
    """The fair share of one worker."""
    guaranteed: int
    """To all hosts together."""
    lenders: int
    """Hosts that have more than they are guaranteed."""


class FleetView:
    """What one host knows: what it has itself, the board as it was read, and how many hosts there
    are since then.

    The figures that its methods take are the host's own, as its processes tell them.

    :param host: its name, for the board.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.me = 0
        """The pid of this host's control session."""
        self.slot = DOOR
        """The slot of the control session."""
        self.resting: dict[int, float] = {}
        """Claimed slots that rest, and until when."""
        self.board = Board()
        self.lost = 0
        """Slots that are occupied, and that no host has leased, as last counted: the sessions of
        hosts that have vanished live on for a while."""
        self._least = 0
        self._others: list[Member] = []
        self._without_since: dict[int, float] = {}
        """Since when hosts have no slot and need one, by their control sessions."""
        self._told = 0
        """How many hosts more there are since the board was read, as they have said themselves."""
        self.arrivals = Arrivals()
        self._counts: tuple[int, int] | None = None
        """How many hosts were counted first since then, and last."""
        self._shares: tuple[object, _Shares] | None = None
        """The last ones, and by what they were found."""

    # -- what is seen --------------------------------------------------------------------------

    def read(self, now: float, board: Board) -> None:
        """The board was read."""
        waiting = {pid for pid, line in board.lines.items() if line.need and not line.granted}
        self._without_since = {pid: self._without_since.get(pid, now) for pid in waiting}
        self.board, self._told, self._counts = board, 0, None
        self.arrivals.note_all(now, board.ages)
        self._least = board.budget
        lines = (each for each in board.lines.items() if each[0] != self.me)
        others = [self._member(pid, line) for pid, line in lines]
        if others != self._others:
            self._others, self._shares = others, None

    def counted(self, hosts: int) -> None:
        """So many hosts were counted."""
        first = hosts if self._counts is None else self._counts[0]
        self._counts = first, hosts

    def was_told(self, by: int) -> None:
        """So many hosts more are there, or fewer, as they have said themselves."""
        self._told += by

    # -- what is known -------------------------------------------------------------------------

    @property
    def hosts(self) -> int:
        """How many there are, this one among them."""
        first, last = self._counts or (0, 0)
        return max(1, self._seen + self._told + last - first)

    @property
    def notifies(self) -> bool:
        """The fleet is small enough for its hosts to notify each other."""
        return self._seen + self._told <= MOST_NOTIFIED

    @property
    def is_counted(self) -> bool:
        """The hosts were counted since the board was read: only then is it known how their number
        changes."""
        return self._counts is not None

    def whole(self, f: Figures) -> Figures:
        """The figures with the slots that rest: this host has them, though it cannot use them."""
        resting = len(self.resting)
        if not resting:
            return f
        return f._replace(granted=f.granted + resting, need=max(0, f.need - resting))

    def wants(self, f: Figures) -> int:
        """How many slots more are to be claimed, the control session's own among them."""
        return self.whole(f).need + _is_to_move(self.slot, self.budget(f))

    def lacks(self, f: Figures, spare: int = 0) -> int:
        """How many of these are this host's by right; where it needs any, with so many to *spare*
        within its right."""
        if not (budget := self.budget(f)):
            return 0
        f = self.whole(f)
        needed = f.need + spare if f.need else 0
        return min(needed, max(0, self.right(f).fair - f.granted)) + _is_to_move(self.slot, budget)

    def lenders(self, f: Figures) -> float:
        """About how many hosts have more than they are guaranteed."""
        return max(1, self._shares_of(f).lenders * self.hosts / self._seen)

    def budget(self, f: Figures) -> int:
        """The budget that rules, the least that any member knows; 0 where none knows any."""
        known = [n for n in (f.budget, self._least) if n]
        return min(known, default=0)

    def right(self, f: Figures) -> Right:
        """What this host may have for its pools."""
        shares, hosts, budget = self._shares_of(f), self.hosts, self.budget(f)
        if hosts == self._seen or not budget:
            return shares.mine
        # The board is older than the number of hosts: those that are new are taken to be as those
        # that it tells of.
        mean = room_for_pools(budget, hosts, self.lost) / hosts
        before = room_for_pools(budget, self._seen, self.lost) / self._seen
        height = shares.height * mean / before if before else mean
        fair = int(height * max(1, f.workers) + ROUNDING)
        guaranteed, floor = shares.mine.guaranteed, self._myself(f).floor
        if guaranteed < floor or shares.guaranteed > mean * self._seen:  # not all floors fit
            guaranteed = min(floor, fair)
        return Right(guaranteed, guaranteed if f.draining else max(guaranteed, fair))

    def excess(self, f: Figures) -> int:
        """How many slots more all hosts have than the budget has for pools: it has shrunk."""
        if not (budget := self.budget(f)):
            return 0
        granted = self.whole(f).granted + sum(each.held for each in self._others)
        return max(0, granted - room_for_pools(budget, self.hosts))

    def orders(self, f: Figures, over: int = 0, *, after: int = 0) -> Mapping[int, Owed]:
        """What each host, this one among them, owes to others, by their control sessions.

        :param over: slots that they have beyond the budget.
        :param after: of equals those come first that are after this control session. So all that
            read the same board find the same, or it is not always the same that are asked.
        """
        members = [self._myself(f), *self._others]
        members.sort(key=lambda each: (each.number <= after, each.number))
        return owed_by_all(self._limit(f, self.hosts), members, over)

    @property
    def _seen(self) -> int:
        """How many hosts there were when the board was read."""
        return len(self._others) + 1

    def _limit(self, f: Figures, hosts: int) -> int:
        """What the pools of so many *hosts* can have together."""
        budget = self.budget(f)
        return room_for_pools(budget, hosts, self.lost) if budget else f.granted + f.need

    def _member(self, pid: int, line: Line) -> Member:
        """A host as one of the members that share the limit."""
        weight = max(1, line.workers)
        return Member(
            pid,
            Terms(None, 1, weight, line.floors),
            line.granted,
            line.need,
            line.draining,
            weight=weight,
            without_since=self._without_since.get(pid, 0.0),
        )

    def _myself(self, f: Figures) -> Member:
        f = self.whole(f)
        line = Line("", f.budget, f.workers, f.floors, f.granted, f.used, f.need, f.draining)
        return self._member(self.me, line._replace(need=self.wants(f)))

    def _shares_of(self, f: Figures) -> _Shares:
        me, limit = self._myself(f), self._limit(f, self._seen)
        if limit >= self._seen and not me.draining:  # its rights do not depend on what it has now
            me = me._replace(held=0, starving=0, without_since=0.0)
        if self._shares is None or self._shares[0] != (me, limit):
            self._shares = (me, limit), _shares(limit, me, self._others)
        return self._shares[1]


def _is_to_move(slot: int, budget: int) -> bool:
    """A control session needs another slot: it stands in the door, or beyond a budget that has
    shrunk."""
    return slot == DOOR or 0 < budget <= slot


def _shares(limit: int, me: Member, others: list[Member]) -> _Shares:
    members = [me, *others]
    right = rights(limit, members)
    # A host that has no more than it is guaranteed has it whatever the height is.
    filled = [each for each in members if right[each.number].fair > right[each.number].guaranteed]
    left = limit - sum(its.fair for its in right.values() if its.fair == its.guaranteed)
    if not filled:
        filled, left = members, limit
    height = left / sum(each.weight for each in filled)
    guaranteed = sum(each.guaranteed for each in right.values())
    lenders = sum(each.held > right[each.number].guaranteed for each in others)
    return _Shares(right[me.number], height, guaranteed, lenders)
