"""The keeper of a host's control session: killed, stopped and woken, and what becomes of its host.

The processes of a host are processes here, so that the kernel ends and stops them as it does.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from poolguard.budget.fleet.keeper import DEPOSED_AFTER
from poolguard.budget.fleet.keys import Keys
from poolguard.budget.fleet.policy import REST
from poolguard.budget.ledger import TEND_EVERY
from tests.support import becomes, until

if TYPE_CHECKING:
    from poolguard.lab.postgres import PrivatePostgres

    from .conftest import Join, Process, Rows, Spawn

LEASED = """
SELECT array_agg(DISTINCT objid::int ORDER BY objid::int) FROM pg_locks
 WHERE locktype = 'advisory' AND classid = (%s::bigint & 4294967295)::oid AND granted
"""
CONTROL = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'poolguard 1 ' || %s || ':%%'"
)


def leased(rows: Rows, label: str) -> list[int]:
    """The slots that hosts have leased, their control sessions' own among them."""
    [(slots,)] = rows(LEASED, Keys.of(label).lease)
    return slots or []


def control(rows: Rows, label: str) -> list[int]:
    """The pids of the control sessions."""
    return [pid for (pid,) in rows(CONTROL, Keys.of(label).short)]


def apart(*processes: Process) -> tuple[Process, list[Process]]:
    """The keeper, and the others."""
    keepers = [each for each in processes if each.ask("keeps")]
    assert len(keepers) == 1, [each.pid for each in keepers]
    return keepers[0], [each for each in processes if each is not keepers[0]]


def test_a_killed_keeper_costs_its_host_nothing_but_its_own(
    spawn: Spawn, rows: Rows, label: str
) -> None:
    """Its session lives on by the others' copies, until one of them has leased all of it anew: at
    no moment could another host have had what was granted."""
    processes = [spawn("one") for _ in range(3)]
    assert [each.ask("hold 2") for each in processes] == [2, 2, 2]
    keeper, others = apart(*processes)
    [before] = control(rows, label)
    slots = leased(rows, label)
    keeper.kill()
    seen = slots
    began = monotonic()
    while control(rows, label) in ([before], []) or len(control(rows, label)) > 1:
        seen = [slot for slot in seen if slot in leased(rows, label)]
        assert monotonic() - began < 5
    assert len(slots) - len(seen) <= 1  # a control session's own slot changes hands for a moment
    assert [each.ask("hold 3") for each in others] == [3, 3]
    apart(*others)


def test_the_end_of_the_keepers_process_is_heard(
    spawn: Spawn, postgres: PrivatePostgres, label: str, tmp_path: Path
) -> None:
    """So the processes of a host at rest need not look after it as often as a keeper is missed."""
    from .member import joined

    keeper = spawn("one")
    assert keeper.ask("hold 1") == 1
    with closing(joined(tmp_path / "one", postgres.dsn, 20, label)) as heir:
        siblings = heir.siblings

        def hears(within: float) -> bool:
            return bool(select.select([siblings.fileno()], [], [], within)[0])

        def is_left_alone() -> bool:
            siblings.catch_up()
            return siblings.left_alone > TEND_EVERY and not hears(0.2)

        until(is_left_alone)

        def reigns() -> bool:
            siblings.catch_up()
            # The keeper's lock may be there a little longer than its socket.
            assert heir._keeper.reigns or siblings.left_alone == TEND_EVERY
            return heir._keeper.reigns

        keeper.kill()
        assert hears(within=5)
        until(reigns)
        until(is_left_alone)


def test_what_was_granted_and_not_used_outlives_a_killed_keeper_as_well(
    spawn: Spawn, join: Join, rows: Rows, label: str
) -> None:
    """The heir's session leases it while the one before still does."""
    keeper = spawn("one")
    assert keeper.ask("hold 1") == 1
    assert keeper.ask("keeps")
    heir = join("one")
    assert heir.hold(5) == 5
    heir.want(1)
    heir.close_idle()
    becomes(lambda: len(heir.sessions), 1)
    free = heir.ledger._table.granted() - {slot.number for slot in heir.sessions}
    keeper.kill()
    until(lambda: heir.ledger._keeper.reigns and len(control(rows, label)) == 1)
    until(lambda: len(free & heir.ledger._table.granted()) >= 4, within=1.5)


def test_a_stopped_keeper_is_replaced_once_it_is_asked_in_vain(
    spawn: Spawn, rows: Rows, label: str
) -> None:
    """And when it wakes, it finds that it keeps nothing any more."""
    processes = [spawn("one") for _ in range(2)]
    assert [each.ask("hold 1") for each in processes] == [1, 1]
    keeper, [other] = apart(*processes)
    [before] = control(rows, label)
    os.kill(keeper.pid, signal.SIGSTOP)
    began = monotonic()
    assert other.ask("hold 9") == 9  # more than a host can have to spare
    assert monotonic() - began < DEPOSED_AFTER + 3
    until(lambda: before not in control(rows, label))
    os.kill(keeper.pid, signal.SIGCONT)
    assert keeper.ask("hold 3") == 3
    assert apart(keeper, other)[0] is other
    assert len(control(rows, label)) == 1


def test_nothing_is_leased_by_a_session_that_has_ended_while_its_keeper_sleeps(
    spawn: Spawn, rows: Rows, label: str
) -> None:
    """Another host may have been granted the very slots."""
    processes = [spawn("one", 12) for _ in range(2)]
    assert [each.ask("hold 1") for each in processes] == [1, 1]
    keeper, [sibling] = apart(*processes)
    os.kill(keeper.pid, signal.SIGSTOP)
    rows("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) pid", control(rows, label))
    other = spawn("other", 12)
    assert other.ask(f"hold 7 {REST + 3}") == 7
    assert sibling.ask("hold 5 0.5") == 1
    os.kill(keeper.pid, signal.SIGCONT)
    assert keeper.ask("hold 2 10") == 2


def test_a_host_whose_control_session_was_ended_has_another_one_at_once(
    spawn: Spawn, rows: Rows, label: str
) -> None:
    one = spawn("one")
    for n in (3, 4, 5):
        assert one.ask(f"hold {n}") == n
        rows(
            "SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) pid",
            control(rows, label),
        )
        until(lambda: control(rows, label) != [], within=2)
    assert one.ask("hold 6") == 6


def test_a_killed_host_gives_all_of_it_back(
    spawn: Spawn, join: Join, rows: Rows, label: str
) -> None:
    host = [spawn("one", 12) for _ in range(2)]
    assert [each.ask("hold 3") for each in host] == [3, 3]
    other = join("other", 12)
    assert other.hold(3) == 3
    for process in host:
        process.kill()
    assert other.hold(10, within=REST + 5) == 10
    assert len(control(rows, label)) == 1


def test_who_leaves_hands_the_session_on(spawn: Spawn, rows: Rows, label: str) -> None:
    processes = [spawn("one") for _ in range(2)]
    assert [each.ask("hold 2") for each in processes] == [2, 2]
    keeper, [other] = apart(*processes)
    keeper.ask("close")
    until(lambda: other.ask("keeps"))
    assert other.ask("hold 5") == 5
    other.ask("close")
    until(lambda: not control(rows, label))
    assert leased(rows, label) == []


def test_a_newborn_process_leaves_the_session_to_those_that_have_a_copy_of_it(
    spawn: Spawn, join: Join, rows: Rows, label: str
) -> None:
    """Otherwise what was granted would be lost, and the session live on by a copy of nobody's."""
    processes = [spawn("one") for _ in range(2)]
    assert [each.ask("hold 1") for each in processes] == [1, 1]
    keeper, [sibling] = apart(*processes)
    [before] = control(rows, label)
    keeper.kill()
    newborn = join("one")
    assert newborn.hold(2) == 2
    assert sibling.ask("keeps")
    until(lambda: control(rows, label) not in ([before], []) and len(control(rows, label)) == 1)
