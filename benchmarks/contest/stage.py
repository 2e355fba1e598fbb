"""The stage that all contenders play on in turn: server, slow network, listener, and the budget."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from poolguard.budget.capacity import QUERY, Capacity
from poolguard.budget.plan import Plan, Workplace, make_plan
from poolguard.errors import LabError
from poolguard.lab.load import GIVE_UP, drive
from poolguard.lab.pgbouncer import PgBouncer
from poolguard.lab.result import Run
from poolguard.lab.server import WebServer, listen
from poolguard.lab.sessions import SessionSampler, arrivals
from poolguard.lab.story import Story
from poolguard.settings import Settings

from ..server import Database, database
from .conditions import Conditions
from .contenders import KNEX, Contender

T = TypeVar("T")
ROLE = "contender"
"""Who contenders are on the server, and nobody else is."""
MAX_CONNECTIONS = 140
"""The server's, as in the demo: poolguard works a budget of 123 out of them."""
CLEARED_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Serving:
    """A contender that serves, with a folder of its own, in which its telemetry is."""

    servers: list[WebServer]
    """The eldest first: one gunicorn, or of Node as many as there are workers."""
    folder: Path
    start: Callable[[], WebServer]
    """Starts one more of them, at the same listener, and does not wait for it."""

    @property
    def server(self) -> WebServer:
        """The eldest."""
        return self.servers[0]


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to the database, or to those who serve, while the traffic goes on."""

    at: float
    """Seconds since the traffic began."""
    act: Callable[[Serving], object]


def signal_master(number: signal.Signals, serving: Serving) -> None:
    """What an event may do: gunicorn's master is sent this."""
    os.kill(serving.server.pid, number)


@dataclass(frozen=True, slots=True)
class Stage:
    """What all contenders are given alike, and how long all is played."""

    database: Database
    listener: socket.socket
    capacity: Capacity
    """What the server grants the role."""
    quick: bool

    def plan(self, conditions: Conditions) -> Plan:
        """What poolguard works out of the server's capacity, and all others are told."""
        workplace = Workplace(workers=conditions.workers, at_once=conditions.threads)
        return make_plan(self.capacity, Settings(budget=conditions.budget), workplace)

    @contextmanager
    def serve(self, contender: Contender, conditions: Conditions) -> Iterator[Serving]:
        """*contender*, answering; at the end nothing of it is left on the server."""
        budget = self.plan(conditions).budget
        folder = self.database.janitor.folder()
        with ExitStack() as stack:
            stack.callback(self._clear)
            pooler = self._pooler(contender, conditions, budget)
            dsn = self.database.far
            if pooler is not None:
                dsn = stack.enter_context(pooler).conninfo()
            environ = conditions.environ(contender, dsn, budget, folder)

            def start() -> WebServer:
                return stack.enter_context(self._web_server(contender, environ, folder))

            many = conditions.workers if contender.kind == "node" else 1
            servers = [start() for _ in range(many)]
            for server in servers:
                server.wait_healthy()
            yield Serving(servers, folder, start)

    def play(
        self,
        contender: Contender,
        conditions: Conditions,
        story: Story,
        *,
        events: Sequence[Event] = (),
        give_up: float = GIVE_UP,
    ) -> Run:
        """*contender* under a whole story, in which *events* happen.

        Raises :class:`LabError` where it does not come up, or an event fails.
        """
        server = self.database.server
        log_from = len(server.read_log())
        with (
            self.serve(contender, conditions) as serving,
            SessionSampler(server.conninfo(), role=ROLE) as sampler,
        ):
            began, began_at = monotonic(), time()
            address, due = serving.server.address, story.arrivals()
            samples, lag = asyncio.run(
                _driven(serving, events, drive(address, due, began=began, give_up=give_up), began)
            )
            if any(sample.status == 0 for sample in samples):  # these would keep it from ending
                self.database.proxy.reset_all()
        return Run(
            contender.name,
            tuple(samples),
            tuple(at - began_at for at in arrivals(server.read_log()[log_from:], role=ROLE)),
            tuple((at - began, n) for at, n in sampler.series),
            self.plan(conditions).budget,
            lag,
        )

    def _pooler(
        self, contender: Contender, conditions: Conditions, budget: int
    ) -> PgBouncer | None:
        if contender.pooler is None:
            return None
        # pgbouncer.org/config.html; default_pool_size, 20 by default, is the maximum given to all
        settings = {
            "default_pool_size": str(budget),
            "server_idle_timeout": conditions.fast(600),
            "max_client_conn": "1000",
        }
        if contender.setting == "tuned":
            settings["min_pool_size"] = str(budget)
        return PgBouncer(
            self.database.far,
            pool_mode=contender.pooler,
            auth_type="trust",
            settings=settings,
            janitor=self.database.janitor,
        )

    def _web_server(self, contender: Contender, environ: dict[str, str], folder: Path) -> WebServer:
        if contender.kind != "node":
            return self.database.gunicorn(self.listener, environ, folder)
        return WebServer(
            ["node", str(KNEX / "server.mjs")],
            listener=self.listener,
            log=folder / "node.log",
            environ={**environ, "SERVICE_FD": str(self.listener.fileno())},
            janitor=self.database.janitor,
        )

    def _clear(self) -> None:
        """End what a contender has left on the server, and wait until it is gone."""
        self.database.proxy.reset_all()
        ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        until = monotonic() + CLEARED_WITHIN
        with self.database.server.connect() as admin:
            while admin.execute(ending, [ROLE]).fetchone() is not None:
                if monotonic() > until:
                    raise LabError("a contender's connections stay on the server")
                sleep(0.02)


@contextmanager
def stage(*, quick: bool = False) -> Iterator[Stage]:
    """A private PostgreSQL of its own, to which connecting is as slow as over a network."""
    # The log then has a line for every connection, with its time.
    settings = {"log_connections": "on", "log_line_prefix": "%n "}
    settings["max_connections"] = str(MAX_CONNECTIONS)
    with listen() as listener, database(ROLE, settings=settings) as there:
        with psycopg.connect(there.role, row_factory=dict_row) as conn:
            row = conn.execute(QUERY).fetchone()
        assert row is not None
        yield Stage(there, listener, Capacity.from_row(row), quick)


async def _driven(
    serving: Serving, events: Sequence[Event], load: Coroutine[Any, Any, T], began: float
) -> T:
    """What the load returns, while events happen in a thread, one after the other."""

    async def happen() -> None:
        for event in sorted(events, key=lambda event: event.at):
            await asyncio.sleep(began + event.at - monotonic())
            await asyncio.to_thread(event.act, serving)

    happening = asyncio.create_task(happen())
    driven = await load
    try:
        await happening
    except (LabError, OSError, subprocess.SubprocessError) as error:
        raise LabError(f"an event of the story failed: {error}") from error
    return driven
