"""Children that are forked by other means than gunicorn's, from a worker or a script."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from sqlalchemy import URL, Engine, create_engine, text

import poolguard

from .conftest import Make

PID = text("SELECT pg_backend_pid()")


def said_by_child(work: Callable[[], str]) -> str:
    """What *work* returns, or raises, in a child of this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, work().encode())
        except BaseException as error:  # noqa: BLE001 - the parent's to judge
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        found = told.read()
    os.waitpid(pid, 0)
    return found


def query(engine: Engine) -> str:
    with engine.connect() as conn:
        return f"{conn.scalar(PID)} {type(engine.pool._plain).__name__}"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("worker")
def test_a_child_of_a_worker_has_connections_of_its_own(url: URL) -> None:
    """As multiprocessing's: it is no worker, and what the worker has is not the child's to use."""
    engine = create_engine(url, plugins=["poolguard"], poolguard={"floor": 1, "budget": 3})
    with engine.connect() as held:
        pid = held.scalar(PID)
        found = said_by_child(lambda: query(engine))
        assert found.split()[0] != str(pid)
        assert found.endswith("QueuePool")
        assert held.scalar(PID) == pid
    with engine.connect() as conn:
        assert conn.scalar(PID) == pid
    poolguard.forget(poolguard.sqlalchemy.guard(engine))


def test_a_child_of_a_script_that_is_pooled_has_connections_of_its_own(pooled: Make) -> None:
    """And may open the guard for itself."""
    engine = pooled(settings={"floor": 1})
    pid = query(engine).split()[0]
    assert said_by_child(lambda: query(engine)).split()[0] != pid

    def anew() -> str:
        with poolguard.sqlalchemy.guard(engine) as guard:
            return f"{query(engine).split()[0]} {guard.status()['used']}"

    found, used = said_by_child(anew).split()
    assert (found != pid, used) == (True, "0")
    assert query(engine).split()[0] == pid
