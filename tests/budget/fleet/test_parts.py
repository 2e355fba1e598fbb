"""The parts of a host's membership, where a fleet is large, or something is not as it should be."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from poolguard.budget import sharing
from poolguard.budget.fleet import view
from poolguard.budget.fleet.control import Control, Lost
from poolguard.budget.fleet.file import FleetFile, Reign
from poolguard.budget.fleet.keys import Keys
from poolguard.budget.fleet.ledger import wanted
from poolguard.errors import ForkError, RuntimeDirError
from poolguard.util.rundir import RuntimeDir
from tests.support import becomes, until

from .member import Member, connecting, joined

if TYPE_CHECKING:
    from poolguard.lab.postgres import PrivatePostgres

    from .conftest import Join, Open, Rows


MEMBERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'poolguard 1 ' || %s || ':%%'"
)


def reigning(member: Member) -> object:
    """The reign of the process that keeps its host's session."""
    found = member.ledger._keeper._reigning
    assert found is not None
    return found


def test_hosts_of_a_fleet_that_is_too_large_for_notes_share_it_by_looking(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees by itself that another one needs what is its by right, and gives it."""
    monkeypatch.setattr(view, "MOST_NOTIFIED", 1)
    old = [join("one", 20), join("other", 20)]
    for member in old:
        member.want(30)
    becomes(lambda: sum(len(member.sessions) for member in old), 20 - 2 - 1, within=20)
    new = join("third", 20)
    new.want(30)
    until(lambda: len(new.sessions) >= 5, within=20)
    assert sum(len(member.sessions) for member in (*old, new)) <= 20 - 3


def test_what_is_used_without_a_grant_is_granted_again_where_nobody_has_it(join: Join) -> None:
    one = join("one")
    assert one.hold(2) == 2
    used = {slot.number for slot in one.sessions}
    for slot in used:
        one.ledger._file.write_tag(slot, b"\0")
    one.want(4)
    until(lambda: used <= one.ledger._table.granted())
    assert one.hold(4) == 4


def test_what_is_leased_for_nothing_is_given_back(join: Join) -> None:
    """A damaged file says that a slot is not granted, which the host has leased: it sees that when
    it next looks at the board, as it does for every host that joins."""
    one = join("one")
    assert one.hold(2) == 2
    one.want(0)
    one.close_idle()
    becomes(lambda: one.ledger.standing.used, 0)
    session = reigning(one)._session  # type: ignore[attr-defined]
    assert len(session.leased) > 1
    for slot in one.ledger._table.granted():
        one.ledger._file.write_tag(slot, b"\0")
    join("other")
    until(lambda: session.leased == {session._policy.slot})


def test_a_keeper_that_was_succeeded_gives_nothing_back(join: Join, tmp_path: Path) -> None:
    """It sees none of its slots granted any more. What it has leased is its heir's to lease."""
    one = join("one")
    assert one.hold(2) == 2
    session = reigning(one)._session  # type: ignore[attr-defined]
    leased = {*session.leased}
    folder = RuntimeDir(tmp_path / "one")
    heir = FleetFile(folder, "shop.fleet")
    assert heir.begin(heir.number() + 1)
    session._tidy()
    assert session.leased == leased
    one.close()
    heir.close()
    folder.close()


def process(held: int, starving: int, *, draining: bool = False) -> sharing.Member:
    return sharing.Member(1, None, held, starving, draining)


@pytest.mark.parametrize(
    ("members", "wants"),
    [
        ([process(1, 0), process(1, 3)], 3),
        ([process(1, 0), process(0, 7, draining=True)], 1),
        ([process(1, 0), process(1, 7, draining=True)], 0),
        ([process(2, 7, draining=True), process(1, 1, draining=True)], 8),
    ],
)
def test_a_host_wants_the_last_connection_of_each_process_that_will_end(
    members: list[sharing.Member], wants: int
) -> None:
    """More than that only where all of them will end."""
    assert wanted(members) == wants


def test_parts_say_what_they_are(join: Join, label: str) -> None:
    one = join("one")
    assert one.hold(1) == 1
    found = reigning(one)
    session = found._session  # type: ignore[attr-defined]
    assert repr(found).startswith("<Reigning 1 <Policy ")
    assert (
        repr(session)
        == f"<Session {session._policy.me} of {label!r}, {len(session.leased)} leased>"
    )
    assert repr(found._joining) == f"<Joining shop to {label!r}>"  # type: ignore[attr-defined]
    assert repr(session.control) == f"<Control {session.control.fileno()}>"
    assert repr(one.ledger._keeper).startswith("<Keeper shop <Reigning 1 ")
    assert repr(session._host).startswith("<OwnHost shop Figures(budget=20, ")
    assert repr(one.ledger).startswith("<FleetLedger shop 1 held, ")


def test_a_statement_that_fails_ends_the_session_for_its_keeper(postgres: PrivatePostgres) -> None:
    control = Control(connecting(postgres.dsn), "test")
    assert control.ask("SELECT 1 AS one", "SELECT '{1,2}'::int[] AS two") == [
        [{"one": 1}],
        [{"two": [1, 2]}],
    ]
    with pytest.raises(Lost, match="division by zero"):
        control.ask("SELECT 1/0")
    control.close()
    with pytest.raises(Lost):
        control.ask("SELECT 1")
    assert repr(control) == "<Control ended>"


def test_a_file_that_is_no_fleets_is_refused(tmp_path: Path) -> None:
    folder = RuntimeDir(tmp_path / "run")
    (tmp_path / "run" / "shop.fleet").write_bytes(b"something else\n" * 100)
    with pytest.raises(RuntimeDirError, match="no fleet's file of this version"):
        FleetFile(folder, "shop.fleet")
    folder.close()


def test_what_a_keeper_of_the_past_says_of_the_ledger_is_not_heard(tmp_path: Path) -> None:
    """One that was cut off, and has been replaced, finds out last that there is no way."""
    folder = RuntimeDir(tmp_path / "run")
    file = FleetFile(folder, "shop.fleet")
    assert file.begin(1)
    file.write_trouble(1, "no way")
    assert file.trouble == "no way"
    assert file.begin(2)
    assert file.trouble == ""
    file.write_trouble(1, "no way still")
    assert file.trouble == ""
    file.write_trouble(2, "none either")
    assert file.trouble == "none either"
    file.close()
    folder.close()


@pytest.mark.parametrize(
    ("pid", "silent", "idle"), [(7, 4.0, True), (0, 4.0, False), (0, 10.0, True)]
)
def test_a_keeper_is_given_as_much_time_to_connect_as_a_connect_may_take(
    join: Join, pid: int, silent: float, idle: bool
) -> None:
    one = join("one")
    assert one.hold(1) == 1
    now = monotonic()
    one.ledger._file.write_asked(now - silent)
    reign = Reign(1, pid, seen_at=now - silent - 1)
    assert one.ledger._keeper._is_idle(reign) is idle


def test_a_ledger_with_such_a_file_is_refused_and_leaves_nothing_open(
    tmp_path: Path, postgres: PrivatePostgres
) -> None:
    """A member that began would keep the host's session of others for ever."""
    (tmp_path / "one").mkdir(mode=0o700)
    (tmp_path / "one" / "shop.fleet").write_bytes(b"something else\n" * 100)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeDirError, match="no fleet's file of this version"):
        joined(tmp_path / "one", postgres.dsn, 20)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the folder is its caller's


def test_a_process_that_cannot_use_the_folder_is_a_host_of_its_own(
    guard: Open, tmp_path: Path, label: str, caplog: pytest.LogCaptureFixture, rows: Rows
) -> None:
    (tmp_path / "taken").write_text("a file is in the place of the folder")
    one = guard("taken", floor=1)
    assert one.open(wait=10)
    with one.connection() as conn:
        conn.execute("SELECT 1")
    assert "is a host of its own to the fleet" in caplog.text
    assert len(rows(MEMBERS, Keys.of(label).short)) == 1


def test_a_ledger_that_was_closed_closes_nothing_in_a_forked_child(join: Join) -> None:
    """The numbers of its files are others' by then."""
    one = join("one")
    assert one.hold(1) == 1
    one.close()
    assert one.ledger.standing.hosts == 0
    pipes = [end for _ in range(20) for end in os.pipe()]
    child = os.fork()
    if not child:
        try:
            for end in pipes:
                os.fstat(end)
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    for end in pipes:
        os.close(end)


def test_a_forked_child_has_no_part_in_its_parents_ledger(
    join: Join, rows: Rows, label: str
) -> None:
    """Its end ends neither the parent's control session nor a lease."""
    one = join("one")
    assert one.hold(1) == 1
    session = reigning(one)._session  # type: ignore[attr-defined]
    child = os.fork()
    if not child:
        try:
            one.ledger.lease(1)
        except ForkError:
            one.ledger.close()
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert one.hold(3) == 3
    assert reigning(one)._session is session  # type: ignore[attr-defined]
    assert rows(MEMBERS, Keys.of(label).short) == [(session._policy.me,)]
