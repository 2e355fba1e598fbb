"""``manage.py``, checks, and processes that gunicorn knows nothing of: Django's own connections."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Describe, Manage, run_python

NOWHERE: dict[str, Any] = {"HOST": "127.0.0.1", "PORT": "1", "NAME": "nowhere", "USER": "nobody"}


def test_collecting_static_files_needs_no_database(
    manage: Manage, describe: Describe, tmp_path: Path
) -> None:
    """As in the build of an image, where a database has neither a name nor a server."""
    for changes in (NOWHERE, {"NAME": ""}):
        databases = {"default": describe(**changes)}
        ran = manage("collectstatic", "--noinput", databases=databases, TEST_STATIC=str(tmp_path))
        assert (ran.returncode, ran.stderr) == (0, "")


def test_a_check_of_settings_that_are_right_finds_nothing(
    manage: Manage, describe: Describe
) -> None:
    """And connects to nothing."""
    databases = {"default": describe({"poolguard": {"floor": 4}}, **NOWHERE)}
    ran = manage("check", databases=databases)
    assert (ran.returncode, ran.stderr) == (0, "")


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "CONN_MAX_AGE": ({"CONN_MAX_AGE": 60}, ["(poolguard.E001)", "CONN_MAX_AGE=60"]),
    "pool": ({"options": {"pool": {"min_size": 2}}}, ["(poolguard.E002)", "acquire_timeout"]),
    "no dict": (
        {"options": {"poolguard": 4}},
        ["(poolguard.E003)", "it takes a dict of settings, no int"],
    ),
    "unknown": (
        {"options": {"poolguard": {"flor": 4, "mode": "async", "floor": 0}}},
        ["did you mean floor?", "mode is not for it", "it takes a whole number"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_check_of_settings_that_cannot_work_says_what_and_why(
    case: str, manage: Manage, describe: Describe
) -> None:
    changes, said = WRONG[case]
    ran = manage("check", databases={"default": describe(**changes)})
    assert ran.returncode == 1
    assert [each for each in said if each not in ran.stderr] == []
    assert "Traceback" not in ran.stderr


def test_what_is_said_of_wrong_settings_shows_no_password(
    manage: Manage, describe: Describe
) -> None:
    databases = {"default": describe({"poolguard": {"dsn": "postgresql://u:hunter2@h/d"}})}
    ran = manage("check", databases=databases)
    assert ran.returncode == 1
    assert "hunter2" not in ran.stderr + ran.stdout


@pytest.mark.parametrize("parallel", [(), ("--parallel", "2")], ids=["one", "parallel"])
def test_djangos_test_runner_makes_its_databases_and_drops_them(
    parallel: tuple[str, ...], manage: Manage, describe: Describe
) -> None:
    """Its own tests see that no guard takes part."""
    databases = {"default": describe({"poolguard": {"floor": 2}})}
    ran = manage("test", *parallel, "tests.adapters.django_.project", databases=databases)
    assert ran.returncode == 0, ran.stderr
    assert "Ran 2 tests" in ran.stderr


def test_a_test_may_mirror_another_database(manage: Manage, describe: Describe) -> None:
    options = {"poolguard": {"floor": 2}}
    databases = {
        "default": describe(options),
        "replica": describe(options, TEST={"MIRROR": "default"}),
    }
    ran = manage("test", "tests.adapters.django_.project", databases=databases)
    assert ran.returncode == 0, ran.stderr


def test_a_shell_has_a_connection_of_its_own(manage: Manage, describe: Describe) -> None:
    script = """
from django.db import connection
with connection.cursor() as cursor: cursor.execute("SHOW TimeZone"); zone = cursor.fetchone()
import poolguard.runtime.lookup as lookup
print(zone, connection.pool, lookup.guards())
"""
    databases = {"default": describe({"poolguard": {"floor": 2}}, TIME_ZONE="Asia/Tokyo")}
    ran = manage("shell", "--verbosity", "0", "--command", script, databases=databases)
    assert ran.stdout == "('Asia/Tokyo',) None []\n", ran.stderr


@pytest.fixture
def run(describe: Describe) -> Callable[..., str]:
    """Runs a script after Django was set up; what it prints."""

    def run(script: str, **databases: dict[str, Any]) -> str:
        given = databases or {"default": describe({"poolguard": {"floor": 2, "budget": 4}})}
        ran = run_python("-c", f"import django; django.setup()\n{script}", databases=given)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def test_a_process_that_was_forked_opens_a_guard_of_its_own(
    run: Callable[..., str], describe: Describe
) -> None:
    """As Celery's do: each task closes the pool, and the connections of the task before."""
    script = """
import os, poolguard.django
from django.db import close_old_connections, connection
from tests.adapters.django_.project.models import Book

def task():
    connection.close_pool()
    close_old_connections()
    count, pool = Book.objects.count(), connection.pool
    pid = connection.connection.info.backend_pid
    close_old_connections()
    return pid, count, pool and pool.name

print("parent", task()[1:], flush=True)
child = os.fork()
if child == 0:
    poolguard.django.guard().open(10)
    first, second = task(), task()
    print("child", first[1:], first == second, flush=True)
    poolguard.django.guard().close()
    print("child", task()[1:], flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", task()[1:], flush=True)
"""
    options = {"poolguard": {"floor": 1, "max_size": 1, "budget": 1}}
    assert run(script, default=describe(options)).splitlines() == [
        "parent (5, None)",
        "child (5, 'default') True",
        "child (5, None)",
        "parent (5, None)",
    ]


def test_the_package_is_imported_before_there_are_settings() -> None:
    """As a task queue's file does, at its top."""
    script = "import sys, poolguard.django as found; print(found.guard, 'django.db' in sys.modules)"
    environ = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert ran.stdout.endswith("False\n")


def test_a_guard_is_of_a_database_with_this_engine(
    run: Callable[..., str], describe: Describe
) -> None:
    script = """
import poolguard.django
for alias in ("nowhere", "stock"):
    try:
        poolguard.django.guard(alias)
    except ValueError as error:
        print(type(error).__name__, error)
"""
    stock = describe(ENGINE="django.db.backends.postgresql")
    said = run(script, default=describe(), stock=stock).splitlines()
    assert said == [
        "SettingsError DATABASES has no 'nowhere', but 'default'",
        "SettingsError DATABASES['stock'] has the engine 'django.db.backends.postgresql', whose "
        "connections no guard lends: write 'poolguard.django'",
    ]
