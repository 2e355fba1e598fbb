"""``poolguard status --fleet``: it asks the database in which a fleet shares its budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..budget.fleet.keys import Keys
from ..budget.fleet.survey import CONTROL_SESSIONS, PLACE, Host, Session, Survey, labels, query
from ..budget.queries import one_row, rows
from ..errors import PoolguardError
from ..settings import Settings
from ..util.escape import as_json, escaped
from . import database
from .fleet_text import frame, nothing, report
from .text import columns_to_fit, say

if TYPE_CHECKING:
    import psycopg

__all__ = ["NONE_FOUND", "Fleets", "default_label", "ledger_at", "look", "run", "surveys"]

NONE_FOUND = 3
"""The exit status where no host of a fleet is there."""


class Fleets:
    """The fleets that share their budgets in one database, at one moment."""

    def __init__(self, role: str, name: str, found: list[Survey]) -> None:
        self.role = role
        """That asked."""
        self.database = name
        self.surveys = found

    @property
    def hosts(self) -> int:
        """Hosts of all of them."""
        return sum(len(each.hosts) for each in self.surveys)


def ledger_at(settings: Settings) -> database.Place:
    """The setting that says which database has the fleet's ledger."""
    return "dsn" if settings.ledger_dsn is None else "ledger_dsn"


def default_label(conn: psycopg.Connection[Any]) -> str:
    """The name of a fleet that was given none, whose hosts connect as *conn* does."""
    return f"{conn.info.user}@{conn.info.dbname}"


def look(conn: psycopg.Connection[Any], label: str) -> Survey:
    """Survey the fleet of this *label*."""
    keys = Keys.of(label)
    return Survey(keys, rows(conn, query(keys)))


def surveys(settings: Settings) -> Iterator[Fleets]:
    """Survey the fleets again and again, over one connection.

    These are the one that *settings* name, else all whose label is the default one, role@database.
    Raises PoolguardError.
    """
    with database.connect(settings, "status", ledger_at(settings)) as conn:
        while True:
            facts = one_row(conn, PLACE)
            if facts["standby"]:
                raise PoolguardError(
                    "the server is a standby, which has no locks in common with its primary: name "
                    "the primary, or all servers and target_session_attrs=read-write"
                )
            chosen = settings.ledger_label
            default = default_label(conn)
            known = [chosen] if chosen else labels(rows(conn, CONTROL_SESSIONS)) or [default]
            found = [look(conn, label) for label in known]
            yield Fleets(facts["role"], facts["database"], found)


def run(settings: Settings, *, watch: float | None, for_machines: bool) -> int:
    """Show the fleets once, or every *watch* seconds. Returns the exit status."""
    if watch is not None and for_machines:
        return _stream(settings, watch)
    if watch is not None:
        return _watch(settings, watch)
    fleets = next(surveys(settings))
    if for_machines:
        print(as_json(_machine(fleets), indent=1))
    elif fleets.hosts:
        say(report(fleets.surveys, fleets.database, columns_to_fit()))
    else:
        say(nothing(fleets.surveys, fleets.database, fleets.role, columns_to_fit()))
    return 0 if fleets.hosts else NONE_FOUND


class _Source:
    """Surveys, by a connection that is made again after it has failed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._surveys = surveys(settings)
        self._works = False

    def read(self) -> Fleets | PoolguardError:
        """The fleets now, or why they cannot be seen. The first time, that is raised."""
        try:
            fleets = next(self._surveys)
        except PoolguardError as error:
            if not self._works:
                raise
            self._surveys = surveys(self._settings)
            return error
        self._works = True
        return fleets


def _stream(settings: Settings, every: float) -> int:
    source = _Source(settings)
    try:
        while True:
            found = source.read()
            told = {"error": str(found)} if isinstance(found, Exception) else _machine(found)
            print(as_json({"at": time.time(), **told}), flush=True)
            time.sleep(every)
    except KeyboardInterrupt:
        return 0


def _watch(settings: Settings, every: float) -> int:
    from .screen import Screen

    source = _Source(settings)
    source.read()  # what fails at once is said on the terminal as it was
    with Screen() as screen:
        while True:
            found, size, now = source.read(), screen.size(), time.time()
            if isinstance(found, Exception):
                screen.draw(frame([], "", str(found).split("\n"), now, size))
            else:
                none = nothing(found.surveys, found.database, found.role, size[0])
                screen.draw(frame(found.surveys, found.database, none, now, size))
            if (ended := screen.wait(every)) is not None:
                return ended


def _machine(fleets: Fleets) -> dict[str, Any]:
    return {
        "database": fleets.database,
        "role": fleets.role,
        "fleets": [_fleet(survey) for survey in fleets.surveys],
    }


def _fleet(survey: Survey) -> dict[str, Any]:
    from .fleet_findings import of_survey

    return {
        "label": survey.label,
        "budget": survey.budget or None,
        "hosts": [_host(host) for host in survey.hosts],
        "room": survey.room,
        "slots": {
            **survey.slots._asdict(),
            "door": None if survey.in_door is None else survey.in_door.pid,
        },
        "sessions": len(survey.pooled),
        "lost": [_session(each) for each in survey.lost],
        "other_versions": sorted(survey.versions),
        "findings": [
            {"level": each.level, "found": each.found, "remedy": each.remedy}
            for each in of_survey(survey)
        ],
    }


def _host(host: Host) -> dict[str, Any]:
    line, session = host.line, host.session
    return {
        **line._asdict(),
        "pid": session.pid,
        "role": session.role,
        "address": session.address,
        "age": session.age,
        "urgent": session.urgent,
        "guaranteed": host.guaranteed,
        "fair": host.fair,
        "leased": host.leased,
        "occupied": host.occupied,
        "lacks": host.lacks,
    }


def _session(session: Session) -> dict[str, Any]:
    return {
        "pid": session.pid,
        "application": escaped(session.name),
        "role": session.role,
        "address": session.address,
        "slots": sorted(session.occupied),
    }
