"""Django's own tests, over its own engine and over ours, pooled everywhere; prints what differs.

Run by hand, for some minutes::

    export POOLGUARD_PG_BIN=/usr/lib/postgresql/15/bin     # a PostgreSQL with contrib's extensions
    python -m tests.suites.django_suite            # the version of Django that is installed here
    python -m tests.suites.django_suite --python ../v/bin/python 6.1.3
    python -m tests.suites.django_suite 5.2.19 backends transactions

The engine pools in gunicorn's workers only, and databases of tests not even there. What makes it
pool here stands in this file, which is the tests' settings module as well.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LABELS = (
    "asgi",
    "backends",
    "db_utils",
    "handlers",
    "postgres_tests",
    "select_for_update",
    "servers",
    "signals",
    "test_runner",
    "test_utils",
    "transaction_hooks",
    "transactions",
)
_POOL = "it tests Django's own OPTIONS['pool']"
_CHECKS = "it tests CONN_HEALTH_CHECKS with CONN_MAX_AGE; the guard verifies what it lends"
EXPECTED = {
    "test_connect_pool": _POOL,
    "test_pool_check_can_be_overridden": _POOL,
    "test_pooling_health_checks": _POOL,
    "test_pooling_not_support_persistent_connections": _POOL,
    "test_health_checks_enabled": _CHECKS,
    "test_set_autocommit_health_checks_enabled": _CHECKS,
}
"""Tests that fail over our engine, and why they may."""
STOCK, OURS = "django.db.backends.postgresql", "poolguard.django"
ENGINE, PLACE = "SUITE_ENGINE", "SUITE_PLACE"
"""Variables by which this file tells itself, as a settings module, what the settings are."""


class Outcome(NamedTuple):
    """What one run of the tests has come to."""

    ran: int
    skipped: int
    failed: frozenset[str]
    """The headings of failures and errors."""


def outcome_of(said: str) -> Outcome:
    """Read what runtests.py has printed."""
    ran = re.search(r"^Ran (\d+) tests?", said, re.MULTILINE)
    assert ran is not None, said[-3000:]
    skipped = re.search(r"skipped=(\d+)", said)
    failed = re.findall(r"^(?:FAIL|ERROR): (.+)$", said, re.MULTILINE)
    return Outcome(int(ran[1]), int(skipped[1]) if skipped else 0, frozenset(failed))


def run(python: str, source: Path, place: str, engine: str, labels: list[str]) -> Outcome:
    """Run these tests over one engine."""
    path = os.pathsep.join([str(source), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": path, ENGINE: engine, PLACE: place}
    script = ["runtests.py", "--settings", "tests.suites.django_suite", "--noinput"]
    ran = subprocess.run(
        [python, *script, "--parallel", "1", *labels],
        cwd=source / "tests",
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    log = Path(gettempdir()) / f"django-suite-{engine}.log"
    log.write_text(ran.stdout)
    found = outcome_of(ran.stdout)
    print(f"{engine}: ran {found.ran}, skipped {found.skipped}, failed {len(found.failed)}; {log}")
    return found


def compare(stock: Outcome, ours: Outcome) -> bool:
    """Print what fails over one engine only; whether all that fails over ours is expected."""
    for heading in sorted(stock.failed - ours.failed):
        print(f"  stock only: {heading}")
    unexpected = False
    for heading in sorted(ours.failed - stock.failed):
        why = EXPECTED.get(heading.partition(" ")[0])
        unexpected = unexpected or why is None
        print(f"  ours only: {heading}: {why or 'NOT EXPECTED'}")
    return not unexpected and ours.ran == stock.ran


def main() -> int:
    import django

    from poolguard.lab.postgres import PrivatePostgres

    from .fetch import fetch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", default=django.__version__)
    parser.add_argument("labels", nargs="*")
    parser.add_argument("--python", default=sys.executable, help="one that has psycopg, poolguard")
    given = parser.parse_args()
    source = fetch(f"django=={given.version}", Path(gettempdir()) / "suites", given.python)
    labels = given.labels or [*LABELS]
    with PrivatePostgres(settings={"max_connections": "200"}) as server:
        stock = run(given.python, source, server.dsn, STOCK, labels)
        ours = run(given.python, source, server.dsn, OURS, labels)
    return 0 if compare(stock, ours) else 1


# -- as the tests' settings --------------------------------------------------------------------


def databases(engine: str, place: str) -> dict[str, Any]:
    from psycopg.conninfo import conninfo_to_dict

    known = conninfo_to_dict(place)
    words = {"USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    where = {ours: str(known[theirs]) for ours, theirs in words.items()}
    # One's tests must not meet the databases of the other's that ended in their midst.
    name = engine.partition(".")[0]
    return {
        alias: {"ENGINE": engine, **where, "NAME": f"{name}_{alias}"}
        for alias in ("default", "other")
    }


def pool_everywhere() -> None:
    """Have each wrapper take its connections from a guard, whatever process and database it is of.

    A test may change what its wrapper's settings say: each wording has a guard of its own, but for
    the role, which a checkout compares. Where a database is to be dropped or copied, the guards of
    it are closed.
    """
    from django.conf import settings
    from django.db.backends.base.base import NO_DB_ALIAS
    from django.db.backends.postgresql.creation import DatabaseCreation
    from psycopg.conninfo import make_conninfo

    from poolguard import Guard, forget
    from poolguard.django.guards import Lender, seen_by
    from poolguard.django.mixin import PoolGuardMixin
    from poolguard.util.conninfo import of_libpq

    lenders: dict[str, Lender] = {}

    def lender(wrapper: Any) -> Lender | None:
        if wrapper.alias == NO_DB_ALIAS:
            return None
        said = wrapper.settings_dict
        options = {k: v for k, v in said["OPTIONS"].items() if k != "assume_role"}
        key = repr((wrapper.alias, said["NAME"], options, said["USER"], settings.USE_TZ))
        if (known := lenders.get(key)) is None:
            seen = seen_by(wrapper)
            place = of_libpq(seen.params)
            rest = {name: value for name, value in seen.params.items() if name not in place}
            guard = Guard(
                make_conninfo(**place),
                name=f"{wrapper.alias} {len(lenders)}",
                mode="sync",
                kwargs={**rest, "autocommit": True},
                configure=seen.dress,
                floor=1,
                budget=20,
                ledger="static",
            )
            known = lenders[key] = Lender(guard, seen)
        if not known.guard.opened:
            known.guard.open(5)
        return known

    def close_guards(wrapper: Any) -> None:
        for key in [key for key, each in lenders.items() if each.database]:
            if lenders[key].guard.name.startswith(f"{wrapper.alias} "):
                forget(lenders.pop(key).guard)

    for name in ("_destroy_test_db", "_clone_test_db"):
        own = getattr(DatabaseCreation, name)

        def closing(self: Any, *args: Any, own: Any = own, **kwargs: Any) -> Any:
            close_guards(self.connection)
            return own(self, *args, **kwargs)

        setattr(DatabaseCreation, name, closing)
    setattr(PoolGuardMixin, "_find_lender", lender)  # noqa: B010 - its self is any wrapper


if ENGINE in os.environ and __name__ != "__main__":
    from django import VERSION

    DATABASES = databases(os.environ[ENGINE], os.environ[PLACE])
    SECRET_KEY = "django_tests_secret_key"
    PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    if VERSION < (6,):  # as in its own tests/test_sqlite.py
        DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
    USE_TZ = False
    if os.environ[ENGINE] == OURS:
        pool_everywhere()
elif __name__ == "__main__":
    sys.exit(main())
