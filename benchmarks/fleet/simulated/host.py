"""One simulated host: its keeper takes the steps of a real ``Policy``, each for a round trip.

What its workers do is simplified. They take what is free at once, and give up what is owed as
connections lie idle or come back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from poolguard.budget.fleet.keys import DOOR
from poolguard.budget.fleet.policy import (
    Ask,
    Calm,
    Claim,
    Figures,
    Give,
    Look,
    Note,
    Peek,
    Policy,
    Prove,
    Step,
)
from poolguard.budget.sharing import Owed

from .world import CLAIM, KEYS, OF_A_HOST, PEEK, World

ROUND_TRIP = 0.001
LOGIN = 0.02
CONNECT = 0.05
"""Until a pooled connection can be used."""
CLOSE = 0.006
"""From the close of a connection to its slot being free."""
HOLD = 0.05
"""For how long a request has its connection, at most."""
SHRINKS = 5.0
"""After which connections are closed that lie idle beyond the floors. A pool's is minutes."""
RETRY = (0.05, 2.0)
JOINED = 2
"""Messages of a host that joins, beside that with which it is seated."""


class Host:
    """One host, which begins to join at once.

    :param demand: connections that its requests use at once.
    :param fleet: all hosts that there are or were.
    """

    def __init__(
        self, world: World, fleet: list[Host], demand: int, *, workers: int = 8, floors: int = 8
    ) -> None:
        self.world, self.demand, self.workers, self.floors = world, demand, workers, floors
        self.pid = world.pid()
        self.policy = Policy(f"host-{self.pid}")
        self.lives = False
        """It has a control session."""
        self.listens = False
        self.asked_at = world.now
        """When it joined, or its load changed."""
        self.floors_at: float | None = None
        self.fair_at: float | None = None
        """When it had its floors, and its fair share, for the first time since then."""
        self._fleet = fleet
        self._free: list[int] = []
        """Slots that were granted, and that no worker uses."""
        self._used: set[int] = set()
        self._opening = 0
        self._yielding = 0
        """Connections that are being closed for other hosts."""
        self._leaves = self._shrinks = self._asking = False
        self._inbox: list[Note] = []
        self._timer = 0
        fleet.append(self)
        world.after(LOGIN + JOINED * ROUND_TRIP, self._join, RETRY[0])

    @property
    def has(self) -> int:
        """Slots that it can use."""
        return len(self._free) + len(self._used)

    @property
    def fair(self) -> int:
        """Its fair share by the workers of all, whatever it knows of them."""
        living = [host for host in self._fleet if host.lives]
        room = self.world.budget - len(living) - 1
        return room * self.workers // max(1, sum(host.workers for host in living))

    def check(self) -> None:
        """Raise AssertionError where it has what it was not leased."""
        leased = {slot for slot, pid in self.world.leased.items() if pid == self.pid}
        have = {*self._free, *self._used, *self.policy.resting, self.policy.slot}
        # While a step is under way more is leased: claimed and not known, or given and not heard.
        assert have <= leased if self._asking else have == leased

    # -- what happens to it --------------------------------------------------------------------

    def wants(self, demand: int) -> None:
        """Its load changes."""
        self.demand = demand
        self.asked_at, self.floors_at, self.fair_at = self.world.now, None, None
        self._note()
        self._act()

    def leave(self) -> None:
        """It ends in order: its pools close, and it says so."""
        self._leaves, self.demand = True, 0
        self._shrink()
        self._act()

    def vanish(self) -> None:
        """It ends at once, and its sessions a moment later."""
        world = self.world
        for slot in (*self._used, self.policy.slot):
            world.after(CLOSE, world.stand_up, slot)
        self._end()

    def hear(self, note: Note, /) -> None:
        """It is notified."""
        self._inbox.append(note)
        self._act()

    def _join(self, pause: float) -> None:
        world, policy, f = self.world, self.policy, self._figures
        world.lines[self.pid] = policy.line(world.now, f).text(KEYS)
        world.began[self.pid] = world.now - JOINED * ROUND_TRIP
        policy.joined(world.now, self.pid, DOOR, lost=False, restarted=True)
        policy.saw(world.now, world.board(), f)
        world.count(self.pid, "join", 5, CLAIM)
        slot = world.seat(policy.budget(f), self.pid)
        if slot is None:
            del world.lines[self.pid]
            world.after(pause, self._join, min(RETRY[1], 2 * pause))
            return
        for selects in (2, 3):
            world.count(self.pid, "join", selects)
        world.members[self.pid] = self
        self.lives, self.listens, policy.slot = True, policy.notifies, slot
        world.notify(Note("hello", self.pid))
        self._act()

    def _end(self) -> None:
        world = self.world
        self.lives = self.listens = False
        del world.members[self.pid], world.lines[self.pid]
        world.urgent.discard(self.pid)
        world.give([slot for slot, pid in world.leased.items() if pid == self.pid], self.pid)

    def _note(self) -> None:
        """Note when it had what is its by right."""
        if self.floors_at is None and self.has >= min(self.floors, self.fair):
            self.floors_at = self.world.now
        if self.fair_at is None and self.has >= min(max(self.demand, self.floors), self.fair):
            self.fair_at = self.world.now

    # -- its keeper ----------------------------------------------------------------------------

    @property
    def _figures(self) -> Figures:
        """As the host's processes tell them."""
        return Figures(
            self.world.budget,
            self.workers,
            self.floors,
            self.has,
            len(self._used),
            len(self._free),
            max(0, self._want - self.has),
            self._leaves,
        )

    def _act(self) -> None:
        """Take the next step, unless one is under way."""
        if self._asking or not self.lives:
            return
        now, policy = self.world.now, self.policy
        inbox, self._inbox = self._inbox, []
        for note in inbox:
            policy.heard(now, note)
        self._settle()
        f = self._figures
        step = policy.next(now, f)
        if step is not None:
            self._asking = True
            if isinstance(step, Give):
                policy.gave(step.n)
            slots = self._withheld(step.n) if isinstance(step, Give) else []
            self.world.after(ROUND_TRIP / 2, self._arrive, step, f, slots)
            return
        if self._leaves and not self.has and not policy.resting:
            self._bye()
            return
        self._obey(policy.ordered(now))
        wake = policy.wake(now, f)
        assert wake > now, f"{policy!r} has nothing to do, and does not wait: {f}"
        self._timer += 1
        self.world.after(wake - now, self._wake, self._timer)

    def _wake(self, timer: int) -> None:
        if timer == self._timer:
            self._act()

    def _bye(self) -> None:
        self.world.count(self.pid, "join", 1)
        self.world.stand_up(self.policy.slot)
        self._end()
        self.world.notify(Note("bye", self.pid))

    def _arrive(self, step: Step, f: Figures, slots: list[int]) -> None:
        """The step is taken at the server, and then answered."""
        if not self.lives:
            return
        world, policy, kind = self.world, self.policy, type(step).__name__
        answer: Callable[[], None] | None = None
        if isinstance(step, Give):
            world.give(slots, self.pid)
            if policy.notifies and slots:
                world.notify(Note("freed", self.pid))
        elif isinstance(step, Claim):
            answer = self._claim(step, f)
        elif isinstance(step, Look):
            answer = partial(self._saw, world.board(), f)
        elif isinstance(step, Peek):
            answer = self._peek(step, f)
        elif isinstance(step, Ask):
            world.notify(Note("ask", self.pid, step.orders))
        elif isinstance(step, Calm):
            world.urgent.discard(self.pid)
            answer = policy.calmed
        else:
            answer = partial(self._proved, step)
        tells = isinstance(step, (Give, Claim, Look, Peek))
        if tells:
            world.lines[self.pid] = policy.line(world.now, self._figures).text(KEYS)
        world.count(self.pid, kind, 1 + tells, CLAIM if isinstance(step, Claim) else 0.0)
        world.after(ROUND_TRIP / 2, self._answered, answer)

    def _answered(self, answer: Callable[[], None] | None) -> None:
        if self.lives:
            self._asking = False
            if answer is not None:
                answer()
            self._note()
            self._act()

    def _saw(self, board: Any, f: Figures) -> None:
        self.policy.saw(self.world.now, board, f)
        self.listens = self.policy.notifies

    def _peek(self, step: Peek, f: Figures) -> Callable[[], None]:
        world = self.world
        hosts, urgent = min(step.end - 1, len(world.members)), bool(world.urgent - {self.pid})
        world.asked.seconds += PEEK + OF_A_HOST * hosts
        return lambda: self.policy.peeked(world.now, f, hosts, urgent=urgent)

    def _proved(self, step: Prove) -> None:
        self.policy.proved(step)
        self._free += step.slots

    def _claim(self, step: Claim, f: Figures) -> Callable[[], None]:
        world, got = self.world, list[int]()
        if step.urgent:
            world.urgent.add(self.pid)
        if step.urgent or not world.urgent - {self.pid}:
            got = world.claim(step.n, step.end, self.pid, sure=step.sure, left=step.left)
        return partial(self._claimed, step, f, got)

    def _claimed(self, step: Claim, f: Figures, got: list[int]) -> None:
        world, policy = self.world, self.policy
        if got and policy.notifies:  # one more message: is a host missing?
            had = f._replace(granted=f.granted + len(got), need=max(0, f.need - len(got)))
            world.lines[self.pid] = policy.line(world.now, had).text(KEYS)
            world.count(self.pid, "Look", 2)
            policy.saw(world.now, world.board(), f)
        usable = policy.claimed(world.now, step, got)
        if step.moves and got:
            new, old, policy.slot = got[0], policy.slot, got[0]
            world.count(self.pid, "Claim", 2)
            world.seated.add(new)
            world.stand_up(old)
            world.give([old], self.pid)
            policy.resting.pop(new, None)
        self._free += [slot for slot in usable if slot != policy.slot]

    # -- its workers ---------------------------------------------------------------------------

    @property
    def _want(self) -> int:
        """Connections that its pools would have: a floor is kept warm as far as it is sure."""
        if self._leaves:
            return 0
        return max(self.demand, self.floors if not self.lives else self._sure)

    @property
    def _sure(self) -> int:
        f = Figures(self.world.budget, self.workers, self.floors, self.has, 0, 0, 0)
        return min(self.floors, self.policy.right(f).guaranteed or 1)

    def _withheld(self, n: int) -> list[int]:
        self._free.sort()
        kept = max(0, len(self._free) - n)
        slots = self._free[kept:]
        del self._free[kept:]
        return slots

    def _settle(self) -> None:
        """Workers take what is free and not owed."""
        owed, want = self.policy.ordered(self.world.now), self._want
        kept = owed.returned if want > len(self._used) else max(owed)
        self._open(min(len(self._free) - kept, want - len(self._used)))
        if len(self._used) > want and not self._shrinks:
            self._shrinks = True
            self.world.after(SHRINKS, self._shrink)

    def _open(self, n: int) -> None:
        for _ in range(n):
            slot = self._free.pop()
            self._used.add(slot)
            self.world.seated.add(slot)
            self._opening += 1
            self.world.asked.connects += 1
            self.world.after(CONNECT, self._opened)

    def _opened(self) -> None:
        self._opening -= 1
        if self.policy.ordered(self.world.now).idle:
            self._act()

    def _shrink(self) -> None:
        self._shrinks = False
        if self.lives:
            self._close(len(self._used) - self._yielding - self._want, 0.0)

    def _obey(self, owed: Owed) -> None:
        """Give up what is owed to other hosts, idle connections first."""
        idle = max(0, len(self._used) - self._opening - self.demand)
        if len(self._used) >= self._want:
            self._close(min(owed.idle, idle) - self._yielding, 0.0)
        busy = len(self._used) - self._opening - self._yielding
        self._close(min(owed.returned - self._yielding, busy), HOLD)

    def _close(self, n: int, within: float) -> None:
        for _ in range(n):
            self._yielding += 1
            self.world.after(CLOSE + self.world.random.uniform(0, within), self._closed)

    def _closed(self) -> None:
        if not self.lives:
            return
        self._yielding -= 1
        slot = self._used.pop()
        self.world.stand_up(slot)
        self._free.append(slot)
        self._act()
