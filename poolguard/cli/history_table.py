"""The table in which hosts share their history: made for the workers, read, and judged."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..budget.queries import one_row, rows
from ..errors import PoolguardError, SettingsError
from ..history.minutes import KEPT, Demand
from ..history.table import RIGHTS, Table, answer_of, quoted
from ..settings import Settings
from ..util.conninfo_location import database_name, session_of
from ..util.escape import escaped
from . import database
from .deployment import spoken
from .finding import Finding
from .history_files import SETTLED, Recorded
from .text import say

if TYPE_CHECKING:
    import psycopg

__all__ = ["TableFacts", "add_options", "create", "judge_table", "observe_table", "recorded_there"]

TOPIC = "history"
LOOK = """
SELECT count(n.oid) > 0 AS schema, count(c.oid) > 0 AS made,
       coalesce(bool_or(has_schema_privilege(current_user, n.oid, 'USAGE')), false) AS enters,
       concat_ws(',', {}) AS lacking
  FROM (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s) n
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %(name)s
""".format(
    ", ".join(
        f"CASE WHEN NOT bool_and(has_table_privilege(current_user, c.oid, '{each}')) "
        f"THEN '{each}' END"
        for each in RIGHTS
    )
)
DENIED = "42501"
SOME_ROLE = "role_of_the_workers"


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What a command has seen of the table."""

    table: Table
    role: str
    schema: bool
    """There is the schema, ..."""
    made: bool
    """... and the table."""
    lacking: tuple[str, ...] = ()
    """The rights that the role lacks."""
    standby: bool = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say of which database, and what is to be done there."""
    parser.add_argument(
        "--database",
        action="store_true",
        help='what all hosts have recorded in the table (history="database") is read',
    )
    parser.add_argument(
        "--create",
        action="store_true",
        help="make that table, where it is missing, and nothing else",
    )
    parser.add_argument(
        "--sql", action="store_true", help="with --create, print what makes it, and do not connect"
    )
    parser.add_argument(
        "--role", metavar="ROLE", help="with --create, let the workers' ROLE use the table"
    )
    parser.add_argument(
        "--dsn", metavar="URL", help="where the database is; without it, as the environment says"
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings, as far as they say where the table is.

    Raises SettingsError in the words of the command line.
    """
    try:
        return Settings.build(dsn=options.dsn)
    except SettingsError as error:
        raise SettingsError(spoken(str(error))) from None


def table_of(settings: Settings) -> Table:
    """The table that the settings name, else the usual one."""
    return Table.of(settings.history) or Table()


# -- made --------------------------------------------------------------------------------------


def create(options: argparse.Namespace) -> int:
    """Make the table, or print what makes it. Returns the exit status."""
    settings = settings_of(options)
    table = table_of(settings)
    if options.sql:
        role = options.role or session_of(settings.dsn)[1] or SOME_ROLE
        say(_sql([*table.creation(), *table.grants(quoted(role))]))
        return 0
    with database.connect(settings, "history") as conn:
        return _create(conn, table, options.role)


def _create(conn: psycopg.Connection[Any], table: Table, role: str | None) -> int:
    import psycopg

    before = _look(conn, table)
    statements = [] if before.made else table.creation(schema=not before.schema)
    if role is not None:
        statements += table.grants(quoted(role))
    try:
        with conn.transaction():
            for statement in statements:
                conn.execute(statement.encode())
    except psycopg.Error as error:
        if error.sqlstate != DENIED:
            raise
        say(_sql([*statements, *([] if role else table.grants(quoted(before.role)))]))
        raise PoolguardError(
            f"{escaped(before.role)} may not make the table {table}: have one who may run the "
            f"statements above, or give the dsn of such a role, and the workers' one with --role"
        ) from None
    if before.made:
        say([f"the table {table} is there"])
    else:
        say([f"made: the table {table}. Workers use it with {_setting(table)}"])
    if role is None:
        say([f"if they log in as another role than {before.role}, name that with --role"])
    else:
        say([f"{role} may use it"])
    return 0


def _setting(table: Table) -> str:
    named = "" if table[:2] == Table()[:2] else f":{table}"
    return f'history="database{named}"'


def _sql(statements: Sequence[str]) -> Iterator[str]:
    for statement in statements:
        yield from f"{statement};".splitlines()


# -- read --------------------------------------------------------------------------------------


class _Past(dict[int, Demand]):
    """What the table knows of one guard."""

    def read(self, first: int, end: int) -> Sequence[Demand | None]:
        return [self.get(minute) for minute in range(first, end)]


def recorded_there(settings: Settings, command: str, guard: str | None = None) -> list[Recorded]:
    """What the guards of this service have recorded in the table, or only *guard*.

    Raises :exc:`~poolguard.errors.PoolguardError` where there is nothing of that.
    """
    table = table_of(settings)
    with database.connect(settings, command) as conn:
        facts = _look(conn, table)
        if not facts.made:
            raise PoolguardError(
                f"there is no table {table} in the database: run poolguard history --create, and "
                f"have the workers use it with {_setting(table)}"
            )
        if "SELECT" in facts.lacking:
            grants = "; ".join(table.grants(quoted(facts.role)))
            raise PoolguardError(
                f"{escaped(facts.role)} may not read the table {table}. As its owner: {grants}"
            )
        names = [row["guard"] for row in rows(conn, *table.guards())]
        end = int((time.time() - SETTLED) // 60)
        wanted = [name for name in names if guard in (None, name)]
        found = [
            Recorded(
                name,
                _Past(answer_of(one_row(conn, *reading))),
                end,
                database_name(settings.dsn, name),
            )
            for name in wanted
            for reading in [table.reading(name, [(end - KEPT, end + 1)])]
        ]
    if not found:
        whose = table.service or facts.role
        raise PoolguardError(
            f"nothing is recorded of {escaped(whose)} in the table {table}"
            if not names
            else f"no guard {guard} has a history in the table {table}: --guard may be one of "
            f"{', '.join(map(escaped, names))}"
        )
    return found


# -- judged ------------------------------------------------------------------------------------


def observe_table(conn: psycopg.Connection[Any], settings: Settings) -> TableFacts | None:
    """What is seen of the table; None where the settings want none."""
    table = Table.of(settings.history)
    return None if table is None else _look(conn, table)


def _look(conn: psycopg.Connection[Any], table: Table) -> TableFacts:
    row = one_row(
        conn,
        "SELECT current_user::text AS role, pg_is_in_recovery() AS standby, seen.* FROM "
        f"({LOOK}) AS seen",
        {"schema": table.schema, "name": table.name},
    )
    lacking = [each for each in row["lacking"].split(",") if each]
    if not row["enters"]:
        lacking = list(RIGHTS)
    return TableFacts(
        table, row["role"], row["schema"], row["made"], tuple(lacking), row["standby"]
    )


def judge_table(facts: TableFacts) -> Iterator[Finding]:
    """What to say of the table."""
    table, role = facts.table, escaped(facts.role)
    if not facts.made:
        yield Finding(
            "warning",
            TOPIC,
            f"there is no table {table}, so each host learns from its own traffic alone",
            "run poolguard history --create",
        )
    elif facts.lacking:
        yield Finding(
            "warning",
            TOPIC,
            f"{role} lacks {', '.join(facts.lacking)} on the table {table}, so each host learns "
            f"from its own traffic alone",
            f"as its owner: {'; '.join(table.grants(quoted(facts.role)))}",
        )
    elif facts.standby:
        yield Finding(
            "note", TOPIC, f"the server is a standby: the table {table} is read, and not written"
        )
    else:
        whose = table.service or role
        yield Finding("ok", TOPIC, f"all hosts learn from the table {table}, as {whose}")
