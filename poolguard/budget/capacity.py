"""Capacity: how many connections the server grants this role in this database.

The query needs no privilege. The least of three limits rules: the server's (less what it reserves
for superusers and for members of pg_use_reserved_connections, and what a managed service reserves
beyond that), the role's and the database's; superusers are bound by none but max_connections
(PostgreSQL manual, "Connections and Authentication", "CREATE ROLE", "CREATE DATABASE").

Behind a pooler that grants other clients the same server connections the answer says nothing about
this service: see :mod:`poolguard.cli.pooler`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["CONSUMERS", "OTHERS", "QUERY", "Capacity"]

# current_setting(…, true) is NULL where the server is older than the setting (reserved_connections
# came with PostgreSQL 16, the rds one exists on that service only), and so reserves nothing.
# An unprivileged role sees other roles' rows without backend_type. Rows with a role and a database
# count as clients. Some are not (a parallel worker, a replica), so free_now may be too low by
# `unclassified` at most.
QUERY = """
WITH s AS (
  SELECT current_setting('max_connections')::int AS max_connections,
         current_setting('superuser_reserved_connections')::int AS su_reserved,
         coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0) AS reserved,
         coalesce(nullif(current_setting('rds.rds_superuser_reserved_connections', true), '')::int,
                  0) AS rds_reserved,
         r.rolsuper, r.rolconnlimit, d.datconnlimit, d.oid AS dboid, r.oid AS roloid,
         coalesce((SELECT pg_has_role(r.oid, x.oid, 'USAGE') FROM pg_roles x
                    WHERE x.rolname = 'pg_use_reserved_connections'), false) AS use_reserved,
         coalesce((SELECT pg_has_role(r.oid, x.oid, 'USAGE') FROM pg_roles x
                    WHERE x.rolname = 'rds_superuser'), false) AS rds_super
    FROM pg_roles r, pg_database d
   WHERE r.rolname = session_user AND d.datname = current_database()
), c AS (
  SELECT s.*,
         CASE WHEN rolsuper THEN 0 ELSE su_reserved END AS for_superusers,
         CASE WHEN rolsuper OR use_reserved THEN 0 ELSE reserved END AS for_members,
         CASE WHEN rolsuper OR rds_super THEN 0 ELSE rds_reserved END AS for_service,
         CASE WHEN rolsuper OR rolconnlimit < 0 THEN NULL ELSE rolconnlimit END AS role_cap,
         CASE WHEN rolsuper OR datconnlimit < 0 THEN NULL ELSE datconnlimit END AS db_cap
    FROM s
), l AS (
  SELECT c.*, max_connections - for_superusers - for_members - for_service AS server_cap FROM c
), clients AS (
  SELECT usesysid = (SELECT roloid FROM s) AS is_role, datid = (SELECT dboid FROM s) AS is_db,
         backend_type
    FROM pg_stat_activity
   WHERE backend_type = 'client backend'
      OR (backend_type IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL)
), a AS (
  SELECT count(*) AS used_server,
         count(*) FILTER (WHERE is_role) AS used_role,
         count(*) FILTER (WHERE is_db) AS used_db,
         count(*) FILTER (WHERE is_role AND is_db) AS used_own,
         count(*) FILTER (WHERE backend_type IS NULL) AS unclassified
    FROM clients
)
SELECT l.server_cap AS server, l.role_cap AS role, l.db_cap AS database,
       greatest(0, least(l.server_cap - a.used_server, l.role_cap - a.used_role,
                         l.db_cap - a.used_db))::int AS free_now,
       l.max_connections, l.for_superusers, l.for_members, l.for_service,
       a.used_server::int AS used_server, a.used_role::int AS used_role,
       a.used_db::int AS used_database, a.used_own::int AS used_own,
       a.unclassified::int AS unclassified,
       l.rolsuper AS superuser, pg_is_in_recovery() AS standby
  FROM l, a
"""


CONSUMERS = """
SELECT coalesce(usename, '?') AS role,
       CASE WHEN application_name ~ '^poolguard [0-9]+ ' THEN 'poolguard''s control session'
            ELSE coalesce(application_name, '') END AS application,
       count(*) AS connections
  FROM pg_stat_activity
 WHERE (backend_type = 'client backend'
        OR (backend_type IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL))
   AND pid <> pg_backend_pid()
 GROUP BY 1, 2
 ORDER BY 3 DESC, 1, 2
"""
"""Asks which other roles and applications hold how many connections to the whole server.

The control session of a fleet's host tells by its name what the host has, and each another thing:
here all are called the same."""

OTHERS = f"{CONSUMERS} LIMIT 20"
"""Asks the same of the 20 with the most."""


class Capacity(NamedTuple):
    """What the server grants, in connections; None where it sets no limit of that kind.

    What is in use counts the connection that asked.
    """

    server: int
    """What of ``max_connections`` this role may use."""
    role: int | None = None
    """The role's ``CONNECTION LIMIT``."""
    database: int | None = None
    """The database's ``CONNECTION LIMIT``."""
    free_now: int | None = None
    """How many more could be opened at the moment of asking, others' connections included."""
    max_connections: int | None = None
    for_superusers: int = 0
    """Of ``max_connections``, what this role may not use: ``superuser_reserved_connections``."""
    for_members: int = 0
    """The same for members of pg_use_reserved_connections: ``reserved_connections`` (16+)."""
    for_service: int = 0
    """The same for a managed service: ``rds.rds_superuser_reserved_connections``."""
    used_server: int = 0
    """Clients' connections to the whole server."""
    used_role: int = 0
    """Connections of this role, to any database."""
    used_database: int = 0
    """Connections to this database, of any role."""
    used_own: int = 0
    """Connections of this role to this database."""
    unclassified: int = 0
    """Connections in use that may not be clients': an unprivileged role cannot tell."""
    superuser: bool = False
    standby: bool = False

    @property
    def usable(self) -> int:
        """The least of the limits: what this role may hold in this database at once."""
        return min(n for n in (self.server, self.role, self.database) if n is not None)

    @property
    def left_by_others(self) -> int | None:
        """What this role could hold in this database if it held nothing yet; None if not asked."""
        if self.free_now is None:
            return None
        rooms = [self.server - (self.used_server - self.used_own)]
        if self.role is not None:
            rooms.append(self.role - (self.used_role - self.used_own))
        if self.database is not None:
            rooms.append(self.database - (self.used_database - self.used_own))
        return max(0, min(rooms))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Capacity:
        """Make a capacity of the row that :data:`QUERY` answers."""
        return cls(**row)

    def explain(self) -> str:
        """Where :attr:`usable` comes from: ``100 max_connections − 3 superuser_reserved…``."""
        if self.usable == self.role and self.role < self.server:
            return f"the role's CONNECTION LIMIT; the server would grant {self.server}"
        if self.usable == self.database and self.database < self.server:
            return f"the database's CONNECTION LIMIT; the server would grant {self.server}"
        if self.max_connections is None:
            return "as given"
        less = (
            (self.for_superusers, "superuser_reserved_connections"),
            (self.for_members, "reserved_connections"),
            (self.for_service, "rds.rds_superuser_reserved_connections"),
        )
        reserved = "".join(f" − {n} {setting}" for n, setting in less if n)
        return f"{self.max_connections} max_connections{reserved}"
