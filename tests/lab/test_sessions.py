"""The sampler counts whom it is meant to, says where it could not, and ends in bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, time

import psycopg
import pytest

from poolguard.errors import LabError
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.lab.sessions import SessionSampler, arrivals
from tests.support import until

EVERY = 0.01
SLOW = "SELECT count(*) FROM many WHERE pg_sleep(0.01) IS NOT NULL"


@pytest.fixture(scope="module")
def own() -> Iterator[PrivatePostgres]:
    """A server that may be restarted and stopped, and whose log names each connection."""
    settings = {"log_connections": "on", "log_line_prefix": "%n "}
    with PrivatePostgres(settings=settings) as server:
        with server.connect() as admin:
            admin.execute("CREATE TABLE many AS SELECT generate_series(1, 30) AS n")
            admin.execute("ALTER TABLE many SET (parallel_workers = 2)")
            admin.execute("GRANT SELECT ON many TO public")
        yield server


def take(sampler: SessionSampler, n: int) -> None:
    """Wait until *n* more samples have been taken."""
    wanted = len(sampler.series) + n
    until(lambda: len(sampler.series) >= wanted)


def test_the_peak_is_that_of_the_sessions_that_are_meant(postgres: PrivatePostgres) -> None:
    role = postgres.create_role("sampled")
    by_role = SessionSampler(postgres.dsn, role="sampled", every=EVERY)
    by_name = SessionSampler(postgres.dsn, application="sampled-by-name", every=EVERY)
    with by_role, by_name, ExitStack() as stack:
        for n in range(3):
            name = "sampled-by-name" if n else "other"
            stack.enter_context(psycopg.connect(role, application_name=name))
        take(by_role, 2)
        take(by_name, 2)
    assert by_role.series[0][1] == by_name.series[0][1] == 0
    assert (by_role.peak, by_name.peak) == (3, 2)
    assert {each.application for each in by_name.at_peak} == {"sampled-by-name"}
    assert (by_role.failed, by_role.error) == (0, "")


def test_the_sessions_of_each_sample_above_a_limit_are_kept(postgres: PrivatePostgres) -> None:
    role = postgres.create_role("limited")
    sampler = SessionSampler(postgres.dsn, role="limited", every=EVERY, limit=1)
    with sampler, psycopg.connect(role):
        take(sampler, 2)
        assert sampler.over == []
        with psycopg.connect(role):
            take(sampler, 2)
    assert sampler.peak == 2
    assert {n for _, n in sampler.series if n > 1} == {len(found) for _, found in sampler.over}
    assert all(time() - 60 < each.began < time() for _, found in sampler.over for each in found)


def test_its_own_connection_is_not_counted(own: PrivatePostgres) -> None:
    with SessionSampler(own.dsn, every=EVERY) as sampler:
        take(sampler, 2)
    assert sampler.peak == 0


def test_parallel_workers_of_a_query_are_no_sessions(own: PrivatePostgres) -> None:
    role = own.create_role("parallel")
    with (
        SessionSampler(own.dsn, role="parallel", every=0.002) as sampler,
        psycopg.connect(role) as conn,
    ):
        conn.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
        plan = conn.execute(f"EXPLAIN (ANALYZE) {SLOW}").fetchall()
        assert any("Workers Launched: 2" in line for (line,) in plan), plan
        take(sampler, 2)
    assert sampler.peak == 1


def test_samples_are_as_far_apart_as_it_was_told(own: PrivatePostgres) -> None:
    with SessionSampler(own.dsn, every=0.1) as sampler:
        take(sampler, 5)
    moments = [at for at, _ in sampler.series]
    assert (moments[-1] - moments[0]) / (len(moments) - 1) >= 0.1


def test_a_server_that_cannot_be_asked_is_an_error_at_once(own: PrivatePostgres) -> None:
    nobody = own.conninfo(user="nobody", password="secret")
    with (
        pytest.raises(LabError, match="the server's sessions cannot be counted") as failure,
        SessionSampler(nobody, every=EVERY),
    ):
        pass
    assert "secret" not in str(failure.value)


def test_it_says_that_samples_failed_and_goes_on_when_the_server_is_back(
    own: PrivatePostgres,
) -> None:
    with SessionSampler(own.dsn, application="returned", every=EVERY) as sampler:
        own.stop()
        until(lambda: sampler.failed >= 2)
        assert sampler.error
        own.start()
        with own.connect(application_name="returned"):
            take(sampler, 2)
    assert sampler.peak == 1
    assert repr(sampler).startswith("<SessionSampler: peak 1 in ")
    assert f"{sampler.failed} failed: {sampler.error}" in repr(sampler)


def test_it_ends_though_the_server_never_answers(own: PrivatePostgres) -> None:
    """A network that has gone silent: the answer to the sample that is under way never comes."""
    with SlowProxy(("127.0.0.1", own.port), connect_delay=0) as proxy:
        far = own.conninfo(host=proxy.host, port=proxy.port)
        with SessionSampler(far, every=EVERY) as sampler:
            proxy.silence_all()
            until(lambda: monotonic() - sampler.series[-1][0] > 0.3)  # one is under way
            ending = monotonic()
        assert monotonic() - ending < 6
        assert not sampler._thread.is_alive()
        assert sampler.failed == 1


def test_the_log_tells_when_each_session_began(own: PrivatePostgres) -> None:
    role = own.create_role("logged")
    logged = len(own.read_log())
    began = time()
    for name in ("one", "two", "two"):
        psycopg.connect(role, application_name=name).close()
    own.connect().close()
    log = own.read_log()[logged:]
    assert len([*arrivals(log, role="logged")]) == 3
    assert len([*arrivals(log, role="logged", application="two")]) == 2
    assert len([*arrivals(log, application="one")]) == 1
    assert len([*arrivals(log)]) == 4
    assert all(began - 0.1 <= at <= time() for at in arrivals(log))
