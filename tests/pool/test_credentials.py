"""Credentials that change while the pool is in use: nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from poolguard.lab.postgres import PrivatePostgres
from tests.pool.support import Face, Kind, eventually, in_loop, opened

ROLE = "rotating"


class Vault:
    """What knows the password of the day, and is asked for it at each connect."""

    def __init__(self, postgres: PrivatePostgres, admin: psycopg.Connection) -> None:
        self._conninfo = postgres.conninfo(user=ROLE)
        self._admin = admin
        self.known = ""
        self.rotate("first")
        self.publish("first")

    def rotate(self, password: str) -> None:
        """The server takes no other from now on."""
        role, secret = sql.Identifier(ROLE), sql.Literal(password)
        self._admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, secret))

    def publish(self, password: str) -> None:
        self.known = password

    def __call__(self) -> str:
        return make_conninfo(self._conninfo, password=self.known)


@pytest.fixture
def vault(postgres: PrivatePostgres, admin: psycopg.Connection) -> Iterator[Vault]:
    admin.autocommit = True
    admin.execute(f"CREATE ROLE {ROLE} LOGIN")
    yield Vault(postgres, admin)
    admin.execute(f"DROP ROLE {ROLE}")


class Requests:
    """Users who come all the time."""

    def __init__(self, pool: Face) -> None:
        self.pool = pool
        self.served = 0
        self._over = False
        self._tasks = [asyncio.create_task(self._come()) for _ in range(3)]

    async def _come(self) -> None:
        while not self._over:
            conn = await self.pool.get(timeout=2)
            await self.pool.execute(conn, "SELECT 1")
            await self.pool.put(conn)
            self.served += 1
            await asyncio.sleep(0.01)

    async def more(self, n: int = 20) -> None:
        until = self.served + n
        await eventually(lambda: self.served >= until or any(task.done() for task in self._tasks))

    async def end(self) -> int:
        """How many failed; raises the first failure."""
        self._over = True
        await asyncio.gather(*self._tasks)
        return self.served


@in_loop
async def test_a_new_password_costs_no_request(
    kind: Kind, vault: Vault, admin: psycopg.Connection
) -> None:
    """Sessions outlive the change of the password; those that are made later use the new one."""
    async with opened(kind, vault, min_size=2, max_size=4, max_lifetime=1.0) as pool:
        requests = Requests(pool)
        await requests.more()
        before = pool.backends(admin)
        vault.rotate("second")
        vault.publish("second")
        await eventually(lambda: not before & pool.backends(admin))
        await requests.more()
        assert await requests.end() > 40
        assert pool.recorder.failures == []


@in_loop
async def test_while_the_new_password_is_not_known_yet_the_old_sessions_go_on(
    kind: Kind, vault: Vault, admin: psycopg.Connection
) -> None:
    """None is given up for its age while no successor can be had, and no password is told."""
    async with opened(kind, vault, min_size=2, max_lifetime=1.0) as pool:
        requests = Requests(pool)
        await requests.more()
        vault.rotate("second")
        await eventually(lambda: len(pool.recorder.failures) >= 2)
        assert "password authentication failed" in pool.recorder.failures[0].error
        assert "first" not in str(pool.recorder.failures)
        kept = pool.backends(admin)
        await requests.more()
        assert kept & pool.backends(admin)
        vault.publish("second")
        await eventually(lambda: not kept & pool.backends(admin))
        await requests.more()
        await requests.end()


@in_loop
async def test_a_coroutine_may_be_asked(vault: Vault) -> None:
    async def ask() -> str:
        await asyncio.sleep(0)
        return vault()

    conninfo: Any = ask
    async with opened("async", conninfo, min_size=2) as pool:
        assert pool.size == 2
