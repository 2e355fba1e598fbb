"""What a contender's application is told, by the environment: where, how many, how fast."""

from __future__ import annotations

import os
from typing import NamedTuple

from psycopg.conninfo import conninfo_to_dict

__all__ = ["TERMS", "Terms", "fast"]

HOUR = 3600.0
LEAST = 0.1
"""A timeout in fast motion is at least this: a shorter one would close connections between two
requests of a busy day, since requests are not in fast motion, and that no real one does."""


class Terms(NamedTuple):
    """The same for all."""

    dsn: str
    size: int
    """Connections that this worker may hold: its share of the budget."""
    setting: str
    """``defaults``, ``tuned`` or ``limit``."""
    query: float
    """Seconds that a request's query takes."""
    hour: float
    """Seconds that stand for an hour."""

    @property
    def tuned(self) -> bool:
        return self.setting == "tuned"

    @property
    def limit(self) -> bool:
        return self.setting == "limit"

    def fast(self, seconds: float) -> float:
        """An idle timeout in fast motion."""
        return fast(seconds, self.hour)

    def place(self) -> dict[str, str]:
        """Where the database is, for drivers that do not read libpq's strings."""
        given = {name: str(value) for name, value in conninfo_to_dict(self.dsn).items()}
        names = {"host": "host", "port": "port", "user": "user", "dbname": "database"}
        return {theirs: given[ours] for ours, theirs in names.items()} | {
            "password": given.get("password", "")
        }


def fast(seconds: float, hour: float) -> float:
    """*seconds* where *hour* seconds stand for an hour."""
    return seconds if hour == HOUR else max(seconds * hour / HOUR, LEAST)


TERMS = Terms(
    os.environ.get("DATABASE_URL", ""),
    int(os.environ.get("CONTEST_SIZE", "1")),
    os.environ.get("CONTEST_SETTING", "defaults"),
    float(os.environ.get("CONTEST_QUERY", "0")),
    float(os.environ.get("CONTEST_HOUR", "3600")),
)
