"""``poolguard check``: it connects, and judges whether a deployment can keep its promises."""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..budget.capacity import CONSUMERS
from ..budget.plan import Plan, Workplace, make_plan
from ..errors import PlanError
from ..settings import Settings
from ..util.escape import as_json, escaped
from . import database, deployment
from .findings import Consumer, Facts, Finding, Keepalive, judge
from .fleet_check import FleetFacts, observe_fleet
from .history_table import observe_table
from .text import plural, say, wrapped

if TYPE_CHECKING:
    import psycopg

__all__ = ["add_to"]

SERVER_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'server_version_num',
    'client_connection_check_interval',
    'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count')
"""


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="connect, and judge a deployment: budget, pooler, role, keepalives",
        description="Connects to the database and judges the deployment. Options that are left out "
        "are taken from their POOLGUARD_* variables. The exit status is 1 where an error was "
        "found.",
        allow_abbrev=False,
    )
    deployment.add_options(parser)
    parser.add_argument("--strict", action="store_true", help="count warnings as errors")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(options: argparse.Namespace) -> int:
    settings = deployment.settings_of(options)
    with database.connect(settings, "check") as conn:
        facts = _observe(conn, settings, options)
    findings = judge(facts)
    counts = Counter[str](finding.level for finding in findings)
    if options.json:
        print(as_json(_machine(facts, findings, counts), indent=1))
    else:
        say(_report(facts, findings, counts))
    return int(counts["error"] > 0 or (options.strict and counts["warning"] > 0))


def _observe(
    conn: psycopg.Connection[Any], settings: Settings, options: argparse.Namespace
) -> Facts:
    server: dict[str, str] = dict(conn.execute(SERVER_SETTINGS).fetchall())
    capacity = database.ask_capacity(conn)
    consumers = _consumers(conn)
    row = conn.execute("SELECT session_user::text, current_database()::text").fetchone()
    assert row is not None
    pooler = database.ask_pooler(conn, settings, "check")
    plan, error = None, ""
    try:
        plan = make_plan(capacity, settings, _workplace(options, settings), pooler=pooler)
    except PlanError as refused:
        error = deployment.spoken(str(refused))
    fleet = observe_fleet(conn, settings, pooler) if settings.ledger == "fleet" else None
    over_tcp, client_keepalive = _client_keepalive(conn)
    interval = server.get("client_connection_check_interval")
    return Facts(
        version=escaped(server["server_version"]),
        major=int(server["server_version_num"]) // 10000,
        role=escaped(row[0]),
        database=escaped(row[1]),
        capacity=capacity,
        pooler=pooler,
        settings=settings,
        plan=plan and _spoken(plan),
        plan_error=error,
        workers_known=settings.workers != "auto" or deployment.WORKERS_VARIABLE in os.environ,
        consumers=consumers,
        fleet=fleet,
        history=observe_table(conn, settings),
        over_tcp=over_tcp,
        server_keepalive=_server_keepalive(server),
        client_keepalive=client_keepalive,
        check_interval=None if interval is None else int(interval),
    )


def _workplace(options: argparse.Namespace, settings: Settings) -> Workplace:
    found = deployment.workplace_of(options, settings)
    if options.threads is None and options.worker_class is None:
        return Workplace(found.workers)  # a class that was not named is not judged by its threads
    return found


def _spoken(plan: Plan) -> Plan:
    return plan._replace(warnings=tuple(map(deployment.spoken, plan.warnings)))


def _consumers(conn: psycopg.Connection[Any]) -> tuple[Consumer, ...]:
    told = conn.execute(CONSUMERS).fetchall()
    return tuple(Consumer(escaped(role), escaped(name), n) for role, name, n in told)


def _server_keepalive(server: Mapping[str, str]) -> Keepalive | None:
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
    values = [int(server.get(name, 0)) for name in names]
    return Keepalive(*values) if all(values) else None


def _client_keepalive(conn: psycopg.Connection[Any]) -> tuple[bool, Keepalive | None]:
    """Whether the connection is over TCP, and the keepalives that its socket has in effect."""
    with socket.socket(fileno=os.dup(conn.fileno())) as ours:
        if ours.family not in (socket.AF_INET, socket.AF_INET6):
            return False, None
        if not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return True, None
        idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
        options = (idle, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        return True, Keepalive(*(ours.getsockopt(socket.IPPROTO_TCP, o) for o in options if o))


def _report(facts: Facts, findings: Sequence[Finding], counts: Mapping[str, int]) -> Iterator[str]:
    yield f"database {facts.database} as role {facts.role}"
    yield ""
    level = max(len(finding.level) for finding in findings)
    topic = max(len(finding.topic) for finding in findings)
    for finding in findings:
        head = f"{finding.level:<{level}}  {finding.topic:<{topic}}  "
        yield from wrapped(finding.found, head)
        if finding.remedy:
            yield from wrapped(finding.remedy, " " * len(head) + "→ ")
    yield ""
    yield ", ".join(
        f"{counts[kind]} {plural(counts[kind], kind)}" for kind in ("error", "warning", "note")
    )


def _machine(
    facts: Facts, findings: Sequence[Finding], counts: Mapping[str, int]
) -> dict[str, Any]:
    plan = facts.plan and {
        **facts.plan._asdict(),
        "steps": [step._asdict() for step in facts.plan.steps],
    }
    return {
        "version": facts.version,
        "role": facts.role,
        "database": facts.database,
        "pooler": facts.pooler,
        "capacity": facts.capacity._asdict(),
        "plan": plan,
        "fleet": facts.fleet and _fleet(facts.fleet),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "errors": counts["error"],
        "warnings": counts["warning"],
        "notes": counts["note"],
    }


def _fleet(facts: FleetFacts) -> dict[str, Any]:
    """What was seen of a fleet, but for its hosts, of which ``status --fleet`` tells."""
    told = {each.name: getattr(facts, each.name) for each in dataclasses.fields(facts)}
    survey = facts.survey
    told["hosts"] = None if survey is None else len(survey.hosts)
    told["budget"] = None if survey is None else survey.budget or None
    del told["survey"]
    return told
