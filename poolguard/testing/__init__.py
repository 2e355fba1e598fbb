"""For tests without a PostgreSQL: a stand-in for the server, a clock that is moved by hand, and a
listener that remembers.

The stand-in is no mock of a pool. It is a little server within the test's process, to which psycopg
connects as to any other, so that the guard, its pool, cursors, row factories and transactions are
the real ones: what is faked are the answers. A test of an application that uses
``poolguard.connection()``::

    import psycopg

    import poolguard.testing
    import shop  # its functions, and shop.app, use poolguard.connection()

    ORDERS = "SELECT total FROM orders WHERE customer = %s"


    def test_the_totals_are_added_up() -> None:
        with poolguard.testing.fake(results={ORDERS: [(30,), (12,)]}) as db:
            assert shop.sum_of_orders("ann") == 42
        assert db.queries == [(ORDERS, ("ann",))]


    def test_an_order_that_exists_is_told() -> None:
        taken = psycopg.errors.UniqueViolation("duplicate key value")
        with poolguard.testing.fake() as db:
            db.on("INSERT INTO orders VALUES (%s, %s)", 1, taken)
            assert shop.order("ann", 7) == "thank you"
            assert shop.order("ann", 7) == "you have that already"
        assert (db.commits, db.rollbacks) == (1, 1)


    def test_overload_is_answered_with_503() -> None:
        with poolguard.testing.fake(acquire_timeout=0.05) as db, db.exhausted():
            assert shop.app.test_client().get("/orders").status_code == 503

What an acquire was is in ``db.events.outcomes``, in the request's span and in ``guard.status()``,
as with any pool. To have it be

- ``acquired``: nothing is to be done, a connection is free;
- ``created``: ``with fake(floor=1) as db, guard.connection(): …``: the one that is warm is lent;
- ``waited``: acquire in a thread within ``with db.exhausted(): …``, and leave that block;
- ``timeout``: ``with fake(acquire_timeout=0.05) as db, db.exhausted(): …``;
- ``rejected``: ``with fake(max_waiting=1) as db, db.exhausted(waiting=1): …``.

:func:`fake` serves a sync guard in ``with``, an async one in ``async with``. Where the application
opens its guard itself, as an ASGI application does in its lifespan, on a loop of its test client's,
that is left to it: ``with fake(opens=False) as db, TestClient(app) as client: …``.

A pool that is made without a guard has the stand-in by itself: ``with FakePostgres(results) as db,
GuardedPool(db.conninfo) as pool: …``. What it does not do: it understands no SQL, so a query that
is not scripted fails, and the block raises :exc:`UnexpectedQuery` at its end; it copies nothing
(``COPY``), sends no notifications, and has no cursors of the server's own. It never runs short of
connections unless told to, and the budget is not divided.
"""

from .guarded import FakedGuard, fake
from .listening import RecordingListener
from .script import Answer, Query, Results, UnexpectedQuery
from .server import FakePostgres
from .standin import AsyncFakeConnection, FakeConnection
from .timing import ManualClock

__all__ = [
    "Answer",
    "AsyncFakeConnection",
    "FakeConnection",
    "FakePostgres",
    "FakedGuard",
    "ManualClock",
    "Query",
    "RecordingListener",
    "Results",
    "UnexpectedQuery",
    "fake",
]
