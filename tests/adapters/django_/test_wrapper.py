"""The engine's wrapper on a guard's connections, in this process."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from ...support import until
from .conftest import Configure, Describe

pytestmark = pytest.mark.usefixtures("pooled")

STATIC = {"ledger": "static", "budget": 4, "floor": 1}


@pytest.fixture
def pooled(configured: Configure, describe: Describe) -> Iterator[Any]:
    """The guard of ``default``, open, with one warm connection."""
    import poolguard.django

    configured({"default": describe({"poolguard": STATIC})})
    with poolguard.django.guard() as guard:
        yield guard


@pytest.fixture
def connection(pooled: Any) -> Any:
    """This thread's wrapper."""
    from django.db import connections

    return connections["default"]


def backend(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    return int(pid)


def shown(connection: Any, name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        [value] = cursor.fetchone()
    return str(value)


def test_a_request_borrows_one_session_and_returns_it(connection: Any, pooled: Any) -> None:
    first = backend(connection)
    assert connection.pool is pooled.pool
    assert pooled.status()["used"] == 1
    connection.close()
    assert pooled.status()["used"] == 0
    assert backend(connection) == first


def test_a_query_of_a_model_goes_over_the_guard(connection: Any, pooled: Any) -> None:
    from .project.models import Book

    assert Book.objects.order_by("title").first().title == "book 1"
    assert connection.pool is pooled.pool
    assert pooled.status()["used"] == 1


def test_the_session_is_in_djangos_time_zone(configured: Configure, describe: Describe) -> None:
    """``configure`` says so in the pool's thread: no wrapper is asked, which would borrow."""
    from django.db import connections

    import poolguard.django

    poolguard.django.guard().close()
    configured({"default": describe({"poolguard": STATIC}, TIME_ZONE="Asia/Tokyo")})
    with poolguard.django.guard() as guard, guard.connection() as raw:
        assert raw.info.parameter_status("TimeZone") == "Asia/Tokyo"
    with poolguard.django.guard():
        assert shown(connections["default"], "TimeZone") == "Asia/Tokyo"
        connections["default"].close()


def test_a_time_zone_that_a_request_has_set_is_not_the_next_ones(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
    first = backend(connection)
    connection.close()
    assert shown(connection, "TimeZone") == "UTC"
    assert backend(connection) == first


def test_settings_of_the_time_zone_that_change_are_heard(connection: Any) -> None:
    """Django's own pool is closed for that; here each checkout compares."""
    from django.test import override_settings

    backend(connection)
    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Paris"):
        assert shown(connection, "TimeZone") == "Europe/Paris"
        connection.close()
        assert shown(connection, "TimeZone") == "Europe/Paris"
        connection.close()
    assert shown(connection, "TimeZone") == "UTC"


def test_a_time_zone_that_the_server_spells_otherwise_is_told_once(dsn: str) -> None:
    from poolguard.django.sessions import tell

    with psycopg.connect(dsn, autocommit=True) as raw:
        assert tell(raw, "asia/tokyo", None)
        assert raw.info.parameter_status("TimeZone") == "Asia/Tokyo"
        assert not tell(raw, "asia/tokyo", None)


def test_a_session_assumes_the_role_that_the_options_name(
    configured: Configure, describe: Describe, admin: psycopg.Connection
) -> None:
    """As one of the guard's threads connects, and again at the checkout by other options."""
    from django.db import connections

    import poolguard.django

    admin.execute("DROP ROLE IF EXISTS \"Reader of 'books'\"")
    admin.execute("CREATE ROLE \"Reader of 'books'\"")
    admin.commit()
    poolguard.django.guard().close()
    options = {"poolguard": STATIC, "assume_role": "Reader of 'books'"}
    configured({"default": describe(options)})
    wrapper = connections["default"]
    with poolguard.django.guard() as guard:
        with guard.connection() as raw:
            assert raw.execute("SELECT current_user").fetchone() == ("Reader of 'books'",)
        assert shown(wrapper, "role") == "Reader of 'books'"
        wrapper.close()
        del wrapper.settings_dict["OPTIONS"]["assume_role"]
        assert shown(wrapper, "role") == "none"
        wrapper.close()


def test_autocommit_that_a_request_turned_off_is_on_for_the_next(
    connection: Any, pooled: Any, admin: psycopg.Connection, database: str
) -> None:
    """Its open transaction is rolled back as the pool takes the connection."""
    from .project.models import Book

    connection.set_autocommit(False)
    Book.objects.create(title="rolled back")
    first = backend(connection)
    connection.close()
    until(lambda: pooled.status()["idle"] == 1)
    assert not Book.objects.filter(title="rolled back").exists()
    assert connection.get_autocommit()
    assert connection.connection.autocommit
    assert backend(connection) == first


def test_autocommit_cannot_be_turned_off_twice_in_a_transaction(connection: Any) -> None:
    """What is the same already is left out, but never what Django's own engine would refuse."""
    from django.db import ProgrammingError

    connection.set_autocommit(False)
    backend(connection)
    with pytest.raises(ProgrammingError, match="INTRANS"):
        connection.set_autocommit(False)


def test_each_checkout_is_a_connection_created(connection: Any) -> None:
    """As with Django's own pool."""
    from django.db.backends.signals import connection_created

    told: list[Any] = []

    def hear(connection: Any, **_: Any) -> None:
        told.append(connection.alias)

    connection_created.connect(hear)
    try:
        for _ in range(2):
            backend(connection)
            connection.close()
    finally:
        connection_created.disconnect(hear)
    assert told == ["default", "default"]


def test_savepoints_and_durable_blocks(connection: Any) -> None:
    from django.db import IntegrityError, transaction

    from .project.models import Book

    try:
        with transaction.atomic(durable=True):
            Book.objects.create(title="kept for a moment")
            with pytest.raises(IntegrityError), transaction.atomic():
                Book.objects.create(title="book 1")
            with pytest.raises(RuntimeError, match="durable"), transaction.atomic(durable=True):
                pass
            assert Book.objects.select_for_update().filter(title="book 1").count() == 1
            raise KeyError
    except KeyError:
        pass
    assert not Book.objects.filter(title="kept for a moment").exists()


def test_a_cursor_on_the_server(connection: Any) -> None:
    """In a transaction, and outside of one, where it is held beyond its own."""
    from django.db import transaction

    from .project.models import Book

    assert len([*Book.objects.iterator(chunk_size=2)]) == 5
    with transaction.atomic():
        assert len([*Book.objects.iterator(chunk_size=2)]) == 5


def test_a_server_side_cursor_that_is_left_open_is_not_there_for_the_next(
    connection: Any, pooled: Any
) -> None:
    """As with Django's own pool a held cursor lasts as long as what reads it."""
    from .project.models import Book

    rows = Book.objects.iterator(chunk_size=2)
    next(rows)
    rows.close()
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_cursors WHERE name LIKE '_django_curs%%'", [])
        assert cursor.fetchone() == (0,)


def test_closing_inside_of_a_block_rolls_back_and_forbids_more(
    connection: Any, pooled: Any
) -> None:
    from django.db import ProgrammingError, transaction

    from .project.models import Book

    with transaction.atomic():
        Book.objects.create(title="never")
        connection.close()
        with pytest.raises(ProgrammingError, match="in an atomic block"):
            Book.objects.count()
    assert not Book.objects.filter(title="never").exists()


def test_the_old_connections_of_a_request_go_back(connection: Any, pooled: Any) -> None:
    from django.db import close_old_connections, connections

    backend(connection)
    close_old_connections()
    assert pooled.status()["used"] == 0
    backend(connection)
    connections.close_all()
    assert pooled.status()["used"] == 0


def test_a_session_that_is_not_usable_is_closed_and_not_lent_again(
    connection: Any, pooled: Any
) -> None:
    """Django finds so where an error occurred, and closes: not for it to be returned."""
    from django.db import DataError, InternalError

    first = backend(connection)
    connection.connection.execute("BEGIN")
    with pytest.raises(DataError):
        connection.cursor().execute("SELECT 1/0")
    with pytest.raises(InternalError):
        connection.cursor().execute("SELECT 1")
    assert connection.errors_occurred
    connection.close_if_unusable_or_obsolete()
    assert connection.connection is None
    assert backend(connection) != first


def test_a_health_check_asks_nothing_of_a_session_that_the_guard_lends(
    configured: Configure, describe: Describe
) -> None:
    from django.db import connections

    import poolguard.django

    poolguard.django.guard().close()
    configured({"default": describe({"poolguard": STATIC}, CONN_HEALTH_CHECKS=True)})
    with poolguard.django.guard():
        wrapper = connections["default"]
        backend(wrapper)
        wrapper.health_check_done = False
        wrapper.close_if_health_check_failed()
        assert not wrapper.health_check_done
        wrapper.close()


def test_a_session_that_the_server_has_ended_is_not_met_twice(
    connection: Any, pooled: Any, admin: psycopg.Connection
) -> None:
    """Django has handled the error before the connection is returned."""
    from django.db import OperationalError

    first = backend(connection)
    admin.execute("SELECT pg_terminate_backend(%s)", [first])
    until(
        lambda: not admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [first]).rowcount
    )
    with pytest.raises(OperationalError):
        backend(connection)
    connection.close()
    assert backend(connection) != first


def test_a_session_that_takes_no_writes_after_a_failover_is_not_met_twice(
    connection: Any, pooled: Any, admin: psycopg.Connection, database: str
) -> None:
    """What Django has handled before it returned the connection, the pool has noted."""
    from django.db import InternalError

    from .project.models import Book

    pooled.close()
    admin.autocommit = True
    admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only TO on")
    try:
        pooled.open(5)
        with pytest.raises(InternalError, match="read-only"):
            Book.objects.create(title="never")
    finally:
        admin.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    first = connection.connection.info.backend_pid
    connection.close()
    Book.objects.create(title="after the failover").delete()
    assert backend(connection) != first


def test_a_thread_that_ends_without_close_keeps_nobody_waiting(
    configured: Configure, describe: Describe
) -> None:
    """Its wrapper is part of a cycle, which no collection has found yet."""
    from django.db import connections

    import poolguard.django

    poolguard.django.guard().close()
    configured({"default": describe({"poolguard": {**STATIC, "max_size": 1}})})
    with poolguard.django.guard() as guard:
        gc.disable()
        try:
            thread = threading.Thread(target=lambda: backend(connections["default"]))
            thread.start()
            thread.join()
            assert guard.status()["used"] == 1
            assert backend(connections["default"])
        finally:
            gc.enable()
        connections["default"].close()


def test_a_wrapper_may_be_lent_to_another_thread(connection: Any) -> None:
    """As a live server's test does."""
    backend(connection)
    connection.inc_thread_sharing()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(backend(connection)))
    thread.start()
    thread.join()
    connection.dec_thread_sharing()
    assert found == [backend(connection)]


def test_closing_the_pool_closes_nothing(connection: Any, pooled: Any) -> None:
    """Celery does so before each task."""
    first = backend(connection)
    connection.close_pool()
    connection.close()
    assert pooled.opened
    assert backend(connection) == first


def test_a_guard_that_is_closed_leaves_django_a_connection_of_its_own(
    connection: Any, pooled: Any
) -> None:
    """Outside of a worker. What was lent before is closed as it is returned."""
    first = backend(connection)
    pooled.close()
    connection.close()
    assert backend(connection) != first
    assert connection.pool is None


def test_an_own_connection_stays_one_while_a_guard_is_opened(connection: Any, pooled: Any) -> None:
    pooled.close()
    first = backend(connection)
    pooled.open(5)
    assert connection.pool is None
    assert backend(connection) == first
    connection.close()
    assert backend(connection) != first
    assert connection.pool is pooled.pool


def test_the_databases_of_the_server_itself_and_of_tests_are_not_the_guards(
    connection: Any, pooled: Any
) -> None:
    with connection._nodb_cursor() as cursor:
        cursor.execute("SELECT current_database()")
        assert cursor.fetchone() == ("postgres",)
    assert pooled.status()["used"] == 0
    copied = connection.copy()
    copied.settings_dict["NAME"] = "postgres"
    backend(copied)
    assert copied.pool is None
    copied.close()


def test_an_isolation_level_of_the_options(configured: Configure, describe: Describe) -> None:
    from django.core.exceptions import ImproperlyConfigured
    from django.db import connections, transaction

    import poolguard.django

    poolguard.django.guard().close()
    level = int(psycopg.IsolationLevel.SERIALIZABLE)
    configured({"default": describe({"poolguard": STATIC, "isolation_level": level})})
    with poolguard.django.guard() as guard:
        with transaction.atomic():
            assert shown(connections["default"], "transaction_isolation") == "serializable"
        connections["default"].close()
        wrong = connections["default"].copy()
        wrong.settings_dict["OPTIONS"]["isolation_level"] = 99
        with pytest.raises(ImproperlyConfigured, match="isolation level"):
            wrong.ensure_connection()
        assert guard.status()["used"] == 0


def test_an_engine_of_another_package_says_what_it_says_of_each_connection(
    configured: Configure, describe: Describe
) -> None:
    """PostGIS and django-tenants build on Django's own engine, too."""
    from django.db import connections

    import poolguard.django

    poolguard.django.guard().close()
    options = {"poolguard": {**STATIC, "max_size": 1}}
    engine = "tests.adapters.django_.project.tenants"
    configured({"default": describe(options, ENGINE=engine)})
    wrapper = connections["default"]
    found = []
    with poolguard.django.guard() as guard:
        for schema in ("pg_catalog", "public", "pg_catalog"):
            wrapper.schema = schema
            found.append((shown(wrapper, "search_path"), wrapper.pool is guard.pool))
            wrapper.close()
    assert found == [("pg_catalog", True), ("public", True), ("pg_catalog", True)]
    assert wrapper.registered == 3


def test_an_engine_that_mints_its_password_is_asked_at_each_connect(
    configured: Configure, describe: Describe, admin: psycopg.Connection
) -> None:
    """A session that outlives the password stays; the next one has the new password."""
    from django.db import connections

    import poolguard.django

    from .project.minting.base import mint

    poolguard.django.guard().close()
    admin.execute("DROP ROLE IF EXISTS minted")
    admin.execute("CREATE ROLE minted LOGIN PASSWORD 'first'")
    admin.commit()
    mint("first")
    options = {"poolguard": {**STATIC, "max_size": 2}}
    engine = "tests.adapters.django_.project.minting"
    configured({"default": describe(options, ENGINE=engine, USER="minted", PASSWORD="")})
    with poolguard.django.guard() as guard:
        first, second = connections["default"], connections["default"].copy()
        pid = backend(first)
        admin.execute("ALTER ROLE minted PASSWORD 'second'")
        admin.commit()
        mint("second")
        assert backend(second) != pid  # Django's own engine would have been refused
        assert guard.status()["used"] == 2
        first.close()
        second.close()
    admin.execute("DROP ROLE minted")
    admin.commit()


def test_parameters_are_bound_where_the_options_say(
    configured: Configure, describe: Describe
) -> None:
    from django.db import connections
    from django.db.backends.postgresql.base import ServerBindingCursor

    import poolguard.django

    poolguard.django.guard().close()
    configured({"default": describe({"poolguard": STATIC, "server_side_binding": True})})
    with poolguard.django.guard(), connections["default"].cursor() as cursor:
        assert isinstance(cursor.cursor, ServerBindingCursor)
        connections["default"].close()


def test_a_connection_that_began_before_the_guard_was_adopted_is_dressed_as_it_arrives(
    connection: Any, dsn: str
) -> None:
    """It has Django's ``configure`` then, but connected without Django's arguments."""
    from django.db.backends.postgresql.base import Cursor
    from psycopg.pq import TransactionStatus

    backend(connection)
    dress = connection.connection._poolguard_dress
    with psycopg.connect(dsn, options="-c TimeZone=Asia/Tokyo", client_encoding="latin1") as raw:
        dress(raw)
        assert raw.info.transaction_status == TransactionStatus.IDLE
        assert raw.autocommit
        assert isinstance(raw.cursor(), Cursor)
        assert raw.info.parameter_status("TimeZone") == "UTC"
        assert raw.info.encoding == "utf-8"
        assert raw.prepare_threshold is None


def test_no_repr_shows_the_password(connection: Any, pooled: Any) -> None:
    from poolguard.django.guards import lender_of

    known = lender_of("default", connection.settings_dict["NAME"])
    assert known is not None
    shown = repr([pooled, known, known.seen, known.dress, connection])
    assert connection.settings_dict["PASSWORD"]
    assert connection.settings_dict["PASSWORD"] not in shown


def test_a_connection_that_cannot_be_dressed_goes_back(connection: Any, pooled: Any) -> None:
    from poolguard.django.guards import Lender, lender_of

    known = lender_of("default", connection.settings_dict["NAME"])
    assert known is not None
    dress = replace(known.dress, role="a role that nobody has made")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="does not exist"):
        Lender(pooled, known.seen._replace(dress=dress)).getconn()
    assert pooled.status()["used"] == 0


def test_there_is_no_prepared_statement_unless_the_options_ask_for_one(connection: Any) -> None:
    backend(connection)
    assert connection.connection.prepare_threshold is None


def test_an_acquire_that_times_out_is_djangos_operational_error(
    connection: Any, pooled: Any
) -> None:
    from contextlib import ExitStack

    from django.db import OperationalError

    import poolguard.pool.errors

    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(pooled.connection())
        pooled.pool.timeout = 0.05
        with pytest.raises(OperationalError, match="couldn't get a connection") as raised:
            backend(connection)
    assert isinstance(raised.value.__cause__, poolguard.pool.errors.PoolTimeout)
    assert connection.connection is None
    assert backend(connection)
