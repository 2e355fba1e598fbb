"""What a host does by its control session: the steps of its policy, taken at the server.

It is one session's part. What was leased by it ends with it.
"""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic

from ...util.logs import logger
from ..session import backends_of, gone_among, pids_of, to_be_ended
from ..sharing import Owed
from ..slots import Orphan
from . import statements as sql
from .board import Board
from .control import Control, Lost, Row
from .file import Standing
from .keys import Keys
from .notes import Note
from .own import OwnHost
from .policy import Policy
from .steps import Ask, Calm, Claim, Figures, Give, Look, Peek, Prove, Step
from .voice import Voice

__all__ = ["Session"]

ASK_EVERY = 0.1
"""Seconds between two questions about the sessions of dead owners, while a slot is needed."""
TIDY_AGAIN = 1.0
"""Seconds between two attempts to lease what is used here, and another host may have."""


class Session:
    """The host's control session, once it is a member of the fleet.

    :param leased: the slots whose leases it holds, its own among them.
    :param server: when the server was started, in seconds since the epoch.
    """

    def __init__(
        self, control: Control, keys: Keys, host: OwnHost, policy: Policy, voice: Voice
    ) -> None:
        self.control = control
        self.keys = keys
        self.leased: set[int] = set()
        self.server = 0.0
        self.listens = False
        """Other hosts' notes are heard."""
        self._host = host
        self._policy = policy
        self._voice = voice
        self._is_stale = True
        """This host is to be looked at before the next step."""
        self._reign = host.file.number()
        self._tidied_at = 0.0
        self._asked_at = 0.0
        """When there were slots of dead owners to ask about; 0: there were none."""
        self._noted = 0, 0, 0
        """The workers, floors and budget by which the host's rights were last worked out."""

    def __repr__(self) -> str:
        return f"<Session {self._policy.me} of {self.keys.label!r}, {len(self.leased)} leased>"

    # -- one round -----------------------------------------------------------------------------

    def work(self) -> bool:
        """Take the next step that is due; whether there was one. Raises :exc:`.Lost`."""
        self._hear()
        figures = self._host.look() if self._is_stale else self._host.figures()
        step = self._policy.next(monotonic(), figures)
        # A look at rest takes as long as all else, and what it finds is not of this host.
        self._is_stale = not isinstance(step, Look)
        if step is None:
            return False
        self._take(step, figures)
        return True

    def rest(self) -> float:
        """Do what is left once no step is due; seconds until the next one is. Raises
        :exc:`.Lost`."""
        now, figures = monotonic(), self._host.figures()
        self._host.order(self._policy.ordered(now))
        lost = self._host.lost()
        if lost and now - self._tidied_at >= TIDY_AGAIN:
            self._tidied_at = now
            self._tidy()
        if (figures.workers, figures.floors) != self._noted[:2]:
            self.note_standing()
        if figures.need and now - self._asked_at >= ASK_EVERY:
            self._asked_at = now if self._ask_about_the_dead() else 0.0
        now = monotonic()
        wait = max(0.0, self._policy.wake(now, figures) - now)
        if lost:
            wait = min(wait, TIDY_AGAIN)
        return min(wait, ASK_EVERY) if self._asked_at else wait

    def say(self, note: Note) -> None:
        """Tell all hosts. Raises :exc:`.Lost`."""
        self.control.ask(sql.notify(self.keys, note.text))

    def note_standing(self) -> None:
        """Tell this host's processes how the fleet stands."""
        policy, figures = self._policy, self._host.figures()
        before, budget = self._noted, policy.budget(figures)
        self._noted = figures.workers, figures.floors, budget
        others = [line for pid, line in policy.board.lines.items() if pid != policy.me]
        right = policy.right(figures)
        self._host.tell(
            Standing(
                budget=budget,
                hosts=1 + len(others),
                granted=sum(line.granted for line in others),
                used=sum(line.used for line in others),
                need=sum(line.need for line in others),
                guaranteed=right.guaranteed,
                fair=right.fair,
                lease=self.keys.lease,
                seat=self.keys.seat,
                server=self.server,
            )
        )
        if self._noted != before:  # they may have to give some up
            self._host.ring_all()

    def _hear(self) -> None:
        notes, self.control.heard = self.control.heard, []
        for text in notes:
            if (note := Note.parsed(text)) is not None:
                self._policy.heard(monotonic(), note)

    # -- steps ---------------------------------------------------------------------------------

    def _take(self, step: Step, figures: Figures) -> None:
        keys, policy, ask = self.keys, self._policy, self.control.ask
        if isinstance(step, Look):
            self._look(figures)
        elif isinstance(step, Give):
            self._give(step)
        elif isinstance(step, Claim):
            self._claim(step, figures)
        elif isinstance(step, Prove):
            [[row]] = ask(sql.prove(keys, step.slots))
            policy.proved(step)
            self.leased -= {*step.slots} - {*row["claimed"]}
            self._host.grant(row["claimed"])
        elif isinstance(step, Calm):
            ask(sql.calm(keys))
            policy.calmed()
        elif isinstance(step, Peek):
            _, [row] = ask(self._published(figures), sql.peek(keys, step.end))
            policy.peeked(monotonic(), figures, row["hosts"], urgent=row["urgent"])
        elif isinstance(step, Ask):
            self.say(Note("ask", policy.me, step.orders))

    def _published(self, figures: Figures) -> str:
        return sql.publish(self.keys, self._policy.line(monotonic(), figures))

    def _look(self, figures: Figures) -> None:
        *_, rows = self.control.ask(self._published(figures), sql.board(self.keys))
        self._saw(rows, figures)
        self._tidy()
        if self.listens != self._policy.notifies:
            self.listens = self._policy.notifies
            self.control.ask(sql.listen(self.keys, on=self.listens))

    def _saw(self, rows: Collection[Row], figures: Figures) -> None:
        board = Board.of(self.keys, rows)
        self._policy.saw(monotonic(), board, figures)
        self._voice.budgets(self._host.name, figures.budget, board, self._policy.me)
        self.note_standing()

    def _give(self, step: Give) -> None:
        policy = self._policy
        # First less is asked for, or the host's processes would give the same up again.
        order = policy.ordered(monotonic())
        self._host.order(Owed(*(max(0, n - step.n) for n in order)))
        slots = self._host.withhold(step.n)
        policy.gave(len(slots))
        self._host.order(policy.ordered(monotonic()))
        statements = [sql.give(self.keys, slots), self._published(self._host.figures())]
        if policy.notifies and slots:
            statements.append(sql.notify(self.keys, Note("freed", policy.me).text))
        self.control.ask(*statements)
        self.leased -= slots

    def _claim(self, step: Claim, figures: Figures) -> None:
        policy = self._policy
        claim = sql.claim(
            self.keys,
            step.n,
            step.end,
            self.leased,
            sure=step.sure,
            left=step.left,
            yields=not step.urgent,
            mark=step.urgent and not policy.urgent,
        )
        _, [row] = self.control.ask(self._published(figures), claim)
        got: list[int] = row["claimed"]
        self.leased |= {*got}
        if got and policy.notifies:  # they are used only once it is known whether a host is missing
            granted = figures.granted + len(got) - step.moves
            left = figures._replace(granted=granted, need=max(0, figures.need - len(got)))
            _, rows = self.control.ask(self._published(left), sql.board(self.keys))
            self._saw(rows, figures)
        if step.moves and got:
            self._move(got[0])
        usable = policy.claimed(monotonic(), step, got, row["lost"])
        policy.resting.pop(policy.slot, None)  # nothing but this session was to sit there
        self._host.grant([slot for slot in usable if slot != policy.slot])

    def _move(self, slot: int) -> None:
        before, self._policy.slot = self._policy.slot, slot
        [[seated], _] = self.control.ask(sql.sit(self.keys, slot), sql.stand_up(self.keys, before))
        self.leased.discard(before)
        if not seated["seated"]:
            raise Lost("the slot of the control session is another's")

    def _ask_about_the_dead(self) -> bool:
        """See which slots of dead owners are free, for processes that may have no connection to ask
        with; whether there are such slots."""
        dead = self._host.orphans
        if dead is None or not (orphans := dead.claim()):
            return False
        gone: list[Orphan] = []
        try:
            [rows] = self.control.ask(sql.alive(pids_of(orphans)))
            living = backends_of(rows)
            if overdue := to_be_ended(orphans, living):
                self.control.ask(sql.end(overdue))
                logger.info("ended %s sessions whose clients are gone", len(overdue))
            gone = gone_among(orphans, living)
        finally:
            dead.resolve(orphans, gone)
        return True

    def _tidy(self) -> None:
        """Lease what is used here without a lease, and give back what is leased for nothing."""
        granted, lost = self._host.granted(), self._host.lost()
        if self._host.file.number() != self._reign:
            return  # all of it is another keeper's by now
        stray = self.leased - granted - lost - self._policy.resting.keys() - {self._policy.slot}
        if lost:
            [[held], [sole]] = self.control.ask(
                sql.hold(self.keys, lost - self.leased), sql.alone(self.keys, lost)
            )
            self.leased |= {*held["claimed"]}
            self._host.grant(self.leased & {*sole["claimed"]})
        if stray:
            self.control.ask(sql.give(self.keys, stray))
            self.leased -= stray
