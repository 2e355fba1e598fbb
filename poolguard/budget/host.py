"""The ledger that all processes of one user on one host share for one server.

It is a file in the runtime folder. No slot of it belongs to anybody before it is leased: how many a
process may lease follows, at that moment, from who lives and what they hold (:mod:`.sharing`).

Nothing in the file needs repair after a death, since every claim is a lock that the kernel frees.
But the server goes on with what a killed client had asked it, so a dead owner's slot stays taken
until the server was asked, and says that the backend is gone.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from time import monotonic
from typing import NamedTuple
from weakref import WeakSet

from ..errors import ForkError, RuntimeDirError
from ..util.rundir import RuntimeDir
from .hostfile import MOST_SLOTS, HostFile, SlotRecord
from .ledger import (
    ANYWHERE,
    NOTHING_WANTED,
    POOLED,
    Backend,
    Callbacks,
    Granted,
    Orphan,
    Scope,
    Slot,
    Terms,
    Wanted,
    divided,
)
from .members import Members
from .presence import Presence
from .sharing import (
    Circle,
    Member,
    Right,
    asked_of,
    bound,
    circles,
    explained,
    may_take,
    rights,
    unknown,
    urgent_of,
    usual,
)

__all__ = ["HostLedger"]

RECHECK = 0.25
"""Seconds: a worker that starves looks again so often, since the dead do not say that they go."""
RING_AGAIN = 0.2
"""Seconds between two rings for the same need."""
UNSEATED_GRACE = 2.0
"""Seconds that the slot of an owner stays taken who died while it connected, and so before it knew
its backend. The kernel closes the socket at once; a backend that has no query to run ends when it
next reads from it."""
OVERDUE = 3.0
"""Seconds after which the backend of a dead owner ought to have noticed, three times the
client_connection_check_interval that connections are given: it is ended where it has not, and where
nobody has a connection left to do so, one slot of the dead is taken over for it."""

PATIENCE = 0.5
"""Seconds after which one that has a slot, and still does not know what the server grants, keeps
nobody else from asking the server; and one whose turn it is keeps nobody else from a free slot."""

PARTED_FOR = 2.0
"""Seconds after which the last sibling has noticed, too, that there is only one part again."""

PAST = 600.0
"""Seconds for which it matters what a process held that has ended: a service that is started again
has the load that it had."""

CONNECTING = Backend(0, 0.0)


class Side(NamedTuple):
    """One limit as a process sees it that is bound by it."""

    limit: int
    within: Scope | None
    mine: Right
    others: Mapping[int, Right]


class HostLedger:
    """One process' part in the ledger *name* of *folder*, which it closes in the end.

    :param workers: processes that get a floor. While nobody knows any terms (:meth:`agree`), so
        many slots may be leased, one by each: no budget that can be divided at all is smaller.
    :param scope: whose limits bind its connections, beside the server's.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where the file is no ledger.
    """

    def __init__(
        self, folder: RuntimeDir, name: str, *, workers: int, scope: Scope = ANYWHERE
    ) -> None:
        self._folder = folder
        self._name = name
        self._workers = workers
        self._scope = scope
        self._lock = threading.Lock()
        self._callbacks = Callbacks()
        self._forked = False
        self._file = HostFile(folder, f"{name}.ledger")
        try:
            self._members = Members(self._file, folder, name, scope)
            self._presence = Presence(folder.path, name, self._file.inode)
        except BaseException:
            self._file.close()
            raise
        self._slots = self._file.slots
        self._agreed: Terms | None = None
        self._terms: Terms | None = None
        """The same, for this part of those who share the budget: mostly there is one."""
        self._parted_at = -PARTED_FOR
        self._warned: str | None = None
        self._circles: list[Circle] = []
        """Whom which limit binds, by the last look; none until anybody knows any terms."""
        self._sides: list[Side] = []
        """Of each limit that binds this process, what it and the others have a right to."""
        self._scarce = False
        """There are no more connections than processes: who waits now decides who has a right."""
        self._sure = MOST_SLOTS
        """What this process was sure of at the last look."""
        self._draining = self._failing = False
        self._starving = 0
        self._without_since = 0.0
        self._waits_since = math.inf
        self._rang_at = self._sought_at = 0.0
        self._held: dict[int, Slot] = {}
        self._asking: set[int] = set()
        self._hint = 0
        self._closed = False
        _open.add(self)

    def __repr__(self) -> str:
        return f"<HostLedger {self._name} {len(self._held)} held, {self.in_use} of {self.limit}>"

    # -- terms ---------------------------------------------------------------------------------

    @property
    def published(self) -> Granted | None:
        with self._lock:
            if self._closed:
                return None
            self._look(within=0)
            known = [
                (each.scope, each.terms.granted)
                for each in self._members.siblings()
                if each.terms is not None and each.terms.granted is not None
            ]
        # What the server reserves for some roles differs between them.
        akin = [granted for scope, granted in known if scope.role == self._scope.role]
        if not known:
            return None
        servers = [granted.server for granted in akin or [granted for _, granted in known]]
        return Granted(
            min((server for server in servers if server is not None), default=None),
            next((granted.role for granted in akin[::-1]), None),
            next(
                (g.database for at, g in known[::-1] if at.database == self._scope.database), None
            ),
        )

    def usual(self) -> int:
        with self._lock:
            if self._closed:
                return 0
            self._look(within=0)
            if not self._circles:
                return 0
            akin = [
                each
                for each in self._members.siblings()
                if each.scope.database == self._scope.database
            ]
            return usual(self._circles[0].limit, self._members.me, akin, self._past())

    def _past(self) -> int:
        """The most that one held which has ended lately."""
        held, at = self._file.past(self._scope.database)
        return held if 0 <= monotonic() - at < PAST else 0  # a reboot sets the clock back

    def agree(self, terms: Terms) -> Terms:
        with self._lock:
            self._insist_open()
            self._workers = terms.workers
            self._agreed = terms
            self._divide()
            self._tell()
            self._look(within=0)
            self._members.ring()
            ruling = self._ruling()
        self._callbacks.call()
        return (
            terms
            if ruling is None or self.parted
            else terms._replace(instance=min(terms.instance, ruling))
        )

    def _ruling(self) -> int | None:
        """The smallest of the limits that bind this process."""
        mine = self._members.me.number
        return min(
            (
                circle.limit
                for circle in self._circles
                if any(each.number == mine for each in circle.members)
            ),
            default=None,
        )

    # -- slots ---------------------------------------------------------------------------------

    def lease(self, n: int) -> list[Slot]:
        with self._lock:
            self._insist_open()
            if self._members.changed:
                self._look(within=0)
            n = min(n, self._allowed_by_other_parts())
            taken = self._taken(n)
            if len(taken) < n and self._look():  # some may have died
                taken += self._taken(n - len(taken))
            leased = [self._held[number] for number in taken]
            now = monotonic()
            if not self._held and now - self._sought_at >= RECHECK:
                self._sought_at = now
                leased += self._taken_over()
                self._tell()
            return leased

    def _taken(self, n: int) -> list[int]:
        """Up to *n* slots that were free, and that nobody else has a right to."""
        if self._terms is None:
            n = min(n, 1 - len(self._held))
        before = self._slots.count()
        n = min(n, self._room(before))
        if n <= 0:
            return []
        taken = [*self._found(n)]
        self._tell()
        after = self._slots.count()
        if after != before + len(taken) or len(self._sides) > 1:
            # Others have taken some at the same moment, and may have found the same room. Of those
            # who are too late for it one at least sees that here. Whose role or database a slot is
            # for is known a moment later than that it is taken.
            for number in taken[: max(0, -self._room(after))]:
                self._forget(number)
                taken.remove(number)
            self._tell()
        return taken

    def _allowed_by_other_parts(self) -> int:
        allowed = self._presence.allows(holds=bool(self._held))
        if not allowed:  # they may have made room just now
            self._divide()
            allowed = self._presence.allows(holds=bool(self._held))
        return allowed

    def _divide(self) -> None:
        """Go by this part's share, while there are other parts."""
        self._presence.look(self._fits)
        if self._presence.parts > 1:
            self._parted_at = monotonic()

    def _fits(self, parts: int) -> bool:
        if self._agreed is None:
            return True
        terms = divided(self._agreed, parts)
        if terms != self._terms:
            self._terms = terms
            self._tell()
            self._look(within=0)
        return not self._is_over()

    def _room(self, in_use: int) -> int:
        """How many slots more this process may take while *in_use* are taken; below 0, how many it
        has too many."""
        held = len(self._held)
        if not self._sides:
            return self._end() - in_use
        hungry = self._hungry()
        holds = self._file.all_held(self._members.end)
        room = MOST_SLOTS
        for side in self._sides if not self._scarce else self._sides_now():
            taken = in_use if side.within is None else self._count(side.within)
            kept = sum(
                max(0, right.sure - max(0, holds[number])) for number, right in side.others.items()
            )
            urgent = urgent_of(side.others, hungry)
            if not side.mine.sure and self._waits_in_vain(side.limit > taken and urgent > 0):
                urgent = 0
            free = side.limit - taken
            room = min(room, may_take(side.mine, held, free=free, kept=kept, urgent=urgent))
        return room

    def _waits_in_vain(self, for_others: bool) -> bool:
        """Whether those do not come whose turn it is, where there is not one for each. They may
        hang."""
        now = monotonic()
        self._waits_since = min(self._waits_since, now) if for_others else math.inf
        return now - self._waits_since > PATIENCE

    def _hungry(self) -> list[Member]:
        """The siblings that starve, for no more than all limits that bind them leave to them."""
        starving = self._members.starving()
        if starving and len(self._circles) > 1:
            members = self._rooms([self._members.me, *self._members.siblings()])[0][0].members
            return [each for each in members if each.number in starving]
        return [self._file.member(number) for number in starving]

    def _rooms(self, members: list[Member]) -> list[tuple[Circle, int]]:
        """Each circle as its members are now, and how many of its slots are free: less than none
        where more are taken than a smaller limit allows."""
        whole, *narrower = circles(members)
        free = [(circle, circle.limit - self._count(circle.within)) for circle in narrower]
        if free:
            whole = whole._replace(members=tuple(bound(members, free)))
        return [(whole, whole.limit - self._slots.count()), *free]

    def _count(self, within: Scope | None) -> int:
        """Slots that are taken within a scope, of which only one side is known."""
        if within is None:
            return self._slots.count()
        scopes = (self._file.slot(number).scope for number in self._slots.marked(0, MOST_SLOTS))
        return sum(_is_within(scope, within) for scope in scopes)

    def _end(self) -> int:
        """Below which number there are slots to be taken."""
        if self._circles:
            return self._circles[0].limit
        # Nobody knows the terms. Who hangs, or cannot ask, keeps nobody from asking.
        now = monotonic()
        late = sum(
            now - self._file.slot(number).since > PATIENCE
            for number in self._slots.marked(0, MOST_SLOTS)
        )
        return self._workers + late

    def _found(self, n: int) -> Iterator[int]:
        for _ in range(n):
            number = self._slots.take(0, self._end(), self._hint)
            if number is None:
                return
            self._hint = number
            self._held[number] = Slot(number)
            self._record(number, CONNECTING)
            yield number

    def _record(self, number: int, backend: Backend, dead_since: float = 0.0) -> None:
        record = SlotRecord(backend, self._scope, monotonic(), dead_since)
        self._file.write_slot(number, record)

    def _forget(self, number: int) -> None:
        del self._held[number]
        self._slots.free(number)
        self._hint = number

    def seated(self, slot: Slot, backend: Backend) -> None:
        with self._lock:
            slot.backend = backend
            if not self._closed and slot.number in self._held and slot.predecessor is None:
                self._file.write_slot(
                    slot.number, self._file.slot(slot.number)._replace(backend=backend)
                )

    def release(self, slot: Slot) -> None:
        with self._lock:
            if self._closed or slot.number not in self._held:
                return
            if slot.predecessor is not None:
                del self._held[slot.number]
                self._leave_to_the_dead(slot)
                return
            self._forget(slot.number)
            self._tell()
            self._members.ring(self._members.starving())
        self._callbacks.call()

    def abandon(self, slot: Slot) -> None:
        with self._lock:
            if self._closed or self._held.pop(slot.number, None) is None:
                return
            if slot.predecessor is not None:
                self._leave_to_the_dead(slot)
                return
            self._record(slot.number, slot.backend or CONNECTING, monotonic())
            self._slots.abandon(slot.number)
            self._tell()

    def drain(self) -> None:
        with self._lock:
            if self._closed or self._draining:
                return
            self._draining = True
            if len(self._held) > self._past():  # one that does little says nothing of the others
                self._file.write_past(self._scope.database, len(self._held), monotonic())
            self._tell()
            self._look(within=0)
            self._members.ring()

    # -- siblings ------------------------------------------------------------------------------

    def _tell(self) -> None:
        if not self._starving or self._held:
            self._without_since = 0.0
        elif not self._without_since:
            self._without_since = monotonic()
        self._members.tell(
            self._members.me._replace(
                terms=self._terms,
                held=len(self._held),
                starving=self._starving,
                draining=self._draining,
                failing=self._failing,
                without_since=self._without_since,
            )
        )

    def _look(self, **how: float) -> bool:
        if not self._members.look(**how):
            return False
        members = [self._members.me, *self._members.siblings()]
        self._circles = circles(members)
        self._sides = self._sides_now()
        self._sure = min((side.mine.sure for side in self._sides), default=self._sure)
        self._scarce = any(circle.limit <= len(circle.members) for circle in self._circles)
        return True

    def _sides_now(self) -> list[Side]:
        me, siblings = self._members.me, self._members.siblings()
        sides: list[Side] = []
        for circle, free in self._rooms([me, *siblings]) if self._circles else ():
            others = {**rights(circle.limit, circle.members, free)}
            mine = others.pop(me.number, None)
            if mine is not None:
                sides.append(Side(circle.limit, circle.within, mine, others))
        return sides

    def sure_of(self, floor: int) -> int:
        terms = self._terms
        if terms is None or self._sure >= terms.floor:
            return floor
        return min(floor, self._sure)

    def starving(self, n: int) -> None:
        if n == 0 and self._starving == 0:
            return
        with self._lock:
            if self._closed:
                return
            begins = self._starving == 0
            self._starving = n
            self._tell()
            now = monotonic()
            if n and (begins or now - self._rang_at >= RING_AGAIN):
                self._rang_at = now
                self._look(within=0)
                self._members.ring()

    def failing(self, fails: bool) -> None:
        if fails == self._failing:
            return
        with self._lock:
            if not self._closed:
                self._failing = fails
                self._tell()
                self._look(within=0)

    def wanted(self) -> Wanted:
        with self._lock:
            if self._closed or self._terms is None or not self._circles:
                return NOTHING_WANTED
            if not self._members.starving() and not self._is_over():
                return NOTHING_WANTED
            self._look(within=RECHECK / 2)
            me, siblings = self._members.me, self._members.siblings()
            asked = [
                asked_of(circle.limit, *_split(circle, me.number), max(0, -free), free)
                for circle, free in self._rooms([me, *siblings])
                if any(each.number == me.number for each in circle.members)
            ]
        return Wanted(max(each.idle for each in asked), max(each.returned for each in asked))

    def _is_over(self) -> bool:
        """More slots are taken than some limit allows."""
        return any(
            sum(self._file.member(each.number).held for each in circle.members) > circle.limit
            if circle.within
            else self._slots.count() > circle.limit
            for circle in self._circles
        )

    @property
    def lacked(self) -> bool:
        with self._lock:
            if self._closed or not self._held or not self._circles:
                return False
            starving = [self._file.member(number) for number in self._members.starving()]
            needed = sum(each.starving for each in starving if not each.draining)
            return needed > max(0, self._circles[0].limit - self._slots.count())

    def explain(self) -> str:
        with self._lock:
            if self._closed:
                return "The ledger is closed"
            self._look(within=0)
            me, siblings = self._members.me, self._members.siblings()
            if not self._circles:
                return unknown(me, siblings)
            binding, free = min(
                (
                    (circle, free)
                    for circle, free in self._rooms([me, *siblings])
                    if any(each.number == me.number for each in circle.members)
                ),
                key=lambda each: (each[1], each[0].limit),
            )
            return explained(binding, *_split(binding, me.number), binding.limit - free)

    @property
    def standing(self) -> int:
        with self._lock:
            if self._closed:
                return 0
            within, sharing = self._sharing()
            held = sum(each.held for each in sharing)
            taken = [self._file.slot(number) for number in self._slots.marked(0, MOST_SLOTS)]
            return held - sum(
                slot.backend == CONNECTING
                and not slot.dead_since
                and _is_within(slot.scope, within)
                for slot in taken
            )

    @property
    def sharers(self) -> int:
        with self._lock:
            if self._closed:
                return 1
            return len(self._sharing()[1])

    def _sharing(self) -> tuple[Scope | None, list[Member]]:
        """Whom the least limit binds that binds this process, as of now, and within which scope."""
        self._look(within=0)
        within = self._narrowest()
        living = [self._members.me, *self._members.siblings()]
        return within, [each for each in living if _is_within(each.scope, within)]

    def _narrowest(self) -> Scope | None:
        """Within which scope the least limit holds that binds this process."""
        side = min(self._sides, key=lambda side: side.limit, default=None)
        return side.within if side else None

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._callbacks.add(callback)

    def fileno(self) -> int:
        return -1 if self._closed else self._members.bell

    def heard(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._members.answer()
            self._look(within=0)
            self._tell()
        self._callbacks.call()

    # -- looking after it ----------------------------------------------------------------------

    def tend(self, say: Callable[[int, str], None]) -> bool:
        """Also what a lost bell would have told, and what others have done to the file."""
        with self._lock:
            if self._closed:
                return False
            with suppress(OSError):  # no room on the disk, which others need more
                self._file.mend()
            for number, slot in self._held.items():
                if slot.predecessor is None:
                    self._file.keep_slot(number, slot.backend or CONNECTING, self._scope)
            self._members.renew()
            self._divide()
            self._look(within=0)
            self._say_what_is_wrong(say)
            if not self._is_bereaved():
                return False
            for orphan in [*self._orphans()]:  # what needs no question is free now
                self._asking.discard(orphan.number)
                self._slots.abandon(orphan.number)
            return self._is_bereaved()

    def _is_bereaved(self) -> bool:
        """More slots are taken than the living hold."""
        living = sum(member.held for member in self._members.siblings())
        return self._slots.count() > len(self._held) + len(self._asking) + living

    def _say_what_is_wrong(self, say: Callable[[int, str], None]) -> None:
        wrong = self._folder.trouble()
        if wrong is None and not self._file.is_found(self._folder):
            wrong = f"the ledger {self._folder.path / self._name} was deleted or replaced"
        elif wrong is None and self._presence.parts > 1:
            wrong = f"not all processes share the ledger {self._folder.path / self._name}"
        if wrong is not None and self._warned is None:
            say(
                logging.WARNING,
                f"poolguard: {wrong}. Those who have it open go on sharing it. Those who start now "
                f"do not find it, and the budget is divided equally between them. A reload ends "
                f"that, once the folder is as it should be",
            )
        self._warned = wrong

    # -- the dead ------------------------------------------------------------------------------

    def orphans(self) -> list[Orphan]:
        with self._lock:
            if self._closed:
                return []
            taken_over = [
                Orphan(slot.number, slot.predecessor, overdue=True)
                for slot in self._held.values()
                if slot.predecessor is not None and slot.backend is not None
            ]
            return [*taken_over, *self._orphans()]

    def _orphans(self) -> Iterator[Orphan]:
        now = monotonic()
        for number in [*self._slots.inherit(0, MOST_SLOTS)]:
            record = self._file.slot(number)
            backend = record.backend
            if not 0 < record.dead_since <= now:  # later than now: the machine was started anew
                record = record._replace(dead_since=now)
                self._file.write_slot(number, record)
            dead_for = now - record.dead_since
            if backend.pid == POOLED.pid or (backend.pid == 0 and dead_for > UNSEATED_GRACE):
                self._slots.free(number)
            elif backend.pid == 0:
                self._slots.abandon(number)
            else:
                self._asking.add(number)
                yield Orphan(number, backend, dead_for > OVERDUE, record.scope)

    def settle(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        with self._lock:
            if self._closed:
                return
            known = frozenset(gone)  # they may be thousands, in a file that was damaged
            for orphan in orphans:
                self._settle(orphan, gone=orphan in known)
            if gone:
                self._members.ring(self._members.starving())
        if gone:
            self._callbacks.call()

    def _settle(self, orphan: Orphan, *, gone: bool) -> None:
        slot = self._held.get(orphan.number)
        if slot is not None:
            if gone and slot.predecessor == orphan.backend:
                slot.predecessor = None
                self._record(slot.number, slot.backend or CONNECTING)
                self._file.asker.free(0)
        elif orphan.number in self._asking:
            self._asking.discard(orphan.number)
            if gone:
                self._slots.free(orphan.number)
            else:
                self._slots.abandon(orphan.number)

    def _taken_over(self) -> Iterator[Slot]:
        """A dead owner's slot, where we have no connection to ask with and find no slot for one.

        Its backend has had the time to notice that its client is gone. If it has not, there is
        one connection too many until it has; one only, since one process at a time may do this.
        """
        asker = self._file.asker
        for _ in asker.inherit(0, 1):
            asker.free(0)
        if not asker.take_this(0):
            return
        chosen: Orphan | None = None
        for orphan in [*self._orphans()]:
            self._asking.discard(orphan.number)
            if chosen is None and orphan.overdue:
                chosen = orphan
            else:
                self._slots.abandon(orphan.number)
        if chosen is None:
            asker.free(0)
            return
        slot = self._held[chosen.number] = Slot(chosen.number)
        slot.predecessor = chosen.backend
        yield slot

    def _leave_to_the_dead(self, slot: Slot) -> None:
        """Give a slot back that was taken over, and whose first backend may still be there."""
        self._slots.abandon(slot.number)
        self._file.asker.free(0)
        self._tell()

    # -- the rest ------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        return any(slot.predecessor is not None for slot in [*self._held.values()])

    @property
    def parted(self) -> bool:
        with self._lock:
            if not self._closed:
                self._divide()
            return monotonic() - self._parted_at < PARTED_FOR

    @property
    def recheck(self) -> float | None:
        return RECHECK

    @property
    def in_use(self) -> int:
        with self._lock:
            if self._closed:
                return 0
            within = self._narrowest()
            if within is None and not self._is_alone():
                within = Scope(self._scope.database)
            return self._count(within)

    def _is_alone(self) -> bool:
        """Nobody else uses another database, as of the last look."""
        members = self._circles[0].members if self._circles else ()
        return all(each.scope.database == self._scope.database for each in members)

    @property
    def limit(self) -> int | None:
        return self._ruling()

    @property
    def part(self) -> int | None:
        with self._lock:
            if self._closed:
                return None
            self._look(within=0)
            limit = self._ruling()
            if limit is None or self._is_alone():
                return limit
            fair = rights(self._circles[0].limit, self._circles[0].members)
            akin = [
                fair[each.number].fair
                for each in self._circles[0].members
                if each.scope.database == self._scope.database
            ]
            return min(limit, sum(akin))

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._members.look(within=0)
            self._members.leave()
            self._presence.close()
            self._members.ring()  # what it was sure of is divided anew
            self._file.close()
            self._folder.close()

    def __del__(self) -> None:
        # A pool whose event loop has ended unclosed: what it held is waited for as the dead's is.
        if not getattr(self, "_closed", True):
            self.close()

    def _insist_open(self) -> None:
        if self._forked:
            raise ForkError(
                "this ledger was opened before the process was forked: open the guard in the child"
            )
        if self._closed:
            raise RuntimeDirError(f"the ledger {self._name} is closed: open the guard again")

    def disown(self) -> None:
        """In a forked child: the locks are the parent's, for as long as it lives.

        No lock of ours is taken, since one that was held at the fork is held for ever.
        """
        if not self._closed:
            self._closed = self._forked = True
            self._members.close()
            self._file.close()
            self._folder.close()


def _is_within(scope: Scope, within: Scope | None) -> bool:
    """*within* has one side only, and None stands for everywhere."""
    if within is None:
        return True
    if within.role:
        return scope.role == within.role
    return scope.database == within.database


def _split(circle: Circle, number: int) -> tuple[Member, list[Member]]:
    """The one with this *number*, and the others."""
    me = next(each for each in circle.members if each.number == number)
    return me, [each for each in circle.members if each.number != number]


_open: WeakSet[HostLedger] = WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_open):
        ledger.disown()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
