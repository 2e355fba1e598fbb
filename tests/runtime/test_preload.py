"""What gunicorn's master imports for its workers, and what a worker does with the rest."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import poolguard
from poolguard.runtime.preload import import_pool
from poolguard.settings import Kind

ROOT = Path(__file__).parents[2]


NEW = "print(*sys.modules.keys() - theirs)"
DATACLASSES = """
for name, module in sys.modules.items():
    if name.startswith("poolguard"):
        for each in vars(module).values():
            if isinstance(each, type) and hasattr(each, "__dataclass_fields__"):
                print(f"{name}.{each.__name__}")
"""


def preloaded(worker_class: str, *, before: str = "", at_end: str = NEW) -> set[str]:
    """The modules of a master that is about to fork workers of that class, but for those that
    gunicorn has imported for the class itself; or what else *at_end* prints."""
    script = f"""
import sys
{before}
from gunicorn.config import Config
cfg = Config()
cfg.set("worker_class", {worker_class!r})
cfg.worker_class
theirs = {{*sys.modules}}
import poolguard.gunicorn
poolguard.gunicorn._preload(cfg)
{at_end}
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {*ran.stdout.split()}


@pytest.mark.parametrize(
    ("worker_class", "pool"),
    [
        ("sync", "poolguard.pool.sync"),
        ("gthread", "poolguard.pool.sync"),
        ("uvicorn_worker.UvicornWorker", "poolguard.pool.aio"),
    ],
)
def test_the_master_imports_the_driver_and_the_pool(worker_class: str, pool: str) -> None:
    found = preloaded(worker_class)
    assert {"psycopg", pool} <= found
    assert not {each for each in found if each.startswith("opentelemetry")}


def test_the_master_imports_the_door_of_its_workers_alone() -> None:
    doors = {"poolguard.asgi", "poolguard.wsgi"}
    assert preloaded("sync") & doors == {"poolguard.wsgi"}
    assert preloaded("uvicorn_worker.UvicornWorker") & doors == {"poolguard.asgi"}


UNNEEDED = (
    *("poolguard.cli", "poolguard.lab", "poolguard.testing", "poolguard.django"),
    *("poolguard.util.conninfo_hints", "poolguard.history.exchange", "poolguard.history.table"),
    *("difflib", "secrets", "termios"),
)
FLEETS = {f"poolguard.budget.fleet{name}" for name in ("", ".locks", ".room")}


@pytest.mark.parametrize("worker_class", ["sync", "uvicorn_worker.UvicornWorker"])
def test_a_boot_imports_nothing_but_what_it_needs(worker_class: str) -> None:
    """Each connect of a boot waits for all of it."""
    found = preloaded(worker_class)
    assert not {each for each in found if each.startswith(UNNEEDED)}
    assert {each for each in found if each.startswith("poolguard.budget.fleet")} <= FLEETS


@pytest.mark.parametrize("worker_class", ["sync", "uvicorn_worker.UvicornWorker"])
def test_no_class_of_a_boot_is_a_dataclass(worker_class: str) -> None:
    """One takes up to half a millisecond to be made, ten times as long as another class."""
    found = preloaded(worker_class, at_end=DATACLASSES)
    assert found == set()


def test_what_is_to_be_patched_is_imported_after_that() -> None:
    pytest.importorskip("gevent")
    assert "poolguard.pool.sockets" not in preloaded("gevent")


def test_what_a_python_or_a_driver_lacks_is_for_the_worker_to_say() -> None:
    lacking = "import sys, psycopg; sys.modules.update(dict.fromkeys(['ctypes', 'psycopg_pool']))"
    assert "poolguard.telemetry.spans" in preloaded("sync", before=lacking)


CHANGED = """
import os, pathlib, sys
{before}
import poolguard.gunicorn
from gunicorn.config import Config
cfg = Config()
poolguard.gunicorn._preload(cfg)
assert not hasattr(sys.modules["psycopg"], "CHANGED")
{change}
poolguard.gunicorn._preload(cfg)
print(*sorted(sys.modules.keys() & {{"psycopg", "psycopg_pool", "poolguard.pool.sync"}}))
from poolguard.runtime.preload import import_pool
import_pool("sync")
import psycopg, poolguard.pool.errors
print(hasattr(psycopg, "CHANGED"), poolguard.pool.errors.psycopg is psycopg)
"""
UPGRADE = """
import psycopg
pathlib.Path(psycopg.__file__).open('a').write('CHANGED = True')
for each in pathlib.Path(psycopg.__file__).parent.rglob("*.py"):
    os.utime(each, (1, 1))
"""


@pytest.mark.parametrize(
    ("before", "change", "kept", "new"),
    [
        ("", "import psycopg", True, False),
        ("", UPGRADE, False, True),
        ("", "cfg.set('worker_class', 'gevent')", False, False),
        ("import psycopg", UPGRADE, True, False),
    ],
    ids=["as it was", "another version", "to be patched", "the configuration's own"],
)
def test_a_reload_finds_the_driver_that_is_installed_by_then(
    tmp_path: Path, before: str, change: str, *, kept: bool, new: bool
) -> None:
    if "gevent" in change:
        pytest.importorskip("gevent")
    [where] = psycopg.__path__
    shutil.copytree(where, tmp_path / "psycopg")
    script = CHANGED.format(before=before, change=change)
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    told = subprocess.check_output([sys.executable, "-c", script], text=True, env=environ)
    shared, found = told.splitlines()
    assert shared == ("poolguard.pool.sync psycopg psycopg_pool" if kept else "")
    assert found == f"{new} True"


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
