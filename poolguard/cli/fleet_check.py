"""What ``poolguard check`` sees of a fleet's ledger, and what it makes of that."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..budget.fleet import locks
from ..budget.fleet.survey import NEEDED, PLACE, Survey
from ..budget.plan import Plan
from ..budget.queries import one_row, rows
from ..settings import Settings
from ..util.conninfo_location import same_database
from ..util.escape import escaped
from . import database
from .finding import Finding
from .fleet import default_label, ledger_at, look
from .fleet_findings import TOPIC, of_survey
from .pooler import Kind
from .text import plural

if TYPE_CHECKING:
    import psycopg

__all__ = ["FleetFacts", "judge_fleet", "observe_fleet"]

DENIED = f"""
SELECT each AS name FROM unnest(ARRAY[{", ".join(f"'{each}'" for each in NEEDED)}]) each
 WHERE NOT has_function_privilege(each, 'execute')
UNION ALL
SELECT each FROM unnest(ARRAY['pg_stat_activity']) each
 WHERE NOT has_table_privilege(each, 'select')
"""
"""Asks which functions and views of the protocol this role may not use."""
MAY_SIT = "SELECT has_function_privilege('pg_try_advisory_lock(int,int)', 'execute') AS may"
MAY_SURVEY = (
    "SELECT has_table_privilege('pg_locks', 'select') "
    "AND has_function_privilege('pg_lock_status()', 'execute') AS may"
)
BY_NAME = """
SELECT coalesce(bool_or(datname = current_database()), false) AS here, count(*) > 0 AS server
  FROM pg_stat_activity WHERE application_name = '{}'
"""


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What the command has seen of the database in which a fleet shares its budget."""

    label: str
    role: str
    database: str
    standby: bool
    locks: int
    """How many the lock table is sure to hold."""
    pooler: Kind | None
    """What stands before it, as detected; None where that could not be found out."""
    pooler_said: bool = False
    """The settings say that a pooler of sessions stands there."""
    denied: tuple[str, ...] = ()
    """Functions and views that the role may not use."""
    survey: Survey | None = None
    """None where it could not be made."""
    own: bool = True
    """The pools connect to the same database."""
    own_server: bool = True
    """The pools connect to the same server."""
    named_own: bool = True
    """The connection strings say that it is the pools' own database."""
    pools_direct: bool = True
    """No pooler stands before the pools' database."""
    may_sit: bool = True
    """The pools' role may take advisory locks."""


def observe_fleet(conn: psycopg.Connection[Any], settings: Settings, pooler: Kind) -> FleetFacts:
    """Ask the ledger's database of *settings*.

    :param conn: a connection to the pools' database, before which that *pooler* stands.
    """
    at = ledger_at(settings)
    with ExitStack() as stack:
        ledger = conn
        if at != "dsn":
            ledger = stack.enter_context(database.connect(settings, "check", at))
        facts = one_row(ledger, PLACE)
        denied = tuple(row["name"] for row in rows(ledger, DENIED))
        label = settings.ledger_label or default_label(ledger)
        own, own_server = _in_common(conn, ledger) if not denied else (at == "dsn",) * 2
        may_survey = not denied and one_row(ledger, MAY_SURVEY)["may"]
        return FleetFacts(
            label=label,
            role=escaped(facts["role"]),
            database=escaped(facts["database"]),
            standby=facts["standby"],
            locks=facts["locks"],
            pooler=database.ask_pooler_of_ledger(ledger, settings, "check", at),
            pooler_said=settings.pooler == "session",
            denied=denied,
            survey=look(ledger, label) if may_survey else None,
            own=own,
            own_server=own_server,
            named_own=at == "dsn" or same_database(_text(settings, at), _text(settings, "dsn")),
            pools_direct=pooler == "none",
            may_sit=one_row(conn, MAY_SIT)["may"],
        )


def _text(settings: Settings, at: database.Place) -> str:
    given = getattr(settings, at)
    return given if isinstance(given, str) else ""


def _in_common(conn: psycopg.Connection[Any], ledger: psycopg.Connection[Any]) -> tuple[bool, bool]:
    """Whether both are of one database, and of one server: by a name that the one gives itself, and
    the other can see there."""
    if conn is ledger:
        return True, True
    name = f"poolguard check {secrets.token_hex(8)}"
    rows(ledger, f"SELECT set_config('application_name', '{name}', false)")
    seen = one_row(conn, BY_NAME.format(name))
    return seen["here"], seen["server"]


def judge_fleet(facts: FleetFacts, plan: Plan | None) -> Iterator[Finding]:
    """All findings, in the order in which they are best read."""
    yield from _may(facts)
    yield from _place(facts)
    yield from _locks(facts, plan)
    if facts.survey is not None:
        yield from _members(facts.survey, plan)
        yield from of_survey(facts.survey)
    yield from _seats(facts)


def _may(facts: FleetFacts) -> Iterator[Finding]:
    if facts.denied:
        functions = [each for each in facts.denied if "(" in each]
        grant = [f"GRANT EXECUTE ON FUNCTION {', '.join(functions)}"] if functions else []
        grant += ["GRANT SELECT ON pg_stat_activity"] if len(functions) < len(facts.denied) else []
        yield Finding(
            "error",
            TOPIC,
            f"{facts.role} may not use {', '.join(facts.denied)}, by which hosts share a budget",
            "; ".join(f"{each} TO {facts.role}" for each in grant)
            + "; or set ledger to 'host', and instances to the number of hosts",
        )
    elif facts.survey is None:
        yield Finding(
            "note",
            TOPIC,
            f"{facts.role} may not read pg_locks, so that nothing can be told of the fleet's hosts",
            f"GRANT SELECT ON pg_locks TO {facts.role}; GRANT EXECUTE ON FUNCTION pg_lock_status() "
            f"TO {facts.role}",
        )


def _place(facts: FleetFacts) -> Iterator[Finding]:
    """Whether it is a server and a way to it that can have a ledger."""
    if facts.standby:
        yield Finding(
            "error",
            TOPIC,
            "the ledger's server is a standby, which has no locks in common with its primary",
            "set ledger_dsn to a database of the primary, or ledger to 'host'",
        )
    if facts.pooler == "none" or (facts.pooler_said and facts.pooler in ("session", None)):
        return
    choices = (
        "set ledger_dsn to the database past the pooler, or ledger to 'host', and leave it to the "
        "pooler to bound what all hosts have together"
    )
    if facts.pooler == "session":
        yield Finding(
            "error",
            TOPIC,
            "a pooler of sessions stands before the ledger's database, and a host has no way to "
            "tell it from one of transactions",
            f"set pooler to 'session'; or {choices}",
        )
    else:
        kind = (
            "of a kind that could not be found out" if facts.pooler is None else "of transactions"
        )
        yield Finding(
            "error",
            TOPIC,
            f"a pooler {kind} stands before the ledger's database: its sessions are not a host's "
            f"own, and locks belong to sessions",
            choices,
        )


def _locks(facts: FleetFacts, plan: Plan | None) -> Iterator[Finding]:
    if plan is None:
        return
    if (why := locks.shortage(plan.budget, facts.locks)) is not None:
        found, _, remedy = why.partition(". ")
        yield Finding("error", TOPIC, found, remedy[:1].lower() + remedy[1:])
    else:
        yield Finding(
            "ok",
            TOPIC,
            f"its {locks.needed(plan.budget)} locks fit into the {facts.locks} of the server's "
            f"lock table",
        )


def _members(survey: Survey, plan: Plan | None) -> Iterator[Finding]:
    n, label = len(survey.hosts), escaped(survey.label)
    if not n:
        yield Finding("ok", TOPIC, f"no host of {label} is there yet")
        return
    slots = survey.slots
    yield Finding(
        "ok",
        TOPIC,
        f"{n} {plural(n, 'host')} of {label} now, with a budget of {survey.budget or '?'}: "
        f"{slots.pools} leased for pools, {slots.free} free",
    )
    known = {host.line.budget for host in survey.hosts}
    if plan is not None and survey.budget and plan.budget not in known:
        yield Finding(
            "warning",
            TOPIC,
            f"the hosts that are there go by a budget of {survey.budget}, and this deployment by "
            f"{plan.budget}: the smaller rules while both are there",
            "give all hosts the same budget and reserve, and the same role",
        )


def _seats(facts: FleetFacts) -> Iterator[Finding]:
    """Whether what a host has stays counted when its control session is lost."""
    if facts.own and facts.named_own and facts.pools_direct and facts.may_sit:
        yield Finding(
            "ok",
            TOPIC,
            "pools' sessions occupy their slots themselves: what a host has is counted until it "
            "is gone, whatever becomes of the host",
        )
        return
    why, remedy = _unseated(facts)
    yield Finding(
        "note",
        TOPIC,
        f"{why}, so that pools' sessions do not occupy their slots themselves. Where a host is "
        f"lost, or its control session, what it has is counted for 2 s only: until its connections "
        f"have ended, the others may exceed the budget by as many",
        remedy,
    )


def _unseated(facts: FleetFacts) -> tuple[str, str]:
    leave_room = "leave as many connections to spare as one host can have"
    if not facts.pools_direct:
        return "a pooler stands before the pools' database", leave_room
    if facts.own and not facts.may_sit:
        return (
            "the pools' role may not call pg_try_advisory_lock",
            "GRANT EXECUTE ON FUNCTION pg_try_advisory_lock(int,int) to it",
        )
    if facts.own:
        return (
            "dsn and ledger_dsn name the same database in different words",
            "name it alike in both, or drop ledger_dsn",
        )
    if facts.named_own:
        return (
            "dsn and ledger_dsn name the same database, and lead to different ones",
            "see where they lead: hosts that meet in different databases do not share a budget",
        )
    where = "another database of the same server" if facts.own_server else "another server"
    return f"the ledger is in {where} than the pools connect to", leave_room
