"""The ledger that all processes of one user on one host share for one database.

It is a file in the runtime folder. Of its slots the first are the workers' *floors*: with three
workers and a floor of two, the slots 0 and 3 are the first worker's, 1 and 4 the second's, 2 and 5
the third's. A worker holds its *place*, and nobody else leases the slots of a place that is held.
All other slots are shared: whoever needs them borrows them.

Nothing in the file needs repair after a death, since every claim is a lock that the kernel frees.
But the server goes on with what a killed client had asked it, so a dead owner's slot stays taken
until the server was asked, and says that the backend is gone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator
from time import monotonic
from weakref import WeakSet

from ..errors import ForkError, RuntimeDirError
from ..rundir import RuntimeDir
from .hostfile import MOST_SLOTS, HostFile
from .ledger import NOTHING_WANTED, POOLED, Backend, Callbacks, Orphan, Slot, Terms, Wanted
from .members import Members
from .sharing import asked_of, is_scarce, may_take, usual

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

PAST = 600.0
"""Seconds for which it matters what a process held that has ended: a service that is started again
has the load that it had."""

CONNECTING = Backend(0, 0.0)


class HostLedger:
    """One process' part in the ledger *name* of *folder*, which it closes in the end.

    :param workers: processes that get a floor. Until the terms are known (:meth:`agree`), each of
        them may lease one slot: no budget that can be divided at all is smaller than that.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where the file is no ledger.
    """

    def __init__(self, folder: RuntimeDir, name: str, *, workers: int) -> None:
        self._folder = folder
        self._name = name
        self._workers = workers
        self._lock = threading.Lock()
        self._callbacks = Callbacks()
        self._forked = False
        self._file = HostFile(folder, f"{name}.ledger")
        try:
            self._members = Members(self._file, folder, name)
        except BaseException:
            self._file.close()
            raise
        self._slots = self._file.slots
        self._places = self._file.places
        self._terms: Terms | None = None
        self._limit: int | None = None
        """The smallest share that a living process knows of; None until one knows terms."""
        self._floors = 0
        """So many slots at the beginning are the workers' floors."""
        self._scarce = False
        """There is less than one slot for each."""
        self._place: int | None = None
        self._draining = False
        self._starving = 0
        self._rang_at = self._sought_at = 0.0
        self._held: dict[int, Slot] = {}
        self._borrowed: set[int] = set()
        self._asking: set[int] = set()
        self._hint = 0
        self._closed = False
        _open.add(self)

    def __repr__(self) -> str:
        return f"<HostLedger {self._name} {len(self._held)} held, {self.in_use} of {self._limit}>"

    # -- terms ---------------------------------------------------------------------------------

    @property
    def published(self) -> int | None:
        with self._lock:
            if self._closed:
                return None
            self._look(within=0)
            terms = [member.terms for member in self._members.siblings()]
        known = [each.capacity for each in terms if each is not None and each.capacity is not None]
        return known[-1] if known else None

    def usual(self) -> int:
        with self._lock:
            if self._closed:
                return 0
            self._look(within=0)
            if self._limit is None:
                return 0
            me, siblings = self._members.me, self._members.siblings()
            return usual(self._limit, me, siblings, self._past())

    def _past(self) -> int:
        """The most that one held which has ended lately."""
        held, at = self._file.past()
        return held if 0 <= monotonic() - at < PAST else 0  # a reboot sets the clock back

    def agree(self, terms: Terms) -> Terms:
        with self._lock:
            self._insist_open()
            if terms.workers != self._workers:
                self._leave_place()
                self._workers = terms.workers
            self._terms = terms
            self._tell()
            self._look(within=0)
            self._settle_down()
            self._members.ring()
            others = [each.terms for each in self._members.siblings() if each.terms is not None]
        self._callbacks.call()
        return min([terms, *others], key=lambda each: each.instance)

    # -- slots ---------------------------------------------------------------------------------

    def lease(self, n: int) -> list[Slot]:
        with self._lock:
            self._insist_open()
            if self._place is None:
                self._settle_down()
            allowed = min(n, self._allowed())
            leased = [*self._leased(allowed)]
            if len(leased) < allowed and self._look():
                self._settle_down()
                leased += self._leased(allowed - len(leased))
            now = monotonic()
            if not self._held and now - self._sought_at >= RECHECK:
                self._sought_at = now
                leased += self._taken_over()
            self._tell()
            return leased

    def _allowed(self) -> int:
        """How many slots more this process may take; those in need of their share come first."""
        if self._limit is None or not self._members.starving():
            return MOST_SLOTS
        self._look(within=RECHECK / 2)
        me = self._members.me._replace(held=len(self._held))
        return may_take(self._limit, me, self._members.siblings(), self._free_shared(self._limit))

    def _free_shared(self, limit: int) -> int:
        return self._slots.count_free(0 if self._scarce else self._floors, limit)

    def _leased(self, n: int) -> Iterator[Slot]:
        for _ in range(n):
            number = self._take_one()
            if number is None:
                return
            self._file.write_slot(number, CONNECTING)
            yield self._hold(number)

    def _take_one(self) -> int | None:
        if self._terms is None and self._held:
            return None
        for own in self._own():
            if self._slots.take_this(own):
                return own
        if self._limit is None:
            return None
        first = 0 if self._scarce else self._floors
        number = self._slots.take(first, self._limit, self._hint)
        if number is not None:
            self._hint = number
        return number

    def _hold(self, number: int) -> Slot:
        slot = self._held[number] = Slot(number)
        if number not in self._own():
            self._borrowed.add(number)
        return slot

    def _sort(self) -> None:
        """Know again which slots are borrowed: none of our place, and none still asked about."""
        own = self._own()
        self._borrowed = {
            number
            for number, slot in self._held.items()
            if number not in own and slot.predecessor is None
        }

    def seated(self, slot: Slot, backend: Backend) -> None:
        with self._lock:
            slot.backend = backend
            if not self._closed and slot.number in self._held and slot.predecessor is None:
                self._file.write_slot(slot.number, backend)

    def release(self, slot: Slot) -> None:
        with self._lock:
            if self._closed or self._held.pop(slot.number, None) is None:
                return
            if slot.predecessor is not None:
                self._leave_to_the_dead(slot)
                return
            freed = slot.number
            if freed in self._borrowed:
                self._borrowed.discard(freed)
            elif self._borrowed:
                freed = self._exchange(freed)  # it is the shared ones that others can use
            self._slots.free(freed)
            self._hint = freed
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
            self._borrowed.discard(slot.number)
            self._file.write_slot(slot.number, slot.backend or CONNECTING, monotonic())
            self._slots.abandon(slot.number)
            self._tell()

    def _exchange(self, own: int) -> int:
        """Have a borrowed slot's connection held by our free slot *own*; returns the borrowed one.

        The record is written first: should we die in between, both stay taken until that one
        backend is gone.
        """
        borrowed = self._borrowed.pop()
        slot = self._held.pop(borrowed)
        self._file.write_slot(own, slot.backend or CONNECTING)
        slot.number = own
        self._held[own] = slot
        return borrowed

    # -- places --------------------------------------------------------------------------------

    def _own(self) -> range:
        """The slots of our place: one until the terms are known."""
        if self._place is None:
            return range(0)
        if self._terms is None or self._limit is None:
            return range(self._place, self._place + 1)
        return range(self._place, min(self._floors, self._limit), self._terms.workers)

    def _settle_down(self) -> None:
        """Take a place if one is free, and hold with its slots what we hold with shared ones."""
        if self._draining or (self._place is None and not self._take_place()):
            return
        freed = False
        for own in self._own():
            if not self._borrowed:
                break
            if self._slots.take_this(own):
                self._slots.free(self._exchange(own))
                freed = True
        if freed:
            self._members.ring(self._members.starving())

    def _take_place(self) -> bool:
        self._place = self._places.take(0, self._workers, 0)
        for place in self._places.inherit(0, self._workers) if self._place is None else ():
            if self._place is None:
                self._place = place
            else:
                self._places.free(place)
        self._sort()
        return self._place is not None

    def _leave_place(self) -> None:
        if self._place is not None:
            self._places.free(self._place)
            self._place = None
        self._sort()

    def drain(self) -> None:
        with self._lock:
            if self._closed or self._draining:
                return
            self._draining = True
            if len(self._held) > self._past():  # one that does little says nothing of the others
                self._file.write_past(len(self._held), monotonic())
            self._leave_place()
            self._tell()
            self._look(within=0)
            self._members.ring()

    # -- siblings ------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._members.tell(
            terms=self._terms,
            held=len(self._held),
            starving=self._starving,
            draining=self._draining,
        )

    def _look(self, **how: float) -> bool:
        if not self._members.look(**how):
            return False
        others = [each.terms for each in self._members.siblings() if each.terms is not None]
        known = others if self._terms is None else [self._terms, *others]
        ruling = min(known, key=lambda each: each.instance, default=None)
        self._limit = None if ruling is None else ruling.instance
        layout = self._terms or ruling
        self._floors = 0 if layout is None else layout.workers * layout.floor
        self._scarce = self._limit is not None and is_scarce(
            self._limit, self._members.me, self._members.siblings()
        )
        return True

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

    def wanted(self) -> Wanted:
        with self._lock:
            if self._closed or self._terms is None or self._limit is None:
                return NOTHING_WANTED
            over = sum(number >= self._limit for number in self._held)
            if not over and not self._members.starving():
                return NOTHING_WANTED
            self._look(within=RECHECK / 2)
            free = self._free_shared(self._limit)
            return asked_of(self._limit, self._members.me, self._members.siblings(), over, free)

    def sure_of(self, floor: int) -> int:
        if self._scarce:
            return 0
        if self._place is None or self._terms is None:
            return floor
        return max(min(floor, 1), floor - (self._terms.floor - len(self._own())))

    @property
    def standing(self) -> int:
        with self._lock:
            if self._closed:
                return 0
            self._look(within=0)
            held = sum(each.held for each in (self._members.me, *self._members.siblings()))
            taken = [self._file.slot(number) for number in self._slots.marked(0, MOST_SLOTS)]
            return held - sum(backend == CONNECTING and not dead for backend, dead in taken)

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
            self._settle_down()
            self._tell()
        self._callbacks.call()

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
            backend, dead_since = self._file.slot(number)
            if not 0 < dead_since <= now:  # later than now: the machine was started anew
                dead_since = now
                self._file.write_slot(number, backend, dead_since)
            if backend.pid == POOLED.pid or (
                backend.pid == 0 and now - dead_since > UNSEATED_GRACE
            ):
                self._slots.free(number)
            elif backend.pid == 0:
                self._slots.abandon(number)
            else:
                self._asking.add(number)
                yield Orphan(number, backend, overdue=now - dead_since > OVERDUE)

    def settle(self, orphans: Collection[Orphan], gone: Collection[Orphan]) -> None:
        with self._lock:
            if self._closed:
                return
            for orphan in orphans:
                self._settle(orphan, gone=orphan in gone)
            if gone:
                self._members.ring(self._members.starving())
        if gone:
            self._callbacks.call()

    def _settle(self, orphan: Orphan, *, gone: bool) -> None:
        slot = self._held.get(orphan.number)
        if slot is not None:
            if gone and slot.predecessor == orphan.backend:
                slot.predecessor = None
                self._sort()
                self._file.write_slot(slot.number, slot.backend or CONNECTING)
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
    def recheck(self) -> float | None:
        return RECHECK

    @property
    def in_use(self) -> int:
        with self._lock:
            return 0 if self._closed else self._slots.count()

    @property
    def limit(self) -> int | None:
        return self._limit

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._leave_place()
            self._members.leave()
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
            os.close(self._members.bell)
            self._file.close()
            self._folder.close()


_open: WeakSet[HostLedger] = WeakSet()


def _after_fork_in_child() -> None:
    for ledger in list(_open):
        ledger.disown()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
