"""The table in which all hosts keep together what their guards were asked for: its name, its SQL.

It has a row for each minute and guard, whatever the number of hosts: the highest figures of any
host, and what was created on all of them together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .minutes import KEPT, Demand

__all__ = ["PLAINLY", "READ_ONLY", "RIGHTS", "Answer", "Table", "answer_of", "quoted", "trouble"]

SCHEMA, NAME = "poolguard", "history"
"""Not in ``public``, where tools that compare a schema with a model would have it dropped."""
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
OLD_AT_ONCE = 5000
"""Rows that one statement deletes: a first look at a table that was long forgotten takes more."""

READ_ONLY = "the server takes no writes, and what it has of earlier days is only read"
PLAINLY = """
SET LOCAL enable_seqscan = off;
SET LOCAL jit = off;
SET LOCAL synchronous_commit = off;
"""
"""Goes before the others. Of a table that was never analyzed, the planner would read all; and no
connection waits for a disk, or for a standby, where a minute may be lost with the server."""

_FIGURES = ", ".join(Demand._fields)
_HIGHEST = [name for name in Demand._fields if name != "created"]

Answer = dict[int, Demand]
"""Minutes, as the table knows them."""


class Table(NamedTuple):
    """Where the rows are, and which of them are this service's."""

    schema: str = SCHEMA
    name: str = NAME
    service: str = ""
    """What tells its guards from those of the same name of other services; empty: the login
    role."""

    @classmethod
    def of(cls, setting: str) -> Table | None:
        """The table that a value of the setting ``history`` names; None where that names none."""
        kind, *parts = setting.split(":")
        if kind != "database":
            return None
        place = parts.pop(0).split(".") if parts and "." in parts[0] else (SCHEMA, NAME)
        return cls(*place, *parts)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Its name in SQL. A setting takes letters, digits and underscores only."""
        return f'"{self.schema}"."{self.name}"'

    # -- made by an operator -------------------------------------------------------------------

    def creation(self, *, schema: bool = True) -> list[str]:
        """The statements that make it, and its *schema*."""
        made = [f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"'] if schema else []
        return [
            *made,
            f"CREATE TABLE IF NOT EXISTS {self.quoted} (\n"
            "    minute timestamptz NOT NULL,\n"
            # Not in the system's order, which an upgrade may change under the index.
            '    service text COLLATE "C" NOT NULL,\n'
            '    guard text COLLATE "C" NOT NULL,\n'
            + "".join(f"    {name} integer NOT NULL,\n" for name in Demand._fields)
            + "    PRIMARY KEY (minute, service, guard)\n"
            # Hosts change a row within a minute or two of each other: its versions stay in the
            # page, and no index is written.
            ") WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)",
        ]

    def grants(self, role: str) -> list[str]:
        """The statements that let *role*, which is quoted already, use it."""
        return [
            f'GRANT USAGE ON SCHEMA "{self.schema}" TO {role}',
            f"GRANT {', '.join(RIGHTS)} ON {self.quoted} TO {role}",
        ]

    # -- used by workers -----------------------------------------------------------------------

    def writing(self, guard: str, minutes: Mapping[int, Demand]) -> tuple[str, dict[str, Any]]:
        """Adds what *minutes* of one host came to, with values for the query's parameters.

        A host whose clock is wrong does not write into the future.
        """
        query = f"""
INSERT INTO {self.quoted} AS kept (minute, service, guard, {_FIGURES})
SELECT at, {self._service}, %(guard)s, {_FIGURES}
  FROM (SELECT to_timestamp(60::float8 * at) AS at, {_FIGURES}
          FROM unnest(%(minutes)s::int[], {", ".join(f"%({each})s::int[]" for each in _PARAMETERS)})
               AS told (at, {_FIGURES})) AS told
 WHERE at BETWEEN now() - interval '{KEPT} minutes' AND now()
 ORDER BY at
ON CONFLICT (minute, service, guard) DO UPDATE
   SET {", ".join(f"{each} = greatest(kept.{each}, excluded.{each})" for each in _HIGHEST)},
       created = kept.created + excluded.created
 WHERE ({", ".join(f"kept.{each}" for each in _HIGHEST)}) IS DISTINCT FROM
       ({", ".join(f"greatest(kept.{each}, excluded.{each})" for each in _HIGHEST)})
    OR excluded.created > 0;
"""
        figures = zip(*minutes.values(), strict=True)
        values = dict(zip(_PARAMETERS, figures, strict=True))
        return query, {**self._whose(guard), "minutes": [*minutes], **values}

    def reading(self, guard: str, ranges: list[tuple[int, int]]) -> tuple[str, dict[str, Any]]:
        """Reads the minutes of *ranges*, each from its first to before its end, as one row that
        :func:`answer_of` takes."""
        query = f"""
SELECT array_agg(at) AS at, {", ".join(f"array_agg({each}) AS {each}" for each in Demand._fields)}
  FROM unnest(%(firsts)s::int[], %(ends)s::int[]) AS asked (first, after)
 CROSS JOIN LATERAL (
       SELECT (extract(epoch FROM minute) / 60)::int AS at, {_FIGURES} FROM {self.quoted}
        WHERE minute >= to_timestamp(60::float8 * first)
          AND minute < to_timestamp(60::float8 * after)
          AND service = {self._service} AND guard = %(guard)s
       OFFSET 0) AS found;
"""
        firsts, ends = zip(*ranges, strict=True)
        return query, {**self._whose(guard), "firsts": firsts, "ends": ends}

    def guards(self) -> tuple[str, dict[str, Any]]:
        """Reads which guards of the service it knows."""
        query = f"""
SELECT DISTINCT guard FROM {self.quoted}
 WHERE service = {self._service} AND minute >= now() - interval '{KEPT} minutes' ORDER BY guard
"""
        return query, {"service": self.service} if self.service else {}

    def clearing(self) -> str:
        """Deletes rows that are too old, of all guards: some of them are no more. Hosts that do so
        at the same time do not wait for each other."""
        return f"""
DELETE FROM {self.quoted} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {self.quoted} WHERE minute < now() - interval '{KEPT} minutes'
     LIMIT {OLD_AT_ONCE} FOR UPDATE SKIP LOCKED));
"""

    @property
    def _service(self) -> str:
        return "%(service)s" if self.service else "session_user::text"

    def _whose(self, guard: str) -> dict[str, Any]:
        return {"guard": guard, **({"service": self.service} if self.service else {})}


_PARAMETERS = [f"all_{name}" for name in Demand._fields]


def answer_of(row: Mapping[str, Any]) -> Answer:
    """What the table answers to :meth:`Table.reading`."""
    if row["at"] is None:
        return {}
    figures = zip(*(row[name] for name in Demand._fields), strict=True)
    return dict(zip(row["at"], map(Demand._make, figures), strict=True))


def quoted(role: str) -> str:
    """The name of a role, or of anything else, as SQL wants it."""
    if re.fullmatch("[a-z_][a-z0-9_]*", role):
        return role
    return '"' + role.replace('"', '""') + '"'


def trouble(table: Table, sqlstate: str | None, role: str) -> str:
    """Why the server has refused an exchange, and what to do about it, in one line."""
    if sqlstate in ("42P01", "3F000"):
        return f"there is no table {table}. Run poolguard history --create"
    if sqlstate == "42501":
        grants = "; ".join(table.grants(quoted(role)))
        return f"{role} may not use the table {table}. As its owner: {grants}"
    if sqlstate in ("42703", "42P10", "42804"):
        return (
            f"the table {table} is not what this version of poolguard makes. Drop it, and run "
            f"poolguard history --create"
        )
    if sqlstate in ("25006", "0A000"):
        return READ_ONLY
    if sqlstate in ("57014", "55P03"):
        return f"the table {table} does not answer in time. See what locks it, and how large it is"
    return f"the table {table} cannot be used (SQLSTATE {sqlstate})"
