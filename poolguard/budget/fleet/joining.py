"""How a host joins its fleet: it has a control session, and leases what it uses and had before.

A host that joins has a session before it has a slot for it, for as long as one message takes. So
all that decides whether it may stay is in that message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from time import monotonic
from typing import NamedTuple

from . import statements as sql
from .board import Board, Line
from .control import Connect, Control, Lost, Row
from .keys import DOOR, VERSION, Keys
from .locks import shortage
from .notes import Note
from .own import OwnHost
from .policy import Policy
from .room import room_for_pools
from .session import Session
from .succession import has_ended, shut
from .voice import Voice

__all__ = ["Estate", "FleetSettings", "Joining"]

PREDECESSOR_ENDS = 3.0
"""Seconds that a keeper waits for its predecessor's session to end, whose locks it shares."""
DOOR_TAKEN = 0.3
"""The same where it finds no slot at all, and another one that joins stands in the door: seconds.
What it is one session beyond, it is for a moment each time that it asks."""
CROWDED = 15.0
"""Seconds until a host tries again that finds too many of them: while it asks, it is one session
beyond the budget."""
OFTEN_ENOUGH = 0.01
"""Seconds between two questions whether a session has ended."""


class FleetSettings(NamedTuple):
    """What a host goes by."""

    connect: Connect
    """Opens a connection to the database that has the ledger."""
    label: str | None
    """The fleet's name; None: that of the control session's role and database."""
    host: str
    """This host's name, for people that read the board."""
    pooled: bool = False
    """A pooler may stand before that database: it gives a session to one client alone."""


class Estate(NamedTuple):
    """What a keeper takes over from the reign before."""

    free: frozenset[int] = frozenset()
    """Slots that were granted then, and that no process used."""
    pid: int = 0
    """Of that reign's control session."""
    slot: int = DOOR
    """Of that session."""
    session: int | None = None
    """A copy of its socket; None where it has ended."""

    @property
    def lives(self) -> bool:
        """Whether that reign's control session is there still, with all its locks."""
        return self.session is not None and not has_ended(self.session)

    def close(self) -> None:
        """Close the copy."""
        if self.session is not None:
            os.close(self.session)


class Joining:
    """The joining of one host, as often as it has to."""

    def __init__(
        self, settings: FleetSettings, host: OwnHost, policy: Policy, voice: Voice
    ) -> None:
        self._settings = settings
        self._host = host
        self._policy = policy
        self._voice = voice
        self._keys = Keys.of(settings.label or "")
        self._server = 0.0
        """When the server was started that had the last control session."""

    def __repr__(self) -> str:
        return f"<Joining {self._host.name} to {self._keys.label!r}>"

    def join(self, estate: Estate) -> tuple[Session, set[int]]:
        """Have a control session.

        Returns it with the slots that may be granted now: no other host has leased them. Raises
        :exc:`.Lost` where that fails.
        """
        line = self._policy.line(monotonic(), self._host.look())
        control = Control(self._settings.connect, line.text(self._keys))
        try:
            board, claimed = self._admit(control, estate)
            session = Session(control, self._keys, self._host, self._policy, self._voice)
            session.server = self._server
            if not estate.lives and self._is_own(board.lines.get(estate.pid)):
                # The network has lost it. Its server would keep it, and its locks, for a while.
                self._end(session, estate.pid, at_once=True)
            sole = self._take_over(session, estate, claimed)
            self._announce(session)
        except BaseException:
            control.close()
            raise
        return session, sole - {self._policy.slot}

    def _admit(self, control: Control, estate: Estate) -> tuple[Board, list[int]]:
        """See whether this is a server that can have the ledger, and a fleet of this version.
        Returns the board, and the slot that was claimed for the session itself, if one was free."""
        self._keys = keys = Keys.of(self._settings.label or control.default_label)
        figures = self._host.figures()
        line = self._policy.line(monotonic(), figures)
        _, [facts], _, rows, [row] = control.ask(
            sql.set_up(),
            sql.FACTS,
            sql.publish(keys, line),
            sql.board(keys),
            sql.nothing() if estate.lives else self._claim_seat(),
        )
        board = Board.of(keys, rows)
        self._insist(facts, board, control)
        self._insist_on_room(board, figures.budget, {facts["pid"], estate.pid})
        restarted = facts["server"] != self._server
        lost = self._host.file.standing().server == facts["server"] and not estate.lives
        self._server = facts["server"]
        self._policy.joined(monotonic(), facts["pid"], DOOR, lost=lost, restarted=restarted)
        self._policy.saw(monotonic(), board, figures)
        claimed: list[int] = row["claimed"]
        return board, claimed

    def _is_own(self, line: Line | None) -> bool:
        """Whether a session is this host's: its pid may be that of another one by now."""
        return line is not None and line.is_of(self._settings.host)

    def _claim_seat(self) -> str:
        figures = self._host.figures()
        end = self._policy.budget(figures) or 2 + max(1, figures.workers)
        return sql.claim_seat(self._keys, end)

    def _insist(self, facts: Row, board: Board, control: Control) -> None:
        """Raise :exc:`.Lost` where the ledger cannot be had there."""
        if facts["pid"] != control.pid and not self._settings.pooled:
            raise Lost(
                "a pooler stands between, whose sessions are not this host's own: set ledger_dsn "
                "to the database past the pooler; or pooler to 'session' where that is what it "
                "is; or ledger to 'host', and leave it to the pooler to bound what all hosts have"
            )
        if facts["standby"]:
            raise Lost(
                "it is a standby, which has no locks in common with its primary: set ledger_dsn "
                "to a database of the primary, or ledger to 'host'"
            )
        if board.strangers:
            versions = ", ".join(map(str, sorted(board.strangers)))
            raise Lost(
                f"other members of the fleet {self._keys.label!r} go by version {versions} of its "
                f"protocol, and this one by {VERSION}: end those first, or give this one a "
                f"ledger_label of its own"
            )
        budget = self._policy.budget(self._host.figures())
        if (why := shortage(budget, facts["locks"])) is not None:
            raise Lost(why)

    def _insist_on_room(self, board: Board, own: int, mine: Collection[int]) -> None:
        """Raise :exc:`.Lost` where with this host there would be so many that no connection is left
        for any.

        :param own: the budget by this host's settings; 0 while it does not know it.
        :param mine: the pids of its own control sessions.
        """
        budget = min((n for n in (own, board.budget) if n), default=0)
        others = len(board.lines.keys() - mine)
        if budget and not room_for_pools(budget, others + 1):
            raise Lost(
                f"its budget of {budget} connections has no room for another host: {others} are "
                f"there, and each has a control session. Raise budget, or run fewer hosts",
                again=CROWDED,
            )

    def _take_over(self, session: Session, estate: Estate, claimed: list[int]) -> set[int]:
        """Lease what is in use here, and what was granted before.

        Returns those that no other host has leased meanwhile. A slot that one has stays in use here
        until it is given up, and is not granted again.
        """
        keys, used, ask = self._keys, self._host.taken(), session.control.ask
        if not estate.lives:
            slot = self._policy.slot = self._seat(session, claimed)
            [[held], [sole], [again]] = ask(
                sql.hold(keys, used),
                sql.alone(keys, used),
                sql.claim_these(keys, estate.free - {slot}),
            )
        else:
            [[held], [free], [own]] = ask(
                *(sql.hold(keys, each) for each in (used, estate.free, [estate.slot]))
            )
            self._end_predecessor(session, estate)
            [[sole], [again], [seated]] = ask(
                sql.alone(keys, held["claimed"]),
                sql.prove(keys, free["claimed"]),
                sql.sit(keys, estate.slot),
            )
            sits = own["claimed"] and seated["seated"]
            slot = self._policy.slot = estate.slot if sits else self._seat(session, [])
        session.leased = {slot, *held["claimed"], *again["claimed"]}
        return session.leased & {*sole["claimed"], *again["claimed"]}

    def _seat(self, session: Session, claimed: list[int]) -> int:
        """The slot of the control session itself; the door where no other was free."""
        if not claimed:
            [[row]] = session.control.ask(self._claim_seat())
            claimed = row["claimed"]
        if not claimed:
            raise Lost(
                "no slot of the budget is free for another host, and others are joining",
                again=DOOR_TAKEN,
            )
        return claimed[0]

    def _end_predecessor(self, session: Session, estate: Estate) -> None:
        """End the session of the reign before: all that it has leased is leased by this one."""
        if estate.session is not None:
            shut(os.dup(estate.session))
        self._end(session, estate.pid)
        bye = Note("bye", estate.pid)
        self._policy.heard(monotonic(), bye)
        session.say(bye)

    def _end(self, session: Session, pid: int, *, at_once: bool = False) -> None:
        """Have the server end the control session of this *pid*, unless it ends by itself."""
        ask = session.control.ask
        if at_once:
            ask(sql.end_session(self._keys, pid))
        until = monotonic() + PREDECESSOR_ENDS
        while ask(sql.is_there(pid))[0][0]["there"]:
            if monotonic() > until:
                ask(sql.end_session(self._keys, pid))
                break
            time.sleep(OFTEN_ENOUGH)  # by its module: gevent's, where that has replaced it

    def _announce(self, session: Session) -> None:
        """Tell all hosts that there is another one, once the board says so too."""
        session.listens = self._policy.notifies
        line = self._policy.line(monotonic(), self._host.look())
        session.control.ask(
            sql.listen(self._keys, on=session.listens),
            sql.number(self._keys),
            sql.publish(self._keys, line),
            sql.notify(self._keys, Note("hello", self._policy.me).text),
        )
