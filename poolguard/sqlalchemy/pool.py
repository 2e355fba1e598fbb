"""The pool of an engine whose connections are the guard's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import proxy, ref

from psycopg.pq import TransactionStatus
from psycopg_pool import PoolTimeout, TooManyRequests
from sqlalchemy import exc, util
from sqlalchemy.pool import Pool

from ..runtime.guards import Guard
from .dress import dressed, dressed_async
from .records import Checkout, GuardTimeout, Record
from .standin import StandIn

try:
    from sqlalchemy.util.concurrency import await_
except ImportError:  # before SQLAlchemy 2.1
    from sqlalchemy.util.concurrency import await_only as await_

__all__ = ["AsyncGuardPool", "GuardPool"]


class GuardPool(StandIn):
    """Lends an engine the connections of *guard*; in a process that is no worker, while the guard
    is not open, those of *plain*, the pool that the engine had.

    Listeners are the same for both. ``connect`` and ``first_connect`` come once for each connection
    of the guard's, at its first checkout, which for those that a worker opens as it boots is before
    it serves. ``close`` comes for what SQLAlchemy closes, such as an invalidated connection, and
    not for what the guard does: a connection that the server has ended, or that was replaced, is
    dropped without a word. ``dispose()`` leaves the guard's connections alone.

    :param dress: what the engine wants of a connection, beside where it leads.
    """

    def __init__(self, plain: Pool, guard: Guard, dress: Mapping[str, Any]) -> None:
        super().__init__(plain, guard, self._dressed_loan)
        self._dress = dress
        self._owner = object()
        self._me = proxy(self)  # a connection that stays is not to keep the engine
        self._lent: set[Record] = set()
        """What is in use: as long as it is here, what is collected is the checkout alone."""
        self._strays: list[Record] = []
        """What was not returned, and could not be taken back as that was found."""

    # -- checking out --------------------------------------------------------------------------

    def connect(self) -> Any:
        """A connection of the guard's. Raises :exc:`GuardTimeout`."""
        lender = self._lender
        if lender is None or lender.closed:
            lender = self._lender = self._open_lender()
            if lender is None:
                return self._plain.connect()
        if self._strays:
            self._take_strays_back()
        try:
            return self._checkout(lender)
        except exc.DisconnectionError as error:
            self.logger.info("Disconnection detected on checkout (reason: %r)", error)
        try:  # once more, as SQLAlchemy does
            return self._checkout(lender)
        except exc.DisconnectionError as error:
            self.logger.info("Reconnection attempts exhausted on checkout")
            raise exc.InvalidRequestError("This connection is closed") from error

    def _checkout(self, lender: Any) -> Checkout:
        loan = self._borrow(lender)
        record: Record | None = getattr(loan, "_poolguard_record", None)
        if record is not None and record.owner is not self._owner:
            return self._checkout_another(lender, loan)
        if record is None or (connection := record.dbapi_connection) is None:
            record, connection = self._recorded(loan, lender)
        self._lent.add(record)
        echo = self._should_log_debug()
        checkout = Checkout(self, connection, record, echo)
        record.fairy_ref = ref(checkout)
        if echo:
            self.logger.debug("Connection %r checked out from pool", connection)
        if self.dispatch.checkout:
            self._tell_of(checkout, record)
        return checkout

    def _checkout_another(self, lender: Any, loan: Any) -> Checkout:
        """Of another engine, which is gone: who knows what that, or its listeners, have set."""
        try:
            self._close(loan)
        finally:
            self._give(lender, loan)
        return self._checkout(lender)

    def _recorded(self, loan: Any, lender: Any) -> tuple[Record, Any]:
        record = Record(self._me, self._owner, loan, lender)
        loan._poolguard_record = record
        try:
            connection = record.get_connection()  # which runs the ``connect`` events
            if loan.pgconn.transaction_status == TransactionStatus.INTRANS:
                # What a listener has set would end with the first rollback.
                self._dialect.do_commit(connection)  # type: ignore[arg-type]
        except BaseException as error:
            with util.safe_reraise():
                record._checkin_failed(error, _fairy_was_created=False)
            raise  # for those who read types
        return record, connection

    def _tell_of(self, checkout: Checkout, record: Record) -> None:
        record.fresh = False
        try:
            self.dispatch.checkout(checkout.dbapi_connection, record, checkout)
        except exc.DisconnectionError as error:
            checkout.invalidate(error)
            raise
        except BaseException as error:
            with util.safe_reraise():
                record._checkin_failed(error)
            raise  # for those who read types

    def _borrow(self, lender: Any) -> Any:
        try:
            return lender.getconn()
        except (PoolTimeout, TooManyRequests) as error:
            raise GuardTimeout(error) from error

    def _dressed_loan(self, connection_record: Any = None) -> Any:
        """What a record connects with: the connection that it is of. Another one's is its own."""
        if not isinstance(connection_record, Record):
            return self._plain._invoke_creator(connection_record)
        return dressed(_open_loan(connection_record), self._dress)

    # -- returning -----------------------------------------------------------------------------

    def _return_conn(self, record: Any) -> None:
        """A checkout is over. What was invalidated is closed, and makes room for another."""
        self._lent.discard(record)
        if record._soft_invalidate_time > record.starttime:
            record.close()
        if record.loan is not None:
            self._give(record.lender, record.loan)

    def _give(self, lender: Any, loan: Any) -> None:
        lender.putconn(loan)

    def _close(self, loan: Any) -> None:
        loan.close()

    def _do_return_conn(self, record: Any) -> None:
        """A connection was detached: its record has nothing any more."""
        self._lent.discard(record)

    def _invalidate(
        self, connection: Any, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """One connection is of no use: the guard finds out by itself what the others are."""
        if getattr(connection, "_pool", self) is self._plain:
            self._plain._invalidate(connection, exception, _checkin)
        elif _checkin and getattr(connection, "is_valid", False):
            connection.invalidate(exception)

    def _lost(self, checkout: Checkout, record: Record) -> None:
        """A checkout was collected as garbage: take the connection back, as SQLAlchemy does."""
        if record.loan._poolguard_entry.conn is None:
            return  # it was collected with all the engine had, by which the guard has taken it back
        if record.lender.interrupted:
            self._strays.append(record)
        else:
            checkout._checkin()

    def _take_strays_back(self) -> None:
        while self._strays:
            record = self._strays.pop()
            checkout = Checkout(self, record.dbapi_connection, record, False)
            record.fairy_ref = ref(checkout)
            checkout._checkin()

    # -- before the worker serves --------------------------------------------------------------

    def warm_up(self) -> None:
        """Have the dialect ask what it must know, and each idle connection meet its listeners."""
        if (lender := self._open_lender()) is None:
            return
        self.connect().close()
        for _ in range(lender.counts().idle - 1):  # each comes in its turn
            self.connect().close()


class AsyncGuardPool(GuardPool):
    """The same for an async engine. Where a connection is free nothing is awaited, and nothing is
    awaited for a return: a task that is cancelled meanwhile loses none."""

    def _borrow(self, lender: Any) -> Any:
        try:
            loan = lender.getconn_nowait()
            return await_(lender.getconn()) if loan is None else loan
        except (PoolTimeout, TooManyRequests) as error:
            raise GuardTimeout(error) from error

    def _give(self, lender: Any, loan: Any) -> None:
        lender.putconn_nowait(loan)

    def _close(self, loan: Any) -> None:
        await_(loan.close())

    def _dressed_loan(self, connection_record: Any = None) -> Any:
        if not isinstance(connection_record, Record):
            return self._plain._invoke_creator(connection_record)
        loan = _open_loan(connection_record)

        async def this() -> Any:
            return await dressed_async(loan, self._dress)

        return self._dialect.loaded_dbapi.connect(async_creator_fn=this)  # type: ignore[union-attr]

    def _lost(self, checkout: Checkout, record: Record) -> None:
        """A checkout was collected as garbage, where nothing can be awaited: close it."""
        said = (
            f"{checkout.dbapi_connection!r} was collected as garbage before it was returned, and "
            f"is closed: end what uses it with close(), or have a block of `async with` do so"
        )
        self._lent.discard(record)
        checkout.drop()
        self.logger.error(said)
        util.warn(said)


def _open_loan(record: Record) -> Any:
    loan = record.loan
    if loan is None or loan.closed:
        raise exc.InvalidRequestError("This connection is closed")
    return loan
