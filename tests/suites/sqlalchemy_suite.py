"""SQLAlchemy's own tests, with its own pools and with ours, pooled everywhere; prints what differs.

Run by hand, for some minutes::

    export POOLGUARD_PG_BIN=/usr/lib/postgresql/15/bin     # a PostgreSQL with contrib's extensions
    python -m tests.suites.sqlalchemy_suite                # the version that is installed here
    python -m tests.suites.sqlalchemy_suite --driver psycopg_async test/engine/test_transaction.py

The plugin pools in gunicorn's workers only. What makes it pool here stands in this file, which is a
plugin of pytest's as well: it has each engine made with ours, unless a test brings its own DBAPI.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TESTS = (
    "test/engine/test_transaction.py",
    "test/engine/test_reconnect.py",
    "test/engine/test_execute.py",
    "test/engine/test_logging.py",
    "test/orm/test_transaction.py",
    "test/orm/test_session.py",
    "test/ext/asyncio",
    "test/dialect/test_suite.py",
    "test/dialect/postgresql/test_dialect.py",
    "test/dialect/postgresql/test_async_pg.py",
)
DRIVERS = ("psycopg", "psycopg_async")
OURS = "SUITE_POOLED"
"""The variable by which this file, as a plugin of pytest's, is told to have engines pooled."""
_OWN_CONNECT = (
    "a do_connect listener, or a mock in place of the driver, makes the connection: the guard "
    "makes its own, and asks listeners for keywords"
)
EXPECTED = {
    r"test_(ensure_version|connect_do_connect|connect_replace_params)": _OWN_CONNECT,
    r"test_alter_invalidate_pool": "one dead connection has the whole pool recycled: the guard "
    "sees by itself which others are dead",
    r"RealPrePingEventHandlerTest": "pool_pre_ping is left to the guard, which checks otherwise",
}
"""What fails over ours by design, and why."""
ASIDE = frozenset({"module", "poolclass", "pool", "creator", "async_creator", "strategy"})
SETTINGS = {"ledger": "static", "budget": 20, "floor": 1, "workers": 1}


class Outcome(NamedTuple):
    """What one run of the tests has come to."""

    passed: int
    skipped: int
    failed: frozenset[str]
    """The tests that failed, or whose setup did."""


def outcome_of(said: str) -> Outcome:
    """Read what pytest has printed with ``-rfE``, or more."""
    counts = dict.fromkeys(("passed", "skipped"), 0)
    [last] = [line for line in said.splitlines() if re.search(r"\d+ passed.* in [\d.]+s", line)]
    for name in counts:
        if found := re.search(rf"(\d+) {name}", last):
            counts[name] = int(found[1])
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return Outcome(**counts, failed=frozenset(failed))


def run(python: str, source: Path, url: str, tests: list[str], *, ours: bool) -> Outcome:
    """Run these tests over one kind of pool."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": path, OURS: "1" if ours else ""}
    options = ["-p", "tests.suites.sqlalchemy_suite", "-p", "no:logging", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [python, "-m", "pytest", *options, "-q", "-rfEs", "--dburi", url, "--tb=short", *tests],
        check=False,
        cwd=source,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    kind = "ours" if ours else "stock"
    log = Path(gettempdir()) / f"sqlalchemy-suite-{url.partition(':')[0]}-{kind}.log"
    log.write_text(ran.stdout)
    found = outcome_of(ran.stdout)
    counts = f"{found.passed} passed, {found.skipped} skipped, {len(found.failed)} failed"
    print(f"{kind}: {counts}; {log}", flush=True)
    return found


def compare(stock: Outcome, ours: Outcome) -> bool:
    """Print what fails over one kind only; whether nothing unexpected is new over ours."""
    for test in sorted(stock.failed - ours.failed):
        print(f"  stock only: {test}")
    whys = {test: _why(test) for test in sorted(ours.failed - stock.failed)}
    for test, why in whys.items():
        print(f"  ours only: {test} ({why or 'UNEXPECTED'})")
    return all(whys.values())


def _why(test: str) -> str | None:
    return next((why for word, why in EXPECTED.items() if re.search(word, test)), None)


def prepare(server: Any) -> None:
    """What SQLAlchemy's README.unittests wants of a database."""
    with server.connect(autocommit=True) as conn:
        conn.execute("CREATE DATABASE test TEMPLATE template0 ENCODING 'UTF8'")
        conn.execute("ALTER DATABASE test SET default_text_search_config = 'pg_catalog.english'")
    with server.connect(autocommit=True, dbname="test") as conn:
        for schema in ("test_schema", "test_schema_2"):
            conn.execute(f"CREATE SCHEMA {schema}")
        for extension in ("hstore", "citext"):
            conn.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")


def main() -> int:
    import sqlalchemy

    from poolguard.lab.postgres import PrivatePostgres

    from .fetch import fetch

    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("tests", nargs="*", default=[*TESTS])
    parser.add_argument("--driver", action="append", choices=DRIVERS)
    parser.add_argument("--version", default=sqlalchemy.__version__)
    parser.add_argument("--source", type=Path, help="unpacked already")
    parser.add_argument("--python", default=sys.executable, help="one that has psycopg and pytest")
    given = parser.parse_args()
    source = given.source or fetch(f"sqlalchemy=={given.version}", Path(gettempdir()) / "suites")
    settings = {"max_connections": "300", "max_prepared_transactions": "50"}
    same = True
    for driver in given.driver or DRIVERS:
        outcomes = []
        for ours in (False, True):
            with PrivatePostgres(settings=settings) as server:
                prepare(server)
                place = server.dsn.partition("://")[2].rpartition("/")[0]
                url = f"postgresql+{driver}://{place}/test"
                print(driver, end=" ")
                outcomes.append(run(given.python, source, url, given.tests, ours=ours))
        same &= compare(*outcomes)
    return 0 if same else 1


# -- as a plugin of pytest's -------------------------------------------------------------------


def pytest_configure() -> None:
    """Have this process be a worker, and its engines pooled."""
    if not os.environ.get(OURS):
        return
    from poolguard.worker import registry
    from poolguard.worker.context import WorkerContext

    registry.become(WorkerContext(role="worker"))
    registry.serve(None)  # what is async opens as it is used first
    import sqlalchemy
    from sqlalchemy.engine import make_url

    urls: Any = import_module("sqlalchemy.engine.url")
    urls.plugins.register("poolguard", "poolguard.sqlalchemy", "PoolGuardPlugin")
    make = sqlalchemy.create_engine

    def create_engine(url: Any, **kwargs: Any) -> Any:
        is_real = not ASIDE & kwargs.keys()
        if is_real and make_url(url).drivername.partition("+")[2] in DRIVERS:
            kwargs |= {"plugins": [*kwargs.get("plugins", ()), "poolguard"]}
            kwargs.setdefault("poolguard", SETTINGS)
        return make(url, **kwargs)

    for name in ("sqlalchemy", "sqlalchemy.engine"):
        vars(import_module(name))["create_engine"] = create_engine
    vars(import_module("sqlalchemy.ext.asyncio.engine"))["_create_engine"] = create_engine


if __name__ == "__main__":
    sys.exit(main())
