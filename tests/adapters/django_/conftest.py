"""One migrated database for all these tests, Django set up once in this process, and servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres

from ...doors.conftest import backends, janitor
from ...doors.server import Door, Server

__all__ = ["backends", "janitor"]

ROOT = Path(__file__).parents[3]
CONFIG = "python:tests.doors.gunicorn_conf"
PACKAGE = "tests.adapters.django_.project"
SETTINGS = {"DJANGO_SETTINGS_MODULE": f"{PACKAGE}.settings"}

Databases = Mapping[str, Mapping[str, Any]]


class Describe(Protocol):
    """One database as Django's settings describe it; *options* are of ``OPTIONS``."""

    def __call__(
        self, options: Mapping[str, Any] | None = None, **changes: Any
    ) -> dict[str, Any]: ...


class ServeProject(Protocol):
    """Starts gunicorn with the project; *environ* are further variables of its environment."""

    def __call__(
        self, door: Door, databases: Databases, *, config: str = CONFIG, **environ: str
    ) -> Server: ...


class Manage(Protocol):
    """Runs ``manage.py``."""

    def __call__(
        self, *arguments: str, databases: Databases, **environ: str
    ) -> subprocess.CompletedProcess[str]: ...


def place(dsn: str) -> dict[str, str]:
    from psycopg.conninfo import conninfo_to_dict

    known = conninfo_to_dict(dsn)
    words = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    return {ours: str(known[theirs]) for ours, theirs in words.items()}


def describe_at(dsn: str, name: str) -> Describe:
    def describe(options: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        described = {"ENGINE": "poolguard.django", "NAME": name, **place(dsn)}
        return {**described, "OPTIONS": dict(options or {}), **changes}

    return describe


@pytest.fixture(scope="session")
def database(postgres: PrivatePostgres) -> str:
    """The name of a database with the project's tables and five books."""
    name = "django_project"
    with postgres.connect() as conn:
        conn.execute(f"CREATE DATABASE {name}")
    databases = {"default": describe_at(postgres.dsn, name)()}
    migrated = run_manage("migrate", "--verbosity", "0", databases=databases)
    assert migrated.returncode == 0, migrated.stderr
    with postgres.connect(dbname=name) as conn:
        conn.execute(
            "INSERT INTO project_book (title) SELECT 'book ' || n FROM generate_series(1, 5) n"
        )
    return name


@pytest.fixture
def describe(dsn: str, database: str) -> Describe:
    """Describes the migrated database."""
    return describe_at(dsn, database)


def run_manage(
    *arguments: str, databases: Databases, **environ: str
) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "django", *arguments, databases=databases, **environ)


def run_python(
    *arguments: str, databases: Databases, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python with the project's settings, in a process that gunicorn knows nothing of."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, *arguments],
        env={
            **os.environ,
            **SETTINGS,
            "PYTHONPATH": path,
            "TEST_DATABASES": json.dumps(databases),
            **environ,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def manage() -> Manage:
    return run_manage


@pytest.fixture
def serve_project(
    janitor: Janitor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServeProject]:
    """Starts servers that end with the test. Their environment names no database, unless told."""
    with ExitStack() as ending:

        def start(
            door: Door, databases: Databases, *, config: str = CONFIG, **environ: str
        ) -> Server:
            server = Server(
                door,
                {**SETTINGS, "TEST_DATABASES": json.dumps(databases), **environ},
                janitor=janitor,
                folder=tmp_path_factory.mktemp("gunicorn"),
                dsn=environ.get("DATABASE_URL", ""),
                config=config,
            )
            ending.callback(server.end)
            return server

        yield start


Configure = Callable[[Databases], None]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, describe: Describe) -> Iterator[Configure]:
    """Django's databases become these, in this process; Django itself is set up once."""
    import django
    from django.conf import settings
    from django.db import connections
    from django.db.backends.base.base import RAN_DB_VERSION_CHECK

    from poolguard.django import guards

    if not settings.configured:  # once for the process, which other tests of Django share
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="-", DATABASES={})
        django.setup()

    def forget() -> None:
        for alias in connections:
            if hasattr(connections._connections, alias):
                connections[alias].close()
                del connections[alias]
        guards.forget_all()
        RAN_DB_VERSION_CHECK.clear()
        connections._settings = None
        vars(connections).pop("settings", None)

    def configure(databases: Databases) -> None:
        forget()
        monkeypatch.setattr(settings, "DATABASES", {k: dict(v) for k, v in databases.items()})

    yield configure
    forget()
