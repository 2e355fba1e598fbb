"""What is worth saying of a fleet as it is: findings of a survey, with no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..budget.fleet.keys import VERSION
from ..budget.fleet.survey import Host, Session, Survey
from ..util.escape import escaped
from .finding import Finding
from .text import plural, sessions

__all__ = ["named", "of_survey"]

NAMED_MOST = 4
"""How many hosts or sessions are named."""
TOPIC = "fleet"


def of_survey(survey: Survey) -> Iterator[Finding]:
    """All findings, the worst first."""
    yield from _versions(survey)
    yield from _foreign(survey)
    yield from _budgets(survey)
    yield from _floors(survey)
    yield from _lost(survey)
    yield from _beyond(survey)
    yield from _door(survey)
    yield from _starving(survey)


def named(hosts: Iterable[Host]) -> str:
    """The first few of *hosts*, by their names: ``web-1, web-2 and 7 more``."""
    names = [escaped(host.line.host) or f"pid {host.session.pid}" for host in hosts]
    if len(names) <= NAMED_MOST:
        return ", ".join(names)
    return f"{', '.join(names[: NAMED_MOST - 1])} and {len(names) - NAMED_MOST + 1} more"


def _versions(survey: Survey) -> Iterator[Finding]:
    if survey.versions:
        versions = ", ".join(map(str, sorted(survey.versions)))
        yield Finding(
            "error",
            TOPIC,
            f"hosts of this label go by version {versions} of the fleet's protocol, and this "
            f"poolguard by {VERSION}: they do not share a budget",
            "end those first, or give the hosts of one version a ledger_label of their own",
        )


def _foreign(survey: Survey) -> Iterator[Finding]:
    if survey.foreign:
        yield Finding(
            "error",
            TOPIC,
            f"another application takes the advisory locks by which the hosts lease slots: "
            f"{_sessions(survey.foreign)}",
            "give the fleet another ledger_label, from which the numbers of its locks follow",
        )


def _budgets(survey: Survey) -> Iterator[Finding]:
    known = Counter(host.line.budget for host in survey.hosts if host.line.budget)
    if len(known) > 1:
        least = min(known)
        smaller = named(host for host in survey.hosts if host.line.budget == least)
        greater = ", ".join(str(each) for each in sorted(known) if each != least)
        yield Finding(
            "warning",
            TOPIC,
            f"the hosts disagree on the budget: {smaller} {_go(known[least])} by {least}, and "
            f"others by {greater}. The smallest rules",
            "give all hosts the same budget and reserve",
        )


def _floors(survey: Survey) -> Iterator[Finding]:
    floors = sum(host.line.floors for host in survey.hosts if not host.line.draining)
    if survey.budget and floors > survey.room:
        yield Finding(
            "warning",
            TOPIC,
            f"the workers of all hosts ask for {floors} warm connections, and the budget of "
            f"{survey.budget} leaves {survey.room} to pools: all floors are cut to one height",
            "lower floor, workers or the number of hosts, or raise budget",
        )


def _lost(survey: Survey) -> Iterator[Finding]:
    if survey.lost:
        slots = sum(len(each.occupied - survey.leased) for each in survey.lost)
        yield Finding(
            "warning",
            TOPIC,
            f"{slots} {plural(slots, 'slot')} that no host has leased {_are(slots)} occupied, by "
            f"{_sessions(survey.lost)}: connections of a host that was lost, which count until "
            f"they end",
            "nothing where they are gone within a minute or two; else see whether that host's "
            "workers run, and end them, or these sessions by pg_terminate_backend",
        )


def _beyond(survey: Survey) -> Iterator[Finding]:
    beyond = survey.slots.beyond
    if survey.budget and beyond:
        yield Finding(
            "note",
            TOPIC,
            f"{beyond} {plural(beyond, 'slot')} beyond the budget of {survey.budget} "
            f"{_are(beyond)} leased or occupied still: the budget has "
            f"shrunk, and they are given back as their connections are returned",
        )


def _door(survey: Survey) -> Iterator[Finding]:
    session = survey.in_door
    if session is not None:
        host = next((each for each in survey.hosts if each.session is session), None)
        who = f"pid {session.pid}" if host is None else named([host])
        yield Finding(
            "note",
            TOPIC,
            f"{who} is joining by the slot that is kept free for that, until another one is free "
            f"for its control session: no other host can join before",
        )


def _starving(survey: Survey) -> Iterator[Finding]:
    starving = [host for host in survey.hosts if host.starves]
    if starving:
        told = ", ".join(
            f"{named([host])} ({host.leased} of {host.fair}, and needs {host.lacks} more)"
            for host in starving[:NAMED_MOST]
        )
        more = f" and {len(starving) - NAMED_MOST} more" if len(starving) > NAMED_MOST else ""
        yield Finding(
            "note",
            TOPIC,
            f"{_lack(len(starving))} by right: {told}{more}",
            "look again: they have it as soon as others return connections",
        )


def _sessions(found: list[Session]) -> str:
    by_client = Counter(
        (escaped(each.role), escaped(each.name), each.address or "") for each in found
    )
    told = [
        sessions(n, role, name) + (f" from {address}" if address else "")
        for (role, name, address), n in by_client.most_common(NAMED_MOST)
    ]
    if rest := len(found) - sum(n for _, n in by_client.most_common(NAMED_MOST)):
        told.append(f"{rest} of others")
    pids = ", ".join(str(each.pid) for each in found[:NAMED_MOST])
    more = ", …" if len(found) > NAMED_MOST else ""
    return f"{', '.join(told)} ({plural(len(found), 'pid')} {pids}{more})"


def _lack(n: int) -> str:
    return "1 host needs what is its" if n == 1 else f"{n} hosts need what is theirs"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _go(n: int) -> str:
    return "goes" if n == 1 else "go"
