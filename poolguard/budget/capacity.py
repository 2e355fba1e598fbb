"""Capacity: how many connections the server grants this role in this database.

The query needs no privilege. The least of three limits rules: the server's (less what it reserves
for superusers and for members of pg_use_reserved_connections, and what a managed service reserves
beyond that), the role's and the database's; superusers are bound by none but max_connections
(PostgreSQL manual, "Connections and Authentication", "CREATE ROLE", "CREATE DATABASE").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["QUERY", "Capacity"]

# current_setting(…, true) is NULL where the server is older than the setting (reserved_connections
# came with PostgreSQL 16, the rds one exists on that service only), and so reserves nothing.
# An unprivileged role sees other roles' rows without backend_type: they count as clients.
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
         max_connections
           - CASE WHEN rolsuper THEN 0 ELSE su_reserved END
           - CASE WHEN rolsuper OR use_reserved THEN 0 ELSE reserved END
           - CASE WHEN rolsuper OR rds_super THEN 0 ELSE rds_reserved END AS server_cap,
         CASE WHEN rolsuper OR rolconnlimit < 0 THEN NULL ELSE rolconnlimit END AS role_cap,
         CASE WHEN rolsuper OR datconnlimit < 0 THEN NULL ELSE datconnlimit END AS db_cap
    FROM s
), a AS (
  SELECT count(*) AS used_server,
         count(*) FILTER (WHERE usesysid = (SELECT roloid FROM s)) AS used_role,
         count(*) FILTER (WHERE datid = (SELECT dboid FROM s)) AS used_db
    FROM pg_stat_activity
   WHERE backend_type = 'client backend'
      OR (backend_type IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL)
)
SELECT c.server_cap AS server, c.role_cap AS role, c.db_cap AS database,
       greatest(0, least(c.server_cap - a.used_server, c.role_cap - a.used_role,
                         c.db_cap - a.used_db)) AS free_now
  FROM c, a
"""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the server grants, in connections; None where it sets no limit of that kind."""

    server: int
    role: int | None = None
    database: int | None = None
    free_now: int | None = None
    """How many more could be opened at the moment of asking, others' connections included."""

    @property
    def usable(self) -> int:
        """The least of the limits: what this role may hold in this database at once."""
        return min(n for n in (self.server, self.role, self.database) if n is not None)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Capacity:
        """Make one of the row that :data:`QUERY` answers."""
        return cls(**row)
