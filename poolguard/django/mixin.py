"""What makes an engine of Django's, or of another package, take its connections from a guard.

Django's PostgreSQL engine asks its ``pool`` for connections, where it has one. Here that is the
guard's, so that all which Django or another package does around a connection remains theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.pq import TransactionStatus

from . import guards
from .sessions import tell

if TYPE_CHECKING:
    _Wrapper = Any
else:
    _Wrapper = object

__all__ = ["PoolGuardMixin"]

IDLE = int(TransactionStatus.IDLE)


class PoolGuardMixin(_Wrapper):  # type: ignore[misc]
    """Stands first among the bases of an engine that is built on Django's for PostgreSQL::

        # myproject/postgis/base.py, for "ENGINE": "myproject.postgis"
        from django.contrib.gis.db.backends.postgis import base
        from poolguard.django.mixin import PoolGuardMixin

        class DatabaseWrapper(PoolGuardMixin, base.DatabaseWrapper):
            pass

    A connection is lent at the first query of a request and returned at the request's end, as with
    Django's own ``OPTIONS["pool"]``. The guard verifies its connections, so ``CONN_HEALTH_CHECKS``
    adds no question.
    """

    connection: Any
    is_guarded = True
    _lender: guards.Lender | None = None
    """While it connects: what has a connection for it."""
    _unusable: Any = None
    """The connection that was found to be of no use; it is closed, not lent again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        guards.begin()

    @property
    def pool(self) -> Any:
        """What has lent the connection, or would lend one; None where that is, or would be, a plain
        connection of Django's."""
        connection = self.connection
        if connection is not None:
            return getattr(connection, "_pool", None)
        return self._lender or self._find_lender()

    def _find_lender(self) -> guards.Lender | None:
        return guards.lender_of(self.alias, self.settings_dict["NAME"])

    def close_pool(self) -> None:
        """Nothing: the guard's connections are not one thread's to close, and it is told of other
        settings at each checkout."""

    def connect(self) -> None:
        self._lender = self._find_lender()
        try:
            super().connect()
        finally:
            self._lender = None

    def get_connection_params(self) -> dict[str, Any]:
        if self._lender is not None:
            return {**self._lender.seen.params}  # it connects by them already
        params: dict[str, Any] = super().get_connection_params()
        params.pop("poolguard", None)
        return params

    def init_connection_state(self) -> None:
        super().init_connection_state()
        connection = self.connection
        if getattr(connection, "_pool", None) is None:
            return
        # A request may have changed them, and so may the settings have changed.
        role = self.settings_dict["OPTIONS"].get("assume_role")
        if tell(connection, self.timezone_name, role) and not self.get_autocommit():
            connection.commit()

    def is_usable(self) -> bool:
        usable: bool = super().is_usable()
        if not usable:
            self._unusable = self.connection
        return usable

    def _set_autocommit(self, autocommit: bool) -> None:
        connection = self.connection
        if connection.autocommit == autocommit and connection.pgconn.transaction_status == IDLE:
            return  # psycopg would take a lock, and a turn of its loop, to find that out
        super()._set_autocommit(autocommit)

    def _close(self) -> Any:
        connection = self.connection
        pool = getattr(connection, "_pool", None)
        if pool is None:
            return super()._close()
        self.connection = None
        if self._unusable is connection:
            self._unusable = None
            connection.close()
        pool.putconn(connection)
        return None
