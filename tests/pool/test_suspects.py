"""Which commands the server is asked about, and when it has said enough: no clock, no server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from poolguard.budget.slots import POOLED, Backend, Slot
from poolguard.pool.entry import Check, Entry
from poolguard.pool.evidence import Asked, Command, Mark, Reply, Said
from poolguard.pool.suspects import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LOOK_EVERY,
    QUICK,
    RESENT,
    SHORTEST_REPLY,
    SLOWEST_WAY,
    SUSPECT,
    Suspects,
)

NOW = 1000.0
"""When the command of these tests begins to be waited for."""
TIMEOUT, LONGEST = 1.0, 25.0
SERVER = 17.0
BACKEND = Backend(4711, 5.0)


def lent(slot: Slot, waits_since: float, tcp: socket.socket | None) -> Entry:
    entry = Entry(slot, 0.0)
    entry.state, entry.waits_since, entry.socket = "lent", waits_since, tcp
    return entry


class Bench:
    """One lent connection, what this side sees of its command, and what the server says of it."""

    def __init__(self, tcp: socket.socket) -> None:
        self.entry = lent(Slot(0), NOW, tcp)
        self.entry.slot.backend = BACKEND  # type: ignore[union-attr]
        self.command: Command | None = Command(Mark(NOW, 100, 200))
        self.entries = [self.entry]
        self.suspects = Suspects(TIMEOUT, LONGEST, self._command_of, lambda _: self.sent)
        self.is_quiet = False
        self.sent = 0
        """Bytes, as long as the connection is idle."""

    def _command_of(self, entry: Entry) -> Command | None:
        if self.command is None or entry.waits_since == self.command.mark.since:
            return self.command
        return self.command._replace(mark=self.command.mark._replace(since=entry.waits_since))

    def look(self, at: float) -> Any:
        """When it looks again, in seconds from the look."""
        wake = self.suspects.look(at, self.entries, is_quiet=self.is_quiet)
        return None if wake is None else pytest.approx(wake - at)

    def ask(self, at: float) -> tuple[Asked, ...]:
        self.look(at)
        return self.suspects.ask(at, ())

    def tell(self, at: float, **said: Any) -> bool:
        """Have the server asked and say that; whether there was anything to ask."""
        question = self.ask(at)
        if question:
            self.hear(at, question, **said)
        return bool(question)

    def hear(
        self, at: float, question: tuple[Asked, ...], server: float = SERVER, **said: Any
    ) -> None:
        idle = {"pid": BACKEND.pid, "started": BACKEND.started, "state": "idle", "changed": 7.0}
        session = Said(**{**idle, "still": at - NOW + 60.0, **said})
        self.suspects.heard(at, question, Reply(server, {session.pid: session}))

    def lost(self) -> bool:
        return [each.entry for each in self.suspects.lost()] == [self.entry]


@pytest.fixture
def bench() -> Iterator[Bench]:
    with socket.socket() as tcp:
        yield Bench(tcp)


# -- looking


def test_what_is_lent_is_looked_at_twice_a_second_and_nothing_at_rest(bench: Bench) -> None:
    bench.entry.waits_since = 0.0
    assert bench.look(NOW) == LOOK_EVERY
    assert not bench.suspects.at_rest
    bench.entry.state = "idle"
    assert bench.look(NOW + 1) == LOOK_EVERY  # one was lent and came back since the last look
    bench.is_quiet = True
    assert bench.look(NOW + 2) is None
    assert bench.suspects.at_rest


def test_at_rest_the_kernel_is_asked_nothing_of_idle_connections(bench: Bench) -> None:
    bench.entry.state = "idle"
    bench.is_quiet = True
    bench.look(NOW)
    bench.sent = 7
    bench.look(NOW + 1)
    assert bench.entry.sent_before == 0
    bench.is_quiet = False
    bench.look(NOW + 2)
    assert bench.entry.sent_before == 7


def test_a_connection_within_this_host_is_not_looked_at(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as local:
        bench.entry.socket = local
        assert bench.look(NOW + 9) is None
        assert not bench.suspects.at_rest  # an acquire need not ring, either
    bench.entry.socket = None
    assert bench.ask(NOW + 9) == ()


def test_a_command_is_looked_at_as_soon_as_it_is_old_enough(bench: Bench) -> None:
    """But with many of them, not once for each; and nobody waits for those that are quick."""
    assert bench.look(NOW + 0.9 * QUICK) == LOOK_EVERY
    assert bench.look(NOW + 0.1) == SUSPECT - 0.1
    bench.entry.waits_since = NOW + 0.2
    assert bench.look(NOW + SUSPECT) == LOOK_EVERY
    bench.entry.waits_since = NOW + 0.7
    assert bench.look(NOW + SUSPECT + LOOK_EVERY) == pytest.approx(0.2)
    assert bench.suspects.due == []


# -- asking


def test_one_that_has_been_out_for_long_is_asked_about(bench: Bench) -> None:
    assert bench.ask(NOW + SUSPECT - 0.01) == ()
    [asked] = bench.ask(NOW + SUSPECT)
    assert asked == Asked(1, BACKEND, Mark(NOW, 100, 200), NOW + SUSPECT)
    assert not bench.suspects.due


def test_it_is_not_asked_about_while_a_reply_may_come(bench: Bench) -> None:
    question = bench.ask(NOW + 1)
    assert bench.ask(NOW + 1 + SHORTEST_REPLY / 2) == ()
    bench.look(NOW + 1 + SHORTEST_REPLY)
    under_way = Check(NOW + 1 + SHORTEST_REPLY / 2, question=question)
    assert bench.suspects.ask(NOW + 1 + SHORTEST_REPLY, [checking(under_way)]) == ()
    late = Check(NOW + 1, question=question)
    assert bench.suspects.ask(NOW + 1 + SHORTEST_REPLY, [checking(late)]) != ()


def checking(check: Check) -> Entry:
    entry = Entry(None, 0.0)
    entry.state, entry.check = "checking", check
    return entry


def test_what_this_side_cannot_judge_is_not_asked_about(bench: Bench) -> None:
    """Such as a pipeline, a listener that waits, or one whose answer lies here unread."""
    bench.command = None
    assert bench.ask(NOW + 1) == ()


@pytest.mark.parametrize("backend", [POOLED, None])
def test_a_session_that_nobody_knows_is_not_asked_about(
    bench: Bench, backend: Backend | None
) -> None:
    bench.entry.slot.backend = backend  # type: ignore[union-attr]
    assert bench.ask(NOW + 1) == ()


def test_a_command_that_is_alive_is_asked_about_more_and_more_rarely(bench: Bench) -> None:
    asked = []
    at = NOW + SUSPECT
    while at < NOW + 200:
        if bench.tell(at, state="active"):
            asked.append(at - NOW)
        at += LOOK_EVERY
    pauses = [later - one for one, later in pairwise(asked)]
    assert pauses[:4] == pytest.approx([0.5, 1.0, 2.0, 4.0])
    assert pauses[-1] == pytest.approx(LONGEST)
    assert not bench.lost()


def test_where_many_commands_are_long_the_server_is_asked_once_in_two_seconds(bench: Bench) -> None:
    """Another one becomes old enough at each look."""
    asked = []
    for n in range(100):
        at = NOW + LOOK_EVERY * n
        bench.entry.waits_since = at - SUSPECT
        if bench.tell(at, state="active"):
            asked.append(at)
    assert asked[-1] - asked[-2] == LONGEST_PAUSE
    bench.entry.waits_since = 0.0
    bench.look(NOW + 60)
    bench.entry.waits_since = NOW + 60
    assert bench.ask(NOW + 60 + SUSPECT)  # the next one is asked about at once


def test_a_reply_may_take_a_few_times_as_long_as_the_last_one(bench: Bench) -> None:
    question = bench.ask(NOW + 1)
    bench.hear(NOW + 1.05, question)
    assert bench.suspects.reply_time == pytest.approx(0.2)
    bench.hear(NOW + 9, question)
    assert bench.suspects.reply_time == TIMEOUT / 2
    bench.hear(NOW + 1.001, question)
    assert bench.suspects.reply_time == SHORTEST_REPLY


# -- losing


def test_one_is_lost_of_which_the_server_waits_for_a_command_twice(bench: Bench) -> None:
    assert bench.tell(NOW + 0.5)
    assert not bench.lost()
    assert bench.look(NOW + 0.6) == LOOK_EVERY
    second = NOW + 0.5 + 0.5 + TIMEOUT  # as long again as it took, and check_timeout
    assert bench.ask(second - 0.01) == ()
    assert bench.look(second - 0.4) == 0.4  # and is looked at just then
    assert bench.tell(second)
    assert bench.lost()


def test_what_became_late_just_now_is_not_waited_for_as_long_as_the_command_took(
    bench: Bench,
) -> None:
    """The answer to an hour's query was lost; the server has been idle for 2 seconds."""
    assert bench.tell(NOW + 3600, still=2.0)
    assert bench.ask(NOW + 3600 + 2.9) == ()
    assert bench.tell(NOW + 3600 + 3.0, still=5.0)
    assert bench.lost()


def test_what_a_tunnel_may_still_be_passing_on_is_waited_for(bench: Bench) -> None:
    """Of what was sent since the connection was idle, all is acknowledged, but by whom?"""
    assert bench.command is not None
    bench.entry.state, bench.sent = "idle", 1_000_000_000
    bench.look(NOW - 1)
    bench.entry.state = "lent"
    sent = bench.sent + 10 * SLOWEST_WAY
    bench.command = bench.command._replace(mark=Mark(NOW, 100, sent))
    bench.tell(NOW + 0.5)
    assert bench.ask(NOW + 0.5 + 0.5 + 9.9) == ()
    bench.tell(NOW + 0.5 + 0.5 + 10.0)
    assert bench.lost()


@pytest.mark.parametrize(
    "said",
    [
        {"state": "active"},
        {"state": "fastpath function call"},
        {"state": "disabled"},
        {"state": None},
        {"changed": None},
        {"changed": 8.0},  # it has had something to do since
        {"server": SERVER + 1},
        {"pid": 1},
        {"started": BACKEND.started + 1},
    ],
    ids=str,
)
def test_nothing_else_that_is_said_the_second_time_loses_it(
    bench: Bench, said: dict[str, Any]
) -> None:
    gone = said.keys() & {"pid", "started"}
    bench.tell(NOW + 0.5, **({"server": SERVER + 1} if gone else {}))
    assert bench.tell(NOW + 3, **said)
    assert not bench.lost()
    assert bench.ask(NOW + 3.4) == ()


@pytest.mark.parametrize("state", ["idle", "idle in transaction", "idle in transaction (aborted)"])
def test_a_server_that_waits_in_a_transaction_waits_as_well(bench: Bench, state: str) -> None:
    bench.tell(NOW + 0.5, state=state)
    bench.tell(NOW + 3, state=state)
    assert bench.lost()


@pytest.mark.parametrize("change", [{"received": 101}, {"acked": 201}], ids=str)
def test_while_anything_comes_or_goes_it_is_not_lost(bench: Bench, change: dict[str, int]) -> None:
    """A large command that is still being sent leaves the server idle, too."""
    assert bench.command is not None
    bench.tell(NOW + 0.5)
    bench.command = bench.command._replace(mark=bench.command.mark._replace(**change))
    bench.tell(NOW + 3)
    assert not bench.lost()
    bench.tell(NOW + 7)
    assert bench.lost()


def test_it_is_not_cut_where_its_answer_comes_in_the_last_moment(bench: Bench) -> None:
    bench.tell(NOW + 0.5)
    bench.tell(NOW + 3)
    bench.command = None
    assert not bench.lost()


def test_the_next_command_over_it_is_another_matter(bench: Bench) -> None:
    bench.tell(NOW + 0.5)
    bench.entry.waits_since = NOW + 2.5
    bench.tell(NOW + 3)
    assert not bench.lost()


def test_a_reply_about_one_that_has_its_answer_is_nothing_to_it(bench: Bench) -> None:
    question = bench.ask(NOW + 0.5)
    bench.entry.waits_since = 0.0
    bench.look(NOW + 0.6)
    bench.hear(NOW + 0.7, question)
    assert not bench.lost()


def test_a_session_that_the_server_had_and_has_no_more_is_lost(bench: Bench) -> None:
    bench.tell(NOW + 0.5)
    bench.tell(NOW + 3, pid=1)
    assert bench.lost()


def test_what_the_server_never_had_may_be_anothers(bench: Bench) -> None:
    """An address may lead to several servers, and a pooler makes pids up."""
    for n in range(9):
        bench.tell(NOW + 2**n, pid=1)
    assert not bench.lost()


# -- where nobody can ask


def test_the_one_that_is_unheard_for_longest_is_told(bench: Bench) -> None:
    older = lent(Slot(1), NOW - 1, bench.entry.socket)
    bench.entries = [bench.entry, older]
    assert bench.command is not None
    bench.command = bench.command._replace(unacked=1, retransmits=RESENT, unheard=60.0)
    bench.look(NOW + 3)
    assert bench.suspects.unheard(NOW + 3) is older
    bench.suspects.give_up("main", older, NOW + 3)
    assert bench.suspects.unheard(NOW + 3 + TIMEOUT / 2) is None
    assert bench.suspects.unheard(NOW + 3 + TIMEOUT) is older


@pytest.mark.parametrize(
    ("at", "command"),
    [
        (3.0, {"unacked": 0}),
        (3.0, {"retransmits": RESENT - 1}),
        (3.0, {"unheard": TIMEOUT}),
        (0.9, {}),  # its last acknowledgement is old since it was not used
    ],
    ids=str,
)
def test_one_that_may_be_heard_is_not_told(
    bench: Bench, at: float, command: dict[str, float]
) -> None:
    assert bench.command is not None
    unheard = {"unacked": 1, "retransmits": RESENT, "unheard": 60.0, **command}
    bench.command = bench.command._replace(**unheard)  # type: ignore[arg-type]
    bench.look(NOW + at)
    assert bench.suspects.unheard(NOW + at) is None


def test_the_log_says_why_one_is_cut(bench: Bench) -> None:
    bench.tell(NOW + 0.5)
    text = bench.suspects.give_up("main", bench.entry, NOW + 4)
    assert text.endswith(
        "4.0 s, and nothing sent over it is acknowledged, and no other could ask the server"
    )
    bench.tell(NOW + 3)
    text = bench.suspects.give_up("main", bench.entry, NOW + 4)
    assert text.endswith("4.0 s, and the server has waited for a command itself for 63.0 s")
    assert FIRST_PAUSE < LONGEST_PAUSE
