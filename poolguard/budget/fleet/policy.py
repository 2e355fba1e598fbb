"""What one host of a fleet does next: who gives what to whom. Pure: time is an argument.

A host leases slots from the fleet and divides them among its workers. What is decided here is the
first half: how many it claims, gives back and asks others for. It decides one step at a time, which
is then taken at the server, and what came of it is told to the policy.

Hosts of a fleet up to :data:`MOST_NOTIFIED` notify each other of what they need and have freed. In
a larger one each that has something to give looks now and then whether another host needs what is
its by right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

from ..sharing import Owed
from .board import Board, Line
from .debts import ASKED_FOR, Debts
from .notes import Note
from .steps import Ask, Calm, Claim, Figures, Give, Look, Peek, Prove, Step
from .view import MOST_NOTIFIED, FleetView

__all__ = [
    "ASKED_FOR",
    "MOST_NOTIFIED",
    "REST",
    "SPARE",
    "Ask",
    "Calm",
    "Claim",
    "Figures",
    "Give",
    "Look",
    "Note",
    "Peek",
    "Policy",
    "Prove",
    "Step",
]

SPARE = 1
"""Slots that a host keeps though it does not need them."""
TRIM = 2.0
"""Seconds after which a host gives back what it has not needed."""
REST = 2.0
"""Seconds that a slot rests once it is claimed, where its last holder may have lost it and not
know that yet: a connect that was under way for it has ended by then, and holds the seat."""
LOST = 5.0
"""Seconds for which a host goes by how many slots are lost: it counts them again as it claims."""
LOOK = 30.0, 60.0
"""Seconds between two looks at the board at rest: hosts that die do not say so. The second where
nothing has changed here for :data:`QUIET`. ..."""
LOOKS_A_SECOND = 4.0
"""... But so many hosts in a second, at most: a look costs the server the more the larger the fleet
is."""
LOOK_SOON = 1.0
"""Seconds within which a host looks that has heard of another that comes or goes."""


class Pace(NamedTuple):
    """How often one host does something in vain. Seconds."""

    first: float
    last: float
    slower: float
    """By what each pause is longer than the one before."""
    a_second: float = math.inf
    """So many hosts do it in a second, at most, where all do."""


CLAIMS = Pace(0.1, 0.5, 1.3, 1000), Pace(0.1, 2.0, 1.6, 100)
"""The claims of a host that lacks what is its by right, and of another one."""
REQUESTS = Pace(0.1, 1.0, 1.5), Pace(1.0, 8.0, 1.5)
"""The same for what it asks of other hosts."""
FREED_AGAIN = 0.02
"""Seconds between two claims of one host, at least, however often others free some."""
PEEK = (0.1, 1.0, 6.0)
"""Seconds after which a host sees again whether another one needs what is its by right: while one
does; while none does; and where nothing has changed here for :data:`QUIET`. ..."""
PEEKS_A_SECOND = (1000, 200, 200)
"""... But so many hosts in a second, at most."""
QUIET = 60.0


class Policy(FleetView):
    """What one host knows of its fleet, and does next. Times by one clock, in seconds.

    :param host: its name, for the board.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.urgent = False
        """The mark that this host is below its fair share is set."""
        self._random = Random(0)
        self._debts = Debts()
        self._push = 0
        """How much this host has given at its last peek, while another host was in need."""
        self._missing: dict[int, float] = {}
        """Hosts that have vanished without a word, and until when what they had rests."""
        self._rejoined_until = -math.inf
        self._hellos: set[int] = set()
        """Hosts that have come since the board was read."""
        self._byes: set[int] = set()
        self._look_at = -math.inf
        self._looked_at = -math.inf
        self._lost_until = -math.inf
        self._peeked_at = -math.inf
        self._peek_pace = 1.0
        self._claim_at = -math.inf
        self._claimed_at = -math.inf
        self._in_vain = 0
        """Claims, one after the other, that have brought nothing."""
        self._goes_round = False
        """There is not one slot for each host: one that has waited long is not to be slower."""
        self._ask_at = -math.inf
        self._asked = 0
        """Requests since this host has begun to need something."""
        self._spare_since: float | None = None
        self._changed = (Figures(0, 0, 0, 0, 0, 0, 0), -math.inf)
        """The last figures, and since when they are so."""

    def __repr__(self) -> str:
        return (
            f"<Policy {self.me} of {self.hosts} hosts, slot {self.slot}, "
            f"{len(self.resting)} resting>"
        )

    # -- what has happened ---------------------------------------------------------------------

    def joined(self, now: float, me: int, slot: int, *, lost: bool, restarted: bool) -> None:
        """The host has a control session, whose pid is *me* and whose slot is *slot*.

        :param lost: it had one before, and has lost what it had leased with it.
        :param restarted: the server was started since then: no session of before is left.
        """
        before, self.me, self.slot = self.me, me, slot
        self._changed = self._changed[0], now
        if restarted:
            self.read(now, Board())
            self._missing.clear()
        elif lost:
            self._byes.add(before)
            self._rejoined_until = now + REST
        self._random = Random(me)
        self.resting.clear()
        self.urgent = False
        self._debts.clear()
        self._push = 0
        self._look_at = self._claim_at = self._ask_at = self._claimed_at = -math.inf
        self._in_vain = self._asked = 0

    def saw(self, now: float, board: Board, f: Figures) -> None:
        """The board was read."""
        known = self.board.lines.keys() | self._hellos
        self._hellos.clear()
        gone = known - board.lines.keys() - self._byes - {self.me}
        if not known:  # nothing is known of what went before, but by those that it has befallen
            gone = {pid for pid, line in board.lines.items() if line.rejoined}
        elif not self.notifies:  # nobody hears who says bye, and what is seen was long ago
            gone = set()
        self._missing |= dict.fromkeys(gone, now + REST)
        self._byes &= board.lines.keys()
        # Who has said bye may be read once more: its server has not ended the session yet.
        there = {pid: line for pid, line in board.lines.items() if pid not in self._byes}
        if there.keys() != self.board.lines.keys():
            self.lost = 0  # a host that has lost its control session may have it back
        self.read(now, board._replace(lines=there))
        self._looked_at = now
        pause = LOOK[now - self._changed[1] > QUIET]
        if not self.notifies:
            pause = max(pause, self.hosts / LOOKS_A_SECOND)
        self._look_at = now + pause * self._random.uniform(0.8, 1.0)
        if (over := self.excess(f)) or not self.notifies:  # each host sees by itself what it owes
            self._debts.owe(now, self.me, self.orders(f, over)[self.me])
        if over:
            self._look_at = now + ASKED_FOR

    def peeked(self, now: float, f: Figures, hosts: int, *, urgent: bool) -> None:
        """So many *hosts* were counted, and whether another one needs what is its by right."""
        self.counted(hosts)
        self._peeked_at = now
        self._peek_pace = self._random.uniform(0.8, 1.2)
        if not urgent:
            self._push = 0
            return
        # How much is needed nobody has told: the host begins with a part of what it can give, and
        # doubles it for as long as that was not enough.
        right, held = self.right(f), self.whole(f).granted
        idle, returned = max(0, held - right.guaranteed), max(0, held - right.fair)
        self._push = 2 * self._push if self._push else max(1, -(-idle // 8))
        self._debts.owe(now, self.me, Owed(min(idle, self._push), min(returned, self._push)))

    def heard(self, now: float, note: Note) -> None:
        """Another host has notified all."""
        if note.sender == self.me:
            return
        if note.word == "bye":
            self._byes.add(note.sender)
            self._hellos.discard(note.sender)
            if self._missing.pop(note.sender, None) is not None and not _rests(now, self._missing):
                self.resting = dict.fromkeys(self.resting, now)
        elif note.word == "hello":
            self._byes.discard(note.sender)  # a session has the pid of one that has ended
            self._hellos.add(note.sender)
            self.arrivals.note(now, note.sender)
        if note.word in ("hello", "bye"):
            if self.notifies:
                self.was_told(1 if note.word == "hello" else -1)
                soon = now + LOOK_SOON * self._random.uniform(0.2, 1.0)
                self._look_at = min(self._look_at, soon)
        elif note.word == "freed":
            # Whoever is below its fair share claims now. The others need not try all at once.
            pace = max(FREED_AGAIN, self.hosts / CLAIMS[0].a_second)
            pause = 0.0 if self.urgent else CLAIMS[0].first * self._random.uniform(0.2, 1.0)
            self._claim_at = min(self._claim_at, max(now, self._claimed_at + pace) + pause)
        elif note.word == "ask" and (order := note.orders.get(self.me)) is not None:
            self._debts.owe(now, note.sender, order)

    def claimed(
        self, now: float, step: Claim, got: Sequence[int], lost: int | None = None
    ) -> list[int]:
        """The *step* was taken, and *got* these slots. Returns those that can be used at once.

        :param lost: so many slots are occupied, and leased by no host; None: they were not counted.
        """
        if lost is not None:
            self.lost, self._lost_until = lost, now + LOST
        self.urgent = self.urgent or step.urgent
        self._claimed_at = now
        if len(got) < step.n:
            pace = CLAIMS[not step.urgent]
            most = max(pace.last, self.hosts / pace.a_second)
            slower = 1.0 if self._goes_round else pace.slower
            pause = min(most, pace.first * slower ** min(self._in_vain, 20))
            self._claim_at = now + pause * self._random.uniform(0.8, 1.2)
        self._in_vain = 0 if got else self._in_vain + 1
        if not _rests(now, self._missing):
            return [*got]
        for slot in got:
            self.resting[slot] = now + REST
        return []

    def proved(self, step: Prove) -> None:
        """The step was taken."""
        for slot in step.slots:
            self.resting.pop(slot, None)

    def gave(self, n: int) -> None:
        """So many slots were given back."""
        self._debts.paid(n)
        self._spare_since = None

    def calmed(self) -> None:
        """The step was taken."""
        self.urgent = False

    # -- what is to be done --------------------------------------------------------------------

    def line(self, now: float, f: Figures) -> Line:
        """What this host tells of itself."""
        f = self.whole(f)
        numbers = f.budget, f.workers, f.floors, f.granted, f.used, f.need
        return Line(self.host, *numbers, f.draining, now < self._rejoined_until)

    def ordered(self, now: float) -> Owed:
        """What other hosts have asked this one for, and not been given yet."""
        return self._debts.owed(now)

    def next(self, now: float, f: Figures) -> Step | None:
        """The next step that is due; None where none is until :meth:`wake`."""
        if f != self._changed[0]:
            self._changed = f, now
        if now >= self._lost_until:
            self.lost = 0
        if not self.wants(f):
            self._in_vain = self._asked = 0
            self._claim_at = min(self._claim_at, now + CLAIMS[0].first)
        elif self.lacks(f) and not self.urgent:
            soon = max(now, self._claimed_at + CLAIMS[0].first)
            self._claim_at = min(self._claim_at, soon)
        # Not by their truth: a step without figures is an empty tuple.
        due = (step for step in self._due(now, f) if step is not None)
        return next(due, None)

    def wake(self, now: float, f: Figures) -> float:
        """When the next step is due, unless something happens before. After :meth:`next` has told
        that none is."""
        times = [self._look_at, self._peek_at(now, f), *self.resting.values()]
        if self.wants(f):
            yields = any(self.ordered(now)) and not self.lacks(f)
            times.append(max(self._claim_at, self._debts.end(now)) if yields else self._claim_at)
            if self._may_ask(f):
                times.append(self._ask_at)
        if self._spare_since is not None:
            times.append(self._spare_since + TRIM)
        return min(times)

    def _due(self, now: float, f: Figures) -> Iterator[Step | None]:
        yield self._giving(now, f)
        if ripe := tuple(slot for slot, until in self.resting.items() if until <= now):
            yield Prove(ripe)
        if self.urgent and not self.lacks(f):
            yield Calm()
        if self.wants(f):
            yield self._claiming(now, f)
            yield self._asking(now, f)
        if now >= self._look_at:
            yield Look()
        if now >= self._peek_at(now, f):
            yield Peek(2 * self.hosts + 64)

    def _giving(self, now: float, f: Figures) -> Give | None:
        order = self.ordered(now)
        owing = min(f.free, order.returned if f.need else max(order))
        if owing > 0:
            return Give(owing)
        surplus = 0 if f.need else f.free - (0 if f.draining else SPARE)
        surplus = max(surplus, f.beyond)
        if surplus <= 0:
            self._spare_since = None
            return None
        if self._spare_since is None:
            self._spare_since = now
        if f.draining or f.beyond or now >= self._spare_since + TRIM:
            return Give(surplus)
        return None

    def _claiming(self, now: float, f: Figures) -> Claim | None:
        if now < self._claim_at:
            return None
        wants, budget = self.wants(f), self.budget(f)
        moves = wants > self.whole(f).need
        if not budget:  # the first connection asks what there is: there is one for each worker
            return Claim(wants, 2 + max(1, f.workers), urgent=False, moves=moves)
        # A host has a session before it has a slot. Where several come at once, each leaves to the
        # next ones what they need first of all: a slot for that, and for each of their processes.
        left = self.arrivals.expected(now, self.me) * (1 + max(1, f.workers))
        sure = moves + max(0, f.workers - self.whole(f).granted) if left else 0
        if lacks := self.lacks(f, SPARE):
            self._goes_round = not self.right(f).guaranteed
            return Claim(lacks, budget, urgent=True, moves=moves, sure=sure, left=left)
        if any(self.ordered(now)):
            return None  # it would take what it has just given
        return Claim(wants + SPARE, budget, urgent=False, sure=sure, left=left)

    def _may_ask(self, f: Figures) -> bool:
        return self._in_vain > 0 and self.notifies and self.budget(f) > 0

    def _asking(self, now: float, f: Figures) -> Ask | Look | None:
        if now < self._ask_at or not self._may_ask(f):
            return None
        if self._looked_at < self._claimed_at:
            return Look()
        pace = REQUESTS[not self.lacks(f)]
        pause = min(pace.last, pace.first * pace.slower**self._asked)
        self._ask_at = now + pause * self._random.uniform(0.8, 1.2)
        self._asked = min(20, self._asked + 1)
        orders = self.orders(f, after=self.me).items()
        asked = {pid: order for pid, order in orders if any(order) and pid != self.me}
        return Ask(asked) if asked else None

    def _peek_at(self, now: float, f: Figures) -> float:
        """When to see next whether another host is in need, and how many there are: where this one
        has something to give, or has to know what its share has come to."""
        if self.notifies:
            return math.inf
        if not self.is_counted:
            return -math.inf
        right, held = self.right(f), self.whole(f).granted
        calm = 2 if now - self._changed[1] > QUIET else 1
        which = 0 if self._push else calm
        several = self.lenders(f) / PEEKS_A_SECOND[which]
        if held > max(right.fair, right.guaranteed + SPARE):
            pause = max(PEEK[which], several)
        elif held > right.guaranteed + SPARE and (self._push or not f.need):
            # What is idle may be of use, and its fair share may be smaller than it knows.
            pause = max(PEEK[calm], several)
        elif f.need:
            pause = max(PEEK[1], self.hosts / CLAIMS[not self.urgent].a_second)
        else:
            return math.inf
        return self._peeked_at + self._peek_pace * pause


def _rests(now: float, missing: Mapping[int, float]) -> bool:
    """A slot that is claimed now may be one that its last holder does not know to be lost."""
    return any(now < until for until in missing.values())
