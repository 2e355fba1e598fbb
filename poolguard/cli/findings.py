"""The judgement of ``poolguard check``: it makes findings of facts, with no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..budget.capacity import Capacity
from ..budget.plan import Plan
from ..settings import Settings
from .finding import Finding, Level
from .fleet_check import FleetFacts, judge_fleet
from .history_table import TableFacts, judge_table
from .pooler import Kind
from .text import plural, sessions, span

__all__ = ["Consumer", "Facts", "Finding", "Keepalive", "judge"]

TRIED = range(12, 19)
"""The major versions of PostgreSQL that poolguard is tried on."""
UNNOTICED_MOST = 300
"""Seconds for which a peer that vanished may go unnoticed before it is worth a finding."""
NAMED_MOST = 4
"""How many of the others are named."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP keepalives of one end: seconds before the first probe and between them, and how many."""

    idle: int
    interval: int
    count: int

    @property
    def seconds(self) -> int:
        """After how long a peer that vanished is noticed."""
        return self.idle + self.interval * self.count


@dataclass(frozen=True, slots=True)
class Consumer:
    """Another client of the server: its role, its application name, how many connections it has."""

    role: str
    application: str
    connections: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the command has seen of a deployment."""

    version: str
    """As the server tells it: ``18.4``, ``15.18 (Debian 15.18-0+deb12u1)``."""
    major: int
    role: str
    database: str
    capacity: Capacity
    pooler: Kind
    settings: Settings
    plan: Plan | None
    plan_error: str = ""
    """Why there is no plan."""
    workers_known: bool = True
    """Whether the number of workers was given."""
    consumers: tuple[Consumer, ...] = ()
    """The other clients; those with the most connections come first."""
    over_tcp: bool = True
    server_keepalive: Keepalive | None = None
    """What the server uses for this connection; None where it does not tell."""
    client_keepalive: Keepalive | None = None
    """What this end uses; None where they are switched off."""
    fleet: FleetFacts | None = None
    """What was seen of the fleet's ledger; None where the ledger is another."""
    history: TableFacts | None = None
    """What was seen of the table in which hosts share their history; None where none is wanted."""
    check_interval: int | None = None
    """The server's client_connection_check_interval in milliseconds; None where it knows none."""


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are best read."""
    findings = [*_version(facts), *_pooler(facts), *_budget(facts)]
    if facts.fleet is not None:
        findings += judge_fleet(facts.fleet, facts.plan)
    if facts.pooler == "none":
        findings += _others(facts)
    findings += [*_role(facts), *_standby(facts)]
    if facts.history is not None:
        findings += judge_table(facts.history)
    if facts.pooler == "none":
        findings += [*_check_interval(facts), *_server_keepalive(facts)]
    findings += _client_keepalive(facts)
    return findings


def _version(facts: Facts) -> Iterator[Finding]:
    name = f"PostgreSQL {facts.version}"
    if facts.major in TRIED:
        yield Finding("ok", "version", name)
    elif facts.major < TRIED.start:
        yield Finding(
            "warning",
            "version",
            f"{name}: poolguard is tried on {TRIED.start} to {TRIED[-1]}",
            "upgrade the server",
        )
    else:
        yield Finding(
            "note",
            "version",
            f"{name}: poolguard is tried on {TRIED.start} to {TRIED[-1]}",
            "look for a newer poolguard",
        )


def _pooler(facts: Facts) -> Iterator[Finding]:
    if facts.pooler == "none":
        yield Finding("ok", "pooler", "none stands before the server")
        return
    how = "as pooler says" if facts.settings.pooler != "auto" else "as detected"
    if facts.pooler == "session":
        yield Finding(
            "ok",
            "pooler",
            f"one that pools sessions, {how}: the budget counts its clients, and it is the pooler "
            f"that has to keep to what the server grants",
        )
        return
    yield Finding(
        "warning",
        "pooler",
        f"one that pools transactions, {how}: SET, LISTEN, advisory locks and temporary tables do "
        f"not outlive a transaction, and psycopg's prepared statements fail where the pooler does "
        f"not follow them",
        "run PgBouncer 1.22 or later with max_prepared_statements above 0, or connect with "
        "prepare_threshold=None",
    )


def _budget(facts: Facts) -> Iterator[Finding]:
    plan = facts.plan
    if plan is None:
        yield _told("error", facts.plan_error)
        return
    of = "clients of the pooler" if plan.capacity is None else f"of {plan.capacity} connections"
    each = f"an instance gets {plan.instance}"
    if plan.ledger == "fleet":
        n = facts.settings.instances
        each = f"a host can have {plan.instance}"
        each += f", {plan.equal} if all {n} have the same" if n > 1 else ""
        each += f", and the floors of {plan.most_hosts} {plural(plan.most_hosts, 'host')} fit"
    yield Finding(
        "ok",
        "budget",
        f"{plan.budget} {of}: {each}, a worker keeps {plan.floor} warm and holds {plan.max_size} "
        f"at most",
    )
    for warning in plan.warnings:
        yield _told("warning", warning)
    if not facts.workers_known:
        yield Finding(
            "note",
            "budget",
            f"the number of workers was not given, so the plan is reckoned with {plan.workers}",
            "give --workers, --threads and --worker-class as in gunicorn.conf.py",
        )


def _told(level: Level, sentences: str) -> Finding:
    """A finding from an error or a warning of the plan, whose second sentence is the remedy."""
    found, _, remedy = sentences.partition(". ")
    return Finding(level, "budget", found, remedy[:1].lower() + remedy[1:])


def _others(facts: Facts) -> Iterator[Finding]:
    total = sum(each.connections for each in facts.consumers)
    if not total:
        yield Finding("ok", "others", "nobody else is connected to the server")
        return
    named = [
        sessions(each.connections, each.role, each.application)
        for each in facts.consumers[:NAMED_MOST]
    ]
    if rest := total - sum(each.connections for each in facts.consumers[:NAMED_MOST]):
        named.append(f"{rest} of others")
    free = facts.capacity.free_now
    yield Finding(
        "ok",
        "others",
        f"{total} other {plural(total, 'connection')} on the server now ({', '.join(named)}); "
        f"{free} more can be opened by {facts.role}",
    )


def _role(facts: Facts) -> Iterator[Finding]:
    capacity, role = facts.capacity, _quoted(facts.role)
    limit = facts.plan.budget if facts.plan and facts.pooler == "none" else None
    number = "budget" if limit is None else str(limit)
    if capacity.superuser:
        yield Finding(
            "warning",
            "role",
            f"{facts.role} is a superuser: no CONNECTION LIMIT binds it, and it can take the "
            f"connections that are reserved for rescuing the server",
            f"connect as a role of its own: CREATE ROLE … LOGIN CONNECTION LIMIT {number}",
        )
    elif facts.pooler != "none":
        yield Finding("ok", "role", f"{facts.role} is no superuser")
    elif capacity.role is None:
        yield Finding(
            "note",
            "role",
            f"{facts.role} has no CONNECTION LIMIT: nothing at the server keeps it to the budget",
            f"if the role is this service's alone: ALTER ROLE {role} CONNECTION LIMIT {number}, "
            f"and set budget to the same number",
        )
    else:
        yield Finding("ok", "role", f"{facts.role} is held to {capacity.role} by the server")


def _standby(facts: Facts) -> Iterator[Finding]:
    if facts.capacity.standby:
        yield Finding(
            "note",
            "standby",
            "the server is a standby, which answers only reads",
            "for a guard that writes, name all hosts and target_session_attrs=read-write in the "
            "dsn",
        )


def _check_interval(facts: Facts) -> Iterator[Finding]:
    topic = "orphans"
    consequence = (
        "the query of a worker that was killed runs to its end, and holds its connection until then"
    )
    if facts.check_interval is None:
        yield Finding(
            "note",
            topic,
            f"this server has no client_connection_check_interval: {consequence}",
            "upgrade to PostgreSQL 14 or later, or set statement_timeout",
        )
    elif facts.check_interval == 0:
        yield Finding(
            "note",
            topic,
            f"client_connection_check_interval is 0. poolguard sets it itself on each of its "
            f"connections; for other clients, {consequence}",
            f"for those: ALTER ROLE {_quoted(facts.role)} SET client_connection_check_interval = "
            f"'1s'",
        )
    else:
        yield Finding(
            "ok",
            topic,
            f"while a query runs, the server looks every {facts.check_interval} ms for its client",
        )


def _server_keepalive(facts: Facts) -> Iterator[Finding]:
    topic = "keepalives"
    if not facts.over_tcp:
        yield Finding("ok", topic, "a Unix socket needs none")
        return
    role = _quoted(facts.role)
    remedy = (
        f"ALTER ROLE {role} SET tcp_keepalives_idle = 60; ALTER ROLE {role} SET "
        f"tcp_keepalives_interval = 10; ALTER ROLE {role} SET tcp_keepalives_count = 6"
    )
    keepalive = facts.server_keepalive
    if keepalive is None:
        yield Finding("note", topic, "the server does not tell its tcp_keepalives_idle", remedy)
    elif keepalive.seconds > UNNOTICED_MOST:
        yield Finding(
            "note",
            topic,
            f"the server notices after {span(keepalive.seconds)} that a host has vanished "
            f"(tcp_keepalives_idle is {keepalive.idle} s). poolguard sets it itself on each of its "
            f"connections; those of other clients stay open and counted",
            f"for those: {remedy}",
        )
    else:
        yield Finding(
            "ok", topic, f"the server notices a vanished host after {span(keepalive.seconds)}"
        )


def _client_keepalive(facts: Facts) -> Iterator[Finding]:
    if not facts.over_tcp:
        return
    topic = "keepalives"
    remedy = "add keepalives_idle=30 keepalives_interval=10 keepalives_count=3 to the dsn"
    keepalive = facts.client_keepalive
    if keepalive is None:
        yield Finding(
            "warning",
            topic,
            "the dsn switches keepalives off: a request whose server vanished waits for ever",
            "drop keepalives=0 from the dsn",
        )
    elif keepalive.seconds > UNNOTICED_MOST:
        yield Finding(
            "note",
            topic,
            f"a request notices after {span(keepalive.seconds)} that its server has vanished "
            f"(keepalives_idle is {keepalive.idle} s); idle connections are verified every "
            f"{facts.settings.check_interval:g} s",
            remedy,
        )
    else:
        seconds = span(keepalive.seconds)
        yield Finding("ok", topic, f"a request notices a vanished server after {seconds}")


def _quoted(role: str) -> str:
    """The name of a role as SQL wants it."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", role):
        return role
    return '"' + role.replace('"', '""') + '"'
