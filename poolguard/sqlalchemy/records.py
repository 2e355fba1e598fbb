"""A guard's connection as SQLAlchemy sees it: its record, and one checkout of it.

A record lives as long as its connection, so that ``info`` stays and ``connect`` events come once. A
checkout costs less than SQLAlchemy's own, and means the same.
"""

from __future__ import annotations

import sys
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import exc
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

__all__ = ["Checkout", "GuardTimeout", "Record"]

IDLE = int(TransactionStatus.IDLE)


class GuardTimeout(exc.OperationalError, exc.TimeoutError):
    """No connection within ``acquire_timeout``, or too many acquires wait for one.

    It is what SQLAlchemy's own pool raises where it is exhausted, and what a server that cannot be
    reached has SQLAlchemy raise: a guard's acquire times out in both cases. ``orig`` is the pool's
    error, which says more.
    """

    def __init__(self, orig: Exception) -> None:
        super().__init__(None, None, orig)

    def __reduce__(self) -> Any:
        return type(self), (self.orig,)


class Record(_ConnectionRecord):
    """A connection of the guard's, as long as it is open.

    :param pool: a weak reference to the engine's pool, which may go before the connection.
    :param owner: stands for that pool: with another one the connection has another record.
    """

    __slots__ = ("lender", "loan", "owner")

    def __init__(self, pool: Any, owner: object, loan: Any, lender: Any) -> None:
        super().__init__(pool, connect=False)
        self.owner = owner
        self.loan = loan
        """The connection itself, lent by ...; None once it was detached."""
        self.lender = lender
        """... the guard's pool."""


class _Nothing:
    """In the place of a finalizer: a checkout has ``__del__``, which costs nothing to set up."""

    __slots__ = ()

    def detach(self) -> None: ...


class Checkout(_ConnectionFairy):
    """One checkout of a connection."""

    __slots__ = ()
    _pool: Any
    _connection_record: Record | None
    _finalizer: Any = _Nothing()

    def __init__(  # its parent's would set a finalizer up
        self, pool: Any, dbapi_connection: Any, record: Record, echo: Any
    ) -> None:
        self._pool = pool
        self._counter = 1
        self.dbapi_connection = dbapi_connection
        self._connection_record = record
        self._echo = echo

    def __del__(self) -> None:
        record = self._connection_record
        if record is not None and record.in_use and not sys.is_finalizing():
            self._pool._lost(self, record)

    def detach(self) -> None:
        if (record := self._connection_record) is not None:
            # From now on the slot is given back as the connection is closed.
            record.loan._poolguard_record = None
            record.loan = None
        super().detach()

    def drop(self) -> None:
        """Refer to the connection no more, and have nobody refer to it: by that the guard knows
        that it is to be closed. Nothing can be awaited here."""
        record = self._connection_record
        self._reset(self._pool, False, terminate_only=True, asyncio_safe=False)
        if record is not None:
            record.loan._poolguard_record = None
            record.loan = record.dbapi_connection = record.fairy_ref = None
        self.dbapi_connection = self._connection_record = None  # type: ignore[assignment]

    def _end_detached(self) -> None:
        conn = self._pool._dialect.get_driver_connection(self.dbapi_connection)
        try:
            super()._checkin()
        finally:
            if (lender := conn._pool) is not None:
                self._pool._give(lender, conn)

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        if self._connection_record is None and self.dbapi_connection is not None:
            return self._end_detached()
        record, pool = self._connection_record, self._pool
        dispatch = pool.dispatch
        if (
            record is None
            or self.dbapi_connection is None
            or record.finalize_callback
            or self._echo
            or record.loan.pgconn.transaction_status != IDLE
            or record.loan._tpc is not None
            or dispatch.reset
            or dispatch.checkin
        ):
            return super()._checkin(transaction_was_reset)
        # Nothing was begun, so there is nothing to reset, and nobody to be told of it.
        self._connection_record = self.dbapi_connection = record.fairy_ref = None  # type: ignore[assignment]
        pool._return_conn(record)
        return None
