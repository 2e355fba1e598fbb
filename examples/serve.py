"""Runs one of the applications beside it: ``python examples/serve.py django_app``.

It starts a private PostgreSQL, runs the application's migrations in a plain process, and then
gunicorn in the foreground. Ctrl-C ends all of it and leaves nothing behind. Where DATABASE_URL is
set, that database is used, and what the migrations have made stays in it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolguard.lab.janitor import Janitor

FOLDER = Path(__file__).parent
GRACE = 10.0
"""Seconds that requests have to end in after Ctrl-C; a second one ends them at once."""


@dataclass(frozen=True)
class Example:
    """How one of the applications is run, in its folder."""

    install: str
    """What ``pip install`` takes, in the root of the repository, to have all that it imports."""
    imports: tuple[str, ...]
    migrate: tuple[str, ...]
    """What Python is given to bring the database up to date."""
    page: str
    """A path to look at first."""
    beside: tuple[str, ...] = ()
    """What Python is given for a program that runs beside gunicorn."""


_ALEMBIC = ("-m", "alembic", "upgrade", "head")
_CELERY = ("-m", "celery", "--app", "tasks", "worker", "--concurrency", "2", "--loglevel", "info")
EXAMPLES: Mapping[str, Example] = {
    "django_app": Example(
        install="'.[demo,django]'",
        imports=("django",),
        migrate=("manage.py", "migrate"),
        page="/products",
    ),
    "flask_app": Example(
        install="'.[demo,flask,sqlalchemy]' flask-sqlalchemy alembic",
        imports=("flask", "sqlalchemy", "flask_sqlalchemy", "alembic"),
        migrate=_ALEMBIC,
        page="/books",
    ),
    "fastapi_app": Example(
        install="'.[demo,fastapi,sqlalchemy]' sqlmodel alembic",
        imports=("fastapi", "sqlalchemy", "sqlmodel", "alembic"),
        migrate=_ALEMBIC,
        page="/notes",
    ),
    "starlette_app": Example(
        install="'.[demo,starlette]'",
        imports=("starlette",),
        migrate=("migrate.py",),
        page="/links",
    ),
    "celery_worker": Example(
        install="'.[demo,flask]' celery",
        imports=("flask", "celery"),
        migrate=("migrate.py",),
        page="/letters",
        beside=_CELERY,
    ),
}


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("example", choices=EXAMPLES)
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; by default 8000")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either ends it as Ctrl-C does
    signal.signal(signal.SIGINT, signal.default_int_handler)
    example: Example = EXAMPLES[options.example]
    needed = ("poolguard", "psycopg", "gunicorn", *example.imports)
    if lacking := [name for name in needed if importlib.util.find_spec(name) is None]:
        return _fail(f"{', '.join(lacking)} cannot be imported: pip install {example.install}")
    if not _is_free(options.port):
        return _fail(f"port {options.port} on 127.0.0.1 is in use: name another with --port")
    from poolguard.errors import PoolguardError

    try:
        return _serve(example, FOLDER / options.example, options.port)
    except PoolguardError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _serve(example: Example, folder: Path, port: int) -> int:
    from poolguard.lab.janitor import Janitor

    with Janitor() as janitor, ExitStack() as ending:
        environ = _environ(janitor, ending)
        print(f"$ python {' '.join(example.migrate)}", flush=True)
        migrate = [sys.executable, *example.migrate]
        if subprocess.run(migrate, cwd=folder, env=environ, check=False).returncode != 0:
            return _fail("the migrations have failed")
        print(
            f"\nhttp://127.0.0.1:{port}{example.page} (Ctrl-C ends it; to see its pools:\n"
            f"POOLGUARD_RUNTIME_DIR={environ['POOLGUARD_RUNTIME_DIR']} poolguard status --watch)\n",
            flush=True,
        )
        running = [
            janitor.spawn([sys.executable, *command], as_group=True, cwd=folder, env=environ)
            for command in ((*_gunicorn(), "--bind", f"127.0.0.1:{port}"), example.beside)
            if command
        ]
        ending.callback(_end, running)
        try:
            while all(each.poll() is None for each in running):
                time.sleep(0.1)
        except KeyboardInterrupt:
            return 0
        return _fail("it has ended: above it says why")


def _environ(janitor: Janitor, ending: ExitStack) -> dict[str, str]:
    """The environment of all that is run: where the database is, and where files may be left."""
    from poolguard.lab.postgres import PrivatePostgres

    scratch = janitor.folder()
    environ = {
        "POOLGUARD_RUNTIME_DIR": str(scratch / "run"),
        "BROKER_FOLDER": str(scratch),
        **os.environ,
    }
    if not environ.get("DATABASE_URL"):
        environ["DATABASE_URL"] = ending.enter_context(PrivatePostgres(janitor=janitor)).dsn
    return environ


def _gunicorn() -> Sequence[str]:
    # gunicorn 25.1 and later would make a folder for a control socket, in the home directory.
    found = importlib.metadata.version("gunicorn").split(".")
    has_socket = [int(number) for number in found[:2]] >= [25, 1]
    return ("-m", "gunicorn", *(["--no-control-socket"] if has_socket else []))


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have them finish what they do. Those that take too long are the janitor's."""
    until = time.monotonic() + GRACE
    for each in running:
        each.terminate()
    with suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
        for each in running:
            each.wait(max(0.0, until - time.monotonic()))


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _fail(said: str) -> int:
    print(f"serve.py: {said}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
