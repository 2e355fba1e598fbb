"""URLs of databases, as other projects write them, and what they name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

__all__ = ["is_postgresql", "other_database", "plain_url"]

# The schemes by which dj-database-url, django-environ and SQLAlchemy mean PostgreSQL, and others.
_POSTGRESQL = frozenset(
    {"postgresql", "postgres", "postgis", "psql", "pgsql", "timescale", "timescalegis"}
)
_OTHER_DATABASES = frozenset(
    {"mysql", "mysql2", "mysqlgis", "mariadb", "sqlite", "sqlite3", "spatialite", "mssql"}
    | {"oracle", "oraclegis", "cockroach", "cockroachdb", "redshift", "snowflake", "mongodb"}
    | {"mssqlms", "redis", "duckdb", "clickhouse"}
)


def is_postgresql(text: str) -> bool:
    """Whether a URL names PostgreSQL, in whichever project's words."""
    return _scheme_of(text) in _POSTGRESQL


def _scheme_of(text: str) -> str | None:
    """The scheme of a URL in lower case, without the driver behind ``+``; None where none is."""
    found = re.match(r"([a-z][\w.-]*)(\+[\w.-]+)?://|(sqlite)[\w+]*:", text, re.IGNORECASE)
    return (found[1] or found[3]).lower() if found else None


def plain_url(text: str) -> str:
    """*text* as libpq takes it, where it is a PostgreSQL URL of another project's form.

    SQLAlchemy names its driver behind ``+``, and its plugins in the query.
    """
    if _scheme_of(text) not in _POSTGRESQL:
        return text
    if text.startswith(("postgresql://", "postgres://")) and "plugin=" not in text:
        return text
    place, _, query = text.partition("://")[2].partition("?")
    options = "&".join(each for each in query.split("&") if not each.startswith("plugin="))
    return f"postgresql://{place}{'?' if options else ''}{options}"


def other_database(environ: Mapping[str, str] | None = None) -> str | None:
    """What ``DATABASE_URL`` names, where that is no PostgreSQL; else None.

    Only what is known not to be a piece of a password is told by its name.
    """
    environ = os.environ if environ is None else environ
    scheme = _scheme_of(environ.get("DATABASE_URL", "").strip())
    if scheme is None or scheme in _POSTGRESQL:
        return None
    return scheme if scheme in _OTHER_DATABASES else "unknown"
