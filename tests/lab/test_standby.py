"""A standby follows its primary, takes its place at its address, and is one until promoted."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.standby import Standby
from tests.support import until

THERE = "SELECT has_table_privilege('served', to_regclass('kept'), 'select')"


@pytest.fixture
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


@pytest.mark.usefixtures("basebackup")
def test_a_standby_takes_over_with_all_that_was_written_and_with_no_session_or_lock(
    janitor: Janitor,
) -> None:
    with PrivatePostgres(janitor=janitor) as primary:
        conninfo = primary.create_role("served")
        with primary.connect() as admin, Standby(primary, janitor=janitor) as standby:
            admin.execute("CREATE TABLE kept AS SELECT 7 AS n")
            admin.execute("SELECT pg_advisory_lock(1, 1)")
            admin.execute("GRANT SELECT ON kept TO served")
            with standby.connect() as reader:
                assert reader.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
                until(lambda: reader.execute(THERE).fetchone() == (True,))  # it follows by itself
            standby.take_over()
            assert not primary.running
            with pytest.raises(psycopg.OperationalError):
                admin.execute("SELECT 1")
            with psycopg.connect(conninfo, autocommit=True) as conn:
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    conn.execute("CREATE TEMPORARY TABLE refused ()")
                standby.promote()
                # A session outlives the promotion.
                assert conn.execute("SELECT n, pg_is_in_recovery() FROM kept").fetchone() == (
                    7,
                    False,
                )
                locked = conn.execute("SELECT pg_try_advisory_lock(1, 1)").fetchone()
                assert locked == (True,)
