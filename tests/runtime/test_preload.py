"""What gunicorn's master imports for its workers, and what a worker does with the rest."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

import poolguard
from poolguard.runtime.preload import import_pool
from poolguard.settings import Kind


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {*ran.stdout.split()}


def preloaded(worker_class: str, *, before: str = "") -> set[str]:
    """The modules of a master that is about to fork workers of that class."""
    return modules_after(
        f"{before}\nimport poolguard.gunicorn\nfrom gunicorn.config import Config\n"
        f"cfg = Config()\ncfg.set('worker_class', {worker_class!r})\n"
        f"poolguard.gunicorn._preload(cfg)"
    )


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "uvicorn_worker.UvicornWorker"])
def test_the_master_imports_no_driver_that_a_reload_could_not_renew(worker_class: str) -> None:
    found = preloaded(worker_class)
    assert "poolguard.pool.upkeep" in found
    tops = {name.partition(".")[0] for name in found}
    assert not tops & {"psycopg", "psycopg_binary", "psycopg_c", "psycopg_pool", "opentelemetry"}
    assert "typing_extensions" not in tops, "an application may want a newer one after a reload"


def test_the_master_imports_the_door_of_its_workers_alone() -> None:
    doors = {"poolguard.asgi", "poolguard.wsgi"}
    assert preloaded("sync") & doors == {"poolguard.wsgi"}
    assert preloaded("uvicorn_worker.UvicornWorker") & doors == {"poolguard.asgi"}


def test_what_is_to_be_patched_is_imported_after_that() -> None:
    pytest.importorskip("gevent")
    assert "poolguard.pool.sockets" not in preloaded("gevent")


@pytest.mark.parametrize(
    ("worker_class", "pool"),
    [
        ("sync", "poolguard.pool.sync"),
        ("uvicorn_worker.UvicornWorker", "poolguard.pool.aio"),
    ],
)
def test_a_master_that_has_the_driver_imports_the_pool_too(worker_class: str, pool: str) -> None:
    """By gunicorn.conf.py, or by the application under ``preload_app``."""
    assert pool in preloaded(worker_class, before="import psycopg")


def test_what_a_python_or_a_driver_lacks_is_for_the_worker_to_say() -> None:
    lacking = "import sys, psycopg; sys.modules.update(dict.fromkeys(['ctypes', 'psycopg_pool']))"
    assert "poolguard.pool.upkeep" in preloaded("sync", before=lacking)


@pytest.fixture
def _usual_collector() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.usefixtures("_usual_collector")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_collector_is_afterwards_as_it_was_before(kind: Kind) -> None:
    import_pool(kind)
    assert gc.isenabled()
    gc.disable()
    import_pool(kind)
    assert not gc.isenabled()


def test_a_program_that_is_no_worker_of_gunicorns_has_nothing_frozen(dsn: str) -> None:
    """It may make and drop what it likes for ever."""
    before = gc.get_freeze_count()
    with poolguard.Guard(dsn, budget=2, floor=1, history="off") as guard:
        assert guard.wait_warm(10)
        assert gc.get_freeze_count() == before
