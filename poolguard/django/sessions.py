"""What a session must be told before Django uses it: its time zone, and the role it assumes.

No wrapper of Django's takes part: the guard's threads tell new sessions, and a wrapper that is
asked for a cursor there would borrow a connection from the pool that is connecting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.adapt import AdaptersMap

__all__ = ["Dress", "tell"]


def tell(connection: Any, zone: str | None, role: str | None) -> bool:
    """Have the session in that time *zone* and *role*; whether it had to be told.

    The server reports each change of the time zone by itself. It does not report a role: what was
    told last is compared.
    """
    told = getattr(connection, "_poolguard_told", None)
    now = (zone, role, connection.pgconn.parameter_status(b"TimeZone"))
    if told == now:
        return False
    wanted: list[str] = []
    if zone and now[2] != zone.encode():
        wanted += ["TimeZone", zone]
    if role != (told[1] if told else None):
        wanted += ["role", role or "none"]
    if wanted:
        calls = ", ".join(["set_config(%s, %s, false)"] * (len(wanted) // 2))
        connection.execute(f"SELECT {calls}", wanted)
    # With the zone as the server spells it, which may be otherwise.
    connection._poolguard_told = (zone, role, connection.pgconn.parameter_status(b"TimeZone"))
    return bool(wanted)


@dataclass(frozen=True)
class Dress:
    """A guard's ``configure``: what each new connection of one database is told.

    Two of the same are equal, as a guard's identity wants it.
    """

    zone: str | None
    role: str | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """What psycopg's ``connect()`` is given beside libpq's parameters."""

    def __call__(self, connection: Any) -> None:
        if not connection.autocommit:  # it began to connect before the guard was adopted
            self.put_on(connection)
            return
        tell(connection, self.zone, self.role)
        connection._poolguard_dress = self

    def put_on(self, connection: Any) -> None:
        """Make one that connected without all this as if it had connected with it."""
        connection.autocommit = True  # what it is told now is to last
        for name, value in self.kwargs.items():
            if name == "context":
                connection._adapters = AdaptersMap(value.adapters)
            else:
                setattr(connection, name, value)
        if connection.pgconn.parameter_status(b"client_encoding") != b"UTF8":
            connection.execute("SET client_encoding TO 'UTF8'")
        self(connection)
