"""The applications among the examples, as the tests start and ask them."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import gunicorn
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from examples.serve import EXAMPLES as SERVED
from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.status import published

from ..doors.server import ROOT, Door, Server
from ..support import until

__all__ = [
    "APPLICATIONS",
    "WITHIN",
    "WORKERS",
    "Application",
    "Database",
    "Running",
    "insist_that_all_is_there",
    "start",
]

WORKERS = 2
"""Of each application, as its gunicorn.conf.py says."""
WITHIN = 40.0
"""Seconds that anything may take on a busy machine."""
NO_CONTROL_SOCKET = "--no-control-socket" if gunicorn.version_info >= (25, 1) else ""
"""gunicorn has no control socket before, and refuses options that it does not know."""


@dataclass(frozen=True, eq=False)
class Application:
    """One of them, and which requests there are to make."""

    name: str
    door: Door
    """The worker class that its gunicorn.conf.py names."""
    page: str
    """Lists something."""
    missing: str
    """Is not found."""
    write: tuple[str, Any]
    """A path, and what is sent there to have it written, as often as one likes."""
    tables: tuple[str, ...]
    """What its own queries are about."""
    undo: Callable[[Any], str] | None = None
    """From the answer, the path to DELETE before the next write."""
    tasks: int = 0
    """How many processes beside gunicorn's have a pool."""

    @property
    def beside(self) -> tuple[str, ...]:
        """What Python is given for a program beside gunicorn."""
        return SERVED[self.name].beside

    @property
    def folder(self) -> Path:
        return ROOT / "examples" / self.name

    def __str__(self) -> str:
        return self.name


_SYNC = Door("gthread", "", threads=4)
_ASYNC = Door("asgi", "", since=24)
APPLICATIONS = [
    Application(
        "django_app",
        _SYNC,
        page="/products",
        missing="/products/999",
        write=("/orders", {"lines": {"1": 2, "3": 1}}),
        tables=("shop_",),
    ),
    Application(
        "flask_app",
        _SYNC,
        page="/books",
        missing="/books/999",
        write=("/loans", {"book": 1, "reader": "Ann"}),
        undo=lambda answer: f"/loans/{answer['loan']}",
        tables=("books", "loans"),
    ),
    Application(
        "fastapi_app",
        _ASYNC,
        page="/notes",
        missing="/notes/999999",
        write=("/notes", {"notebook": "ideas", "text": "a boat"}),
        tables=("note",),
    ),
    Application(
        "starlette_app",
        _ASYNC,
        page="/links",
        missing="/l/nowhere",
        write=("/links", {"target": "https://www.postgresql.org/docs"}),
        tables=("links", "visits"),
    ),
    Application(
        "celery_worker",
        _SYNC,
        page="/letters",
        missing="/letters/999999",
        write=("/letters", {"to": "Ann", "text": "hello"}),
        tables=("letters", "deliveries"),
        tasks=2,
    ),
]


class Database:
    """A database of an application's own, with a role of its own, whose statements are logged."""

    def __init__(self, application: Application, postgres: PrivatePostgres) -> None:
        self.role = f"{application.name}_{secrets.token_hex(4)}"  # two rooms of tests make one each
        self._postgres = postgres
        conninfo = conninfo_to_dict(postgres.create_role(self.role))
        name = sql.Identifier(self.role)
        with postgres.connect() as conn:
            conn.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(name))
            conn.execute(sql.SQL("ALTER ROLE {} SET log_statement = 'all'").format(name))
        password = quote(str(conninfo["password"]))
        self.url = f"postgresql://{self.role}:{password}@127.0.0.1:{postgres.port}/{self.role}"
        subprocess.run(
            [sys.executable, *SERVED[application.name].migrate],
            cwd=application.folder,
            env=os.environ | {"DATABASE_URL": self.url},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def sessions(self) -> set[int]:
        """The server processes of the role's connections now."""
        query = "SELECT pid FROM pg_stat_activity WHERE usename = %s"
        with self._postgres.connect() as conn:
            return {pid for (pid,) in conn.execute(query, [self.role])}

    @contextmanager
    def asked(self) -> Iterator[list[tuple[int, str]]]:
        """What the role sends while the block runs, once it is over: each statement, after the
        server process that it was sent to."""
        statements: list[tuple[int, str]] = []
        before = len(self._postgres.read_log())
        yield statements
        found = _STATEMENT.finditer(self._postgres.read_log()[before:])
        statements += [(int(match[1]), match[2]) for match in found]


_STATEMENT = re.compile(
    r"^.* \[(\d+)\] LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)", re.MULTILINE
)
"""With PostgreSQL's own log_line_prefix; further lines of a statement are indented."""


class Running:
    """An application under gunicorn, with its own gunicorn.conf.py."""

    def __init__(self, application: Application, server: Server) -> None:
        self.application = application
        self.server = server

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body."""
        return self.answer(method, path, body)[:2]

    def answer(self, method: str, path: str, body: Any = None) -> tuple[int, Any, HTTPMessage]:
        """Status, body and headers."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        try:
            connection.request(method, path, body and json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = "json" in response.headers.get("Content-Type", "")
        told = json.loads(content) if is_json else content
        return response.status, told, response.headers

    def until_open(self, workers: int = WORKERS) -> None:
        """Wait until each process that is to have a pool has it, warm."""
        floors = workers + self.application.tasks

        def are_open() -> bool:
            found = published(self.server.runtime_dir)
            return [each["ready"] for each in found] == [True] * floors

        until(are_open, within=WITHIN)

    def list(self) -> tuple[int, Any]:
        return self.ask("GET", self.application.page)

    def write(self) -> int:
        """Write, and undo what can be written once only; the status."""
        path, body = self.application.write
        status, answer = self.ask("POST", path, body)
        if self.application.undo is not None and status == 201:
            assert self.ask("DELETE", self.application.undo(answer))[0] == 204
        return status


def insist_that_all_is_there(running: Running, database: Database) -> None:
    """The next request creates no connection and asks the server nothing but its own queries."""
    before = database.sessions()
    with database.asked() as asked:
        status, _ = running.list()
    assert status == 200, running.server.said()
    assert database.sessions() == before
    assert asked
    assert {pid for pid, _ in asked} <= before
    tables = running.application.tables
    own = re.compile("|".join((*tables, "^BEGIN$", "^COMMIT$", "^ROLLBACK$")))
    assert [query for _, query in asked if not own.search(query)] == []


@contextmanager
def start(
    application: Application,
    url: str,
    folder: Path,
    *,
    options: str = "",
    port: int | None = None,
    door: Door | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Running]:
    """Runs it under gunicorn while the block runs, with what runs beside it.

    :param options: of gunicorn's command line.
    :param port: one that gunicorn binds itself.
    :param door: another worker class, which *options* name.
    """
    variables = {
        "BROKER_FOLDER": str(folder),
        "GUNICORN_CMD_ARGS": f"{NO_CONTROL_SOCKET} {options}",
        **environ,
    }
    with Janitor() as janitor:
        server = Server(
            door or application.door,
            variables,
            janitor=janitor,
            folder=folder,
            dsn=url,
            port=port,
            config="gunicorn.conf.py",
            cwd=application.folder,
        )
        beside = []
        try:
            if application.beside:
                process = janitor.spawn(
                    [sys.executable, *application.beside],
                    as_group=True,
                    cwd=application.folder,
                    env={
                        **os.environ,
                        "DATABASE_URL": url,
                        "POOLGUARD_RUNTIME_DIR": str(server.runtime_dir),
                        **variables,
                    },
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                beside.append(process)
            yield Running(application, server)
        finally:
            server.end()
            for each in beside:
                each.terminate()
                each.wait(WITHIN)
