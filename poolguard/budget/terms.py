"""What processes that share a budget tell each other of it: scopes, limits and terms. Plain values.

All numbers are connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

__all__ = ["ANYWHERE", "Granted", "Scope", "Terms", "learned"]


class Scope(NamedTuple):
    """The database and the role whose limits bind a connection, beside the server's limit.

    Names are kept as numbers (CRC-32), so that they have a fixed size in a shared file; 0 stands
    for an unknown name, and in a limit's scope for any name.
    """

    database: int = 0
    role: int = 0

    @classmethod
    def of(cls, database: str, role: str) -> Scope:
        """The scope of *role*'s connections to *database*."""
        return cls(_key(database), _key(role))

    def is_within(self, limits: Scope | None) -> bool:
        """Whether a limit binds a connection of this scope.

        :param limits: the limit's scope, which names a database or a role; None: the whole server.
        """
        if limits is None:
            return True
        if limits.role:
            return self.role == limits.role
        return self.database == limits.database


ANYWHERE = Scope()


def _key(name: str) -> int:
    return crc32(name.encode(errors="surrogateescape"))


class Granted(NamedTuple):
    """What a process has learned from the server; None where the server sets no limit."""

    server: int | None
    role: int | None = None
    database: int | None = None

    @property
    def least(self) -> int | None:
        """The least of the limits that are known."""
        return min((limit for limit in self if limit is not None), default=None)

    def within(self, room: int) -> Granted:
        """The same where others leave room for no more: the least limit is lowered to *room*."""
        least = self.least
        if least is None:
            return self._replace(database=room)
        return Granted(*(min(n, room) if n == least else n for n in self))


def learned(known: Sequence[tuple[Scope, Granted]], scope: Scope) -> Granted | None:
    """What processes of other scopes, or the same, have learned that holds for *scope* too.

    None where nothing is known. What the server reserves for some roles differs between roles, so
    what a process of the same role has learned of the server goes first.
    """
    if not known:
        return None
    same_role = [granted for at, granted in known if at.role == scope.role]
    servers = [granted.server for granted in same_role or [granted for _, granted in known]]
    return Granted(
        min((server for server in servers if server is not None), default=None),
        next((granted.role for granted in reversed(same_role)), None),
        next((g.database for at, g in reversed(known) if at.database == scope.database), None),
    )


class Terms(NamedTuple):
    """The limits and the floor that one process goes by, and tells the others."""

    granted: Granted | None
    """What the server grants; None where this process has not asked it."""
    instance: int
    """This host's share of the budget: what this process and others like it may hold in all."""
    workers: int
    floor: int
    server: int | None = None
    """This host's share of what the server grants to all databases and roles.

    None where that is not known: the budget was given as a number, and each database has its own.
    """
    database: int | None = None
    """The share that binds all that use the same database."""
    role: int | None = None
    """The share that binds all that have the same role."""

    def divided(self, parts: int) -> Terms:
        """The terms of one of so many parts, between which the share is divided."""
        if parts == 1:
            return self
        instance = max(1, self.instance // parts)
        floor = max(1, min(self.floor, instance // (2 * self.workers)))

        def part(share: int | None) -> int | None:
            return None if share is None else max(1, share // parts)

        return self._replace(
            instance=instance,
            floor=floor,
            server=part(self.server),
            database=part(self.database),
            role=part(self.role),
        )
