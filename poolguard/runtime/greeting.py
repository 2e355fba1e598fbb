"""What a guard asks over its pool's connections: which session it is, and what the server grants.

One coroutine each serves both kinds of pool. That of a sync one awaits nothing, and is run to its
end at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..budget.capacity import OTHERS, QUERY
from ..budget.session import (
    GREETING,
    OVERRULES,
    PLAIN_GREETING,
    RESTORE,
    SEAT,
    UNSUPPORTED,
    backend_of,
)
from ..budget.slots import POOLED, Backend, Seat
from ..errors import PoolguardError
from ..pool.arguments import PoolArguments
from ..util.clock import now as clock
from .connecting import Connecting
from .memory import GuardMemory
from .sizing import Sizing

if TYPE_CHECKING:
    from ..pool.aio import AsyncGuardedPool
    from ..pool.sync import GuardedPool

__all__ = ["Greeting"]

FAMILIAR = 600.0
"""Seconds for which what one connection has found is taken to hold for others to the same place.
The operator may set something for the role meanwhile."""


class Greeting:
    """The questions of one pool.

    A new connection is asked for its backend, whose pid goes into the ledger. Where that pid is not
    the login's, a pooler stands in between. The first connection is asked for the capacity too, and
    so is an idle one now and then. Only then is a connection the application's.

    Where that has found nothing that the next connection to the same place would have to be asked,
    or told, before it is used, one that a request waits for is greeted afterwards. Of many that are
    opened at once the greetings would take the server as long as all the rest.

    :param rows: asks the server one thing (:func:`poolguard.budget.queries.rows`, or its async
        counterpart).
    """

    def __init__(
        self,
        sizing: Sizing,
        connecting: Connecting,
        given: PoolArguments,
        rows: Callable[..., Any],
    ) -> None:
        self._sizing = sizing
        self._connecting = connecting
        self._configure = given.configure
        self._rows = rows
        self._pooler = sizing.settings.pooler
        self.memory: GuardMemory | None = None
        """What knows by earlier days what will be needed."""
        self._plainly = False
        """The server's platform cannot look for its clients, so it is not told to."""
        self._familiar: dict[object, float] = {}
        """Where connections lead that need no more than a login, and when one was last asked."""

    def __repr__(self) -> str:
        return f"<Greeting pooler={self._pooler}{' plainly' if self._plainly else ''}>"

    def adopt(self, given: PoolArguments) -> None:
        """Have *given* configure the connections from now on."""
        self._configure = given.configure

    async def welcome(self, pool: GuardedPool[Any] | AsyncGuardedPool[Any], conn: Any) -> None:
        """Greet a new connection of *pool*; have the first one ask for the capacity, and size the
        pool. Then it is the application's.

        Raises :exc:`psycopg.Error` where the server refuses, and
        :exc:`~poolguard.errors.PoolguardError` where no plan can be made.
        """
        from ..pool.jobs import done

        if _is_amid(conn):  # by the application's class, as it connected
            await done(conn.commit())
        seat, familiar = pool.seat_of(conn), self._knows(conn)
        if seat is not None or not familiar or not pool.greet_later(conn):
            row = await self._greet(conn, seat, briefly=familiar)
            pool.greeted(conn, self._judged(conn, row))
            if seat is not None and row.get("seated") is not None:
                pool.seated(conn, seat, seated=row["seated"])
        if self._sizing.must_ask(recovering=pool.recovering):
            await self.inquire(pool, conn)
        if self.memory is not None and await self.memory.learn(conn):
            pool.recalled()
        if self._configure is not None:
            await done(self._configure(conn))
            _insist_on_its_end(conn)

    async def introduce(self, pool: GuardedPool[Any] | AsyncGuardedPool[Any], conn: Any) -> None:
        """Greet an idle connection that was not greeted as it came. Raises :exc:`psycopg.Error`."""
        pool.greeted(conn, self._judged(conn, await self._greet(conn, None, briefly=False)))

    async def inquire(self, pool: GuardedPool[Any] | AsyncGuardedPool[Any], conn: Any) -> None:
        """Ask what the server grants now, and give *pool* the size that follows."""
        from psycopg import Error

        from ..pool.jobs import done

        sizing = self._sizing
        try:
            if sizing.behind_pooler:
                bounds = sizing.try_for_room()
            else:
                [row] = await done(self._rows(conn, QUERY))
                bounds = sizing.adopt(row)
                if sizing.room.limit is not None:
                    sizing.note_others(await done(self._rows(conn, OTHERS)))
        except Error as error:
            if conn.broken or not sizing.goes_on_unasked(error):
                raise
            sizing.was_asked(pool, told=False)
        else:
            sizing.was_asked(pool, told=True)
            await done(pool.resize(*bounds))

    async def _greet(self, conn: Any, seat: Seat | None, *, briefly: bool) -> Mapping[str, Any]:
        from psycopg import Error

        from ..pool.jobs import done

        values = {"login_pid": conn.info.backend_pid}
        taking = ""
        if seat is not None and not self._sizing.behind_pooler:
            taking = SEAT
            values |= {"kind": seat.kind, "slot": seat.slot}
        if not (briefly or self._plainly or self._sizing.behind_pooler):
            query = GREETING + taking
            if self._connecting.sends_options:
                query = RESTORE + GREETING + OVERRULES + taking
            try:
                [row] = await done(self._rows(conn, query, values))
                self._note(conn, row)
                return row  # type: ignore[no-any-return]
            except Error as error:
                if error.sqlstate != UNSUPPORTED:
                    raise
            self._plainly = True
        [row] = await done(self._rows(conn, PLAIN_GREETING + taking, values))
        return row  # type: ignore[no-any-return]

    def _knows(self, conn: Any) -> bool:
        """Nothing has to be found out, or told, before a connection there is used."""
        since = self._familiar.get(_place_of(conn))
        return since is not None and clock() - since < FAMILIAR

    def _note(self, conn: Any, row: Mapping[str, Any]) -> None:
        """Note what the whole greeting says of those to come: whether the login was enough."""
        place = _place_of(conn)
        login_told_all = row.get("told_interval", "") is None and (
            row["told_keepalives"] is None or conn.pgconn.host[:1] in (b"", b"/", b"@")
        )
        if (
            login_told_all
            and row.get("overrules") is False
            and row["pid"] == conn.info.backend_pid
            and self._pooler in ("auto", "none")
        ):
            self._familiar[place] = clock()
        else:
            self._familiar.pop(place, None)

    def _judged(self, conn: Any, row: Mapping[str, Any]) -> Backend:
        """Whom the session is with, by the answer to the greeting."""
        if self._pooler == "none":
            self._connecting.succeeded(pooled=False)
            return Backend(row["pid"], row["started"])
        backend = backend_of(row, conn.info.backend_pid)
        if self._pooler != "auto":
            backend = POOLED  # some poolers tell their clients the server's pid
        self._connecting.succeeded(pooled=backend == POOLED)
        if backend == POOLED:
            self._sizing.adopt_pooler()
            if self._pooler != "session":
                conn.prepare_threshold = None  # the next statement may be another server's
        return backend


def _place_of(conn: Any) -> object:
    """To which server it leads: of several hosts, and of a name's several addresses."""
    pgconn = conn.pgconn
    return pgconn.host, pgconn.hostaddr, pgconn.port


def _is_amid(conn: Any) -> bool:
    """A transaction is open there, and has not failed."""
    from psycopg.pq import TransactionStatus

    return bool(conn.pgconn.transaction_status == TransactionStatus.INTRANS)


def _insist_on_its_end(conn: Any) -> None:
    """Refuse a connection on which ``configure`` has left a transaction open, as psycopg_pool
    does: what it has set would go with that.

    Raises :exc:`~poolguard.errors.PoolguardError`. The pool's own refusal is tried again; this one
    is the application's mistake, and fails the warmup at once.
    """
    from psycopg.pq import TransactionStatus

    if (status := TransactionStatus(conn.pgconn.transaction_status)) != TransactionStatus.IDLE:
        raise PoolguardError(
            f"the guard's configure has left its connection in the status {status.name}: have "
            f"it end with commit(), or work in autocommit mode"
        )
