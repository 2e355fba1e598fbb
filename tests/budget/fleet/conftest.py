"""Hosts of a fleet: runtime folders of their own, before one real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    import psycopg

    import poolguard
    from poolguard.lab.postgres import PrivatePostgres

    from .member import Member

ROOT = Path(__file__).parents[3]

Join: TypeAlias = "Callable[..., Member]"
"""One more process of a host: ``join("one", budget=20)``."""
Spawn: TypeAlias = "Callable[..., Process]"
"""The same as a process of its own, which can be killed and stopped."""
Open: TypeAlias = "Callable[..., poolguard.Guard]"
"""A guard of one more host: ``guard("one", floor=2)``, with anything that a guard takes."""
Rows: TypeAlias = "Callable[..., list[tuple[Any, ...]]]"


_labels = count()


@pytest.fixture
def label() -> str:
    """The name of this test's own fleet."""
    return f"fleet-{next(_labels)}"


@pytest.fixture
def join(tmp_path: Path, postgres: PrivatePostgres, label: str) -> Iterator[Join]:
    """Has one more process take part in a host, all within this one."""
    from .member import Member, joined

    members: list[Member] = []

    def one(host: str, budget: int = 20, **terms: int) -> Member:
        ledger = joined(tmp_path / host, postgres.dsn, budget, label, **terms)
        members.append(Member(ledger, postgres.dsn))
        return members[-1]

    yield one
    for member in members:
        member.close()


class Process:
    """A member that is a process of its own."""

    def __init__(self, folder: Path, dsn: str, budget: int, label: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.budget.fleet.member"),
                *(str(folder), dsn, str(budget), label),
            ],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self.process.pid

    def ask(self, line: str) -> Any:
        """Have it do what *line* says; its answer."""
        self.begin(line)
        return self.answer()

    def begin(self, line: str) -> None:
        """Have it do that, and do not wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """What it answers to what was begun first."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        """End it at once, stopped or not."""
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def spawn(tmp_path: Path, postgres: PrivatePostgres, label: str) -> Iterator[Spawn]:
    """Has one more process take part in a host, as a process of its own."""
    with ExitStack() as stack:

        def one(host: str, budget: int = 20) -> Process:
            process = Process(tmp_path / host, postgres.dsn, budget, label)
            stack.callback(process.kill)
            return process

        yield one


@pytest.fixture
def guard(tmp_path: Path, postgres: PrivatePostgres, label: str) -> Iterator[Open]:
    """Makes guards, and closes them in the end."""
    import poolguard

    with ExitStack() as stack:

        def one(host: str = "one", **given: Any) -> poolguard.Guard:
            usual = {
                "conninfo": postgres.dsn,
                "name": f"{label}-{host}",
                "mode": "sync",
                "ledger": "fleet",
                "ledger_label": label,
                "runtime_dir": tmp_path / host,
                "budget": 12,
                "floor": 2,
            }
            made = poolguard.Guard(**{**usual, **given})
            stack.callback(made.close)
            return made

        yield one


@pytest.fixture
def rows(postgres: PrivatePostgres) -> Iterator[Rows]:
    """Asks the server over a connection beside the fleet."""
    import psycopg

    with psycopg.connect(postgres.dsn, autocommit=True) as conn:
        asked: psycopg.Connection[Any] = conn

        def ask(query: str, *values: object) -> list[tuple[Any, ...]]:
            cursor = asked.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

        yield ask
