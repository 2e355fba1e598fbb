"""Connections over which a command gets no answer: which ones the server is asked about, and which
are lost. Pure: time is an argument.

A network that has lost a connection without a word leaves the application waiting until TCP gives
up, after a quarter of an hour. A slow query looks the same from here. What tells them apart is the
server's word, over another connection: it waits for a command itself, and nothing has come or gone
on either side for long enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from .entry import Check, Entry
from .evidence import IDLE, Asked, Command, Mark, Reply

__all__ = ["LONGEST_PAUSE", "LOOK_EVERY", "SUSPECT", "Suspect", "Suspects", "is_asking"]

SUSPECT = 0.3
"""Seconds after which a command without an answer is asked about, at the next look."""
LOOK_EVERY = 0.5
"""Seconds between two looks at what is lent; ..."""
QUICK = 0.05
"""... every other one comes as soon as a command becomes old enough that has been under way for so
many seconds: those that are quick need none."""
FIRST_PAUSE = 0.5
"""Seconds between the first two questions about a command that is alive; each pause is twice as
long as the one before."""
SHORTEST_REPLY = 0.1
"""Seconds for which a reply is awaited at least, ..."""
REPLY_FACTOR = 4
"""... and so many times of what the last one took."""
LONGEST_PAUSE = 2.0
"""Seconds between two questions, at most, as long as commands become old enough to be asked about:
where many queries are long, the server is asked for nearly all of them at once."""
REFUSED_FOR = 600.0
"""Seconds for which a server is asked nothing more that has refused an answer."""
SLOWEST_WAY = 128 * 1024
"""Bytes a second that a slow way to the server carries: a megabit."""
RESENT = 3
"""Times that a packet was sent again, without an acknowledgement, until it counts as unheard: after
0.2, 0.4 and 0.8 seconds at the least (Linux, ``TCP_RTO_MIN``)."""


class Evidence(NamedTuple):
    """The server waited for a command itself, as this one was under way."""

    mark: Mark
    server: float
    changed: float
    until: float
    """When it is to be asked whether it still does."""


class Suspect:
    """A command that has been under way for long. Times by the monotonic clock."""

    def __init__(self, entry: Entry, number: int, since: float, ask_at: float) -> None:
        self.entry = entry
        self.number = number
        self.since = since
        self.ask_at = ask_at
        self.pause = FIRST_PAUSE
        self.command: Command | None = None
        """What this side saw of it at the last look."""
        self.server: float | None = None
        """The server that has said that it has the session."""
        self.evidence: Evidence | None = None
        self.verdict = ""
        """Why the connection is lost, if it is, ..."""
        self.last: Mark | None = None
        """... as long as this is true of the command."""

    def __repr__(self) -> str:
        said = f" {self.verdict}" if self.verdict else ""
        return f"<Suspect {self.number} since {self.since:.3f}{said}>"

    def calm(self, at: float, longest: float) -> None:
        """It is likely to be alive: ask again after twice as long as before."""
        self.evidence = None
        self.ask_at = at + self.pause
        self.pause = min(longest, 2 * self.pause)

    def weigh(self, asked: Asked, reply: Reply, now: float, check_timeout: float) -> bool:
        """Weigh what the server says; whether that speaks against the command.

        A packet that was lost is sent again, after twice as long each time. So what is late for *t*
        seconds may come after *t* more, though the network be well again: so long is waited, and
        *check_timeout* more, until the server is asked for the second time. Where much was sent, a
        tunnel may have acknowledged all of it, and still be passing it on.
        """
        said = reply.of(asked.backend)
        if said is None:
            # Another server does not know it either, or a pooler has made up the pid.
            if self.server != reply.server:
                return False
            self.verdict, self.last = "the server has no such session any more", asked.mark
            return True
        self.server = reply.server
        if said.state not in IDLE or said.changed is None or said.still is None:
            return False
        known = self.evidence
        same = (asked.mark, reply.server, said.changed)
        if known is None or same != (known.mark, known.server, known.changed):
            late = min(asked.at - self.since, max(0.0, said.still))
            passed_on = (asked.mark.acked - self.entry.sent_before) / SLOWEST_WAY
            self.ask_at = now + late + max(check_timeout, passed_on)
            self.evidence = Evidence(*same, self.ask_at)
        elif asked.at >= known.until:
            self.last = asked.mark
            self.verdict = f"the server has waited for a command itself for {said.still:.1f} s"
        return True


def is_asking(now: float, reply_time: float, checks: Iterable[Check]) -> bool:
    """Whether the reply to a question about such commands is under way, and not late."""
    return any(check.question and check.since + reply_time > now for check in checks)


class Suspects:
    """The commands of one pool that have been under way for long. Times by the monotonic clock.

    :param longest: seconds between two questions about the same command, at most.
    """

    def __init__(
        self,
        check_timeout: float,
        longest: float,
        command_of: Callable[[Entry], Command | None],
        sent_over: Callable[[Entry], int],
    ) -> None:
        self.due: Sequence[Suspect] = ()
        """The server is to be asked about these."""
        self.at_rest = False
        """Nothing is lent, nor was since the last look: the next acquire is to ring."""
        self._check_timeout = check_timeout
        self._longest = longest
        self._command_of = command_of
        self._sent_over = sent_over
        self._known: Mapping[Entry, Suspect] = {}
        self._numbers = count(1)
        self._soonest_from = 0.0
        self._unheard_from = 0.0
        self._refused_until = 0.0
        self._pause = FIRST_PAUSE
        self.reply_time = SHORTEST_REPLY
        """Seconds within which the server is to reply; later, the way to it is in doubt."""
        self._ask_from = 0.0

    def __repr__(self) -> str:
        return f"<Suspects: {len(self._known)}, {len(self.due)} to be asked about>"

    def look(self, now: float, entries: Iterable[Entry], *, is_quiet: bool) -> float | None:
        """Look at those of the *entries* that are lent; returns when to look again.

        :param is_quiet: none is, nor was since the last look.
        """
        remote = [entry for entry in entries if entry.is_remote]
        lent = [entry for entry in remote if entry.state in ("lent", "resetting")]
        for entry in remote:
            if entry.state == "idle" and not (is_quiet and self.at_rest):
                entry.sent_before = self._sent_over(entry)
        self.at_rest = is_quiet and bool(remote)
        waits = {entry: since for entry in lent if (since := entry.waits_since)}
        known = [self._suspect(e, s, now) for e, s in waits.items() if now >= s + SUSPECT]
        self._known = {suspect.entry: suspect for suspect in known}
        if not known:
            self._pause, self._ask_from = FIRST_PAUSE, 0.0
        self.due = [each for each in known if each.ask_at <= now and self._is_open(each, now)]
        return None if is_quiet or not remote else self._next_look(now, waits.values())

    def _suspect(self, entry: Entry, since: float, now: float) -> Suspect:
        known = self._known.get(entry)
        if known is not None and known.since == since:
            return known
        return Suspect(entry, next(self._numbers), since, ask_at=now)

    def _next_look(self, now: float, waits: Iterable[float]) -> float:
        regular = now + LOOK_EVERY
        again = [each.ask_at for each in self._known.values() if each.evidence]
        if now >= self._soonest_from:
            slow = (since + SUSPECT for since in waits if now >= since + QUICK)
            soonest = min(slow, default=regular)
            if now < soonest < regular:
                self._soonest_from = soonest + LOOK_EVERY
                again.append(soonest)
        return min([regular, *(at for at in again if at > now)])

    def _is_open(self, suspect: Suspect, now: float) -> bool:
        """Whether there is anything to ask about this one now."""
        command = suspect.command = self._command_of(suspect.entry)
        if command is None or command.mark.since != suspect.since:
            suspect.calm(now, self._longest)
            return False
        return now >= self._refused_until and (
            suspect.evidence is not None or now >= self._ask_from
        )

    def lost(self) -> Iterable[Suspect]:
        """Those whose connections are to be cut: still nothing has come or gone over them."""
        for suspect in self._known.values():
            if not suspect.verdict:
                continue
            command = self._command_of(suspect.entry)
            if command is not None and command.mark == suspect.last:
                yield suspect
            else:
                suspect.verdict, suspect.evidence = "", None

    def give_up(self, pool: str, entry: Entry, now: float) -> str:
        """The connection of *entry* is being cut; the answer is what is to be logged."""
        self._unheard_from = now + self._check_timeout
        suspect = self._known.get(entry)
        told = "" if suspect is None else suspect.verdict
        why = told or "nothing sent over it is acknowledged, and no other could ask the server"
        return (
            f"pool {pool!r} has cut a connection that the network has lost without a word: an "
            f"answer was awaited for {now - entry.waits_since:.1f} s, and {why}"
        )

    def unheard(self, now: float) -> Entry | None:
        """The one whose packets have gone unacknowledged for longest, far too long. But not just
        after one was cut: what is opened in its place can ask about the others."""
        found = None
        if now < self._unheard_from:
            return None
        longest = self._check_timeout
        for suspect in self.due:
            command = suspect.command
            if command is None or not command.unacked or command.retransmits < RESENT:
                continue
            unheard = min(command.unheard, now - suspect.since)
            if unheard > longest:
                found, longest = suspect.entry, unheard
        return found

    def ask(self, now: float, checking: Iterable[Entry]) -> tuple[Asked, ...]:
        """What is to be asked now, unless one of those that are *checking* asks already."""
        checks = (entry.check for entry in checking if entry.check)
        if not self.due or is_asking(now, self.reply_time, checks):
            return ()
        question = []
        for suspect in self.due:
            slot, command = suspect.entry.slot, suspect.command
            backend = None if slot is None else slot.backend
            if backend is None or backend.pid <= 0 or command is None:  # it is with a pooler
                suspect.calm(now, self._longest)
                continue
            suspect.ask_at = now + self.reply_time  # should there be no reply
            question.append(Asked(suspect.number, backend, command.mark, now))
        self.due = ()
        return tuple(question)

    def refused(self, now: float) -> None:
        """The server cannot say that, or does not want to."""
        self._refused_until = now + REFUSED_FOR

    def heard(self, now: float, question: Sequence[Asked], reply: Reply) -> None:
        """The server has replied to a *question*."""
        took = now - min((asked.at for asked in question), default=now)
        self.reply_time = min(self._check_timeout / 2, max(SHORTEST_REPLY, REPLY_FACTOR * took))
        known = {suspect.number: suspect for suspect in self._known.values()}
        any_speaks = False
        for asked in question:
            suspect = known.get(asked.number)
            if suspect is None:
                continue  # its answer has come
            speaks = suspect.weigh(asked, reply, now, self._check_timeout)
            any_speaks |= speaks
            if not speaks:
                suspect.calm(asked.at, self._longest)
        if not any_speaks:
            self._ask_from = now + self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
