"""The stage that all contenders play on in turn: server, slow network, listener, and the budget."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep, time

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from poolguard.budget.capacity import QUERY, Capacity
from poolguard.budget.plan import Plan, Workplace, make_plan
from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.load import GIVE_UP, drive
from poolguard.lab.pgbouncer import PgBouncer
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from poolguard.lab.result import Run, Sample
from poolguard.lab.server import Gunicorn, WebServer, listen
from poolguard.lab.sessions import SessionSampler, arrivals
from poolguard.lab.story import Story
from poolguard.settings import Settings
from poolguard.telemetry.recorded import Span, spans_of

from ..contenders import Contender
from ..contenders import knex as node
from ..contenders.apps.terms import fast
from ..server import trust
from .conditions import Conditions

__all__ = ["CONNECT_DELAY", "ROLE", "Event", "Load", "Serving", "Stage", "stage"]

ROLE = "contender"
"""Who contenders are on the server, and nobody else is."""
CONNECT_DELAY = 0.1
"""Seconds each connect takes longer: what TCP, TLS and SCRAM cost over a network."""
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
    pooler: PgBouncer | None = None

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


Load = Callable[[Serving], tuple[list[Sample], float, float]]
"""Plays some other traffic: the samples, the generator's own lag, and by the monotonic clock when
it began."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What all contenders are given alike."""

    server: PrivatePostgres
    proxy: SlowProxy
    listener: socket.socket
    janitor: Janitor
    role: str
    """The role's conninfo, straight to the server; the way through the proxy is :attr:`dsn`."""
    capacity: Capacity
    """What the server grants the role."""

    @property
    def dsn(self) -> str:
        return make_conninfo(self.role, host=self.proxy.host, port=self.proxy.port)

    def plan(self, conditions: Conditions) -> Plan:
        """What poolguard works out of the server's capacity, and all others are told."""
        workplace = Workplace(workers=conditions.workers, at_once=conditions.threads)
        return make_plan(self.capacity, Settings(budget=conditions.budget), workplace)

    def one_connect(self) -> float:
        """Seconds that a connect takes while nothing else happens."""
        took = []
        for _ in range(5):
            began = monotonic()
            psycopg.connect(self.dsn).close()
            took.append(monotonic() - began)
        return statistics.median(took)

    @contextmanager
    def serve(self, contender: Contender, conditions: Conditions) -> Iterator[Serving]:
        """*contender*, answering; at the end nothing of it is left on the server."""
        budget = self.plan(conditions).budget
        folder = self.janitor.folder()
        with ExitStack() as stack:
            stack.callback(self._clear)
            pooler = self._pooler(contender, conditions, budget)
            dsn = self.dsn
            if pooler is not None:
                dsn = stack.enter_context(pooler).conninfo()
            environ = conditions.environ(contender, dsn, budget, folder)

            def start() -> WebServer:
                return stack.enter_context(self._web_server(contender, environ, folder))

            servers = [
                start() for _ in range(conditions.workers if contender.kind == "node" else 1)
            ]
            for server in servers:
                server.wait_healthy()
            yield Serving(servers, folder, start, pooler)

    def play(
        self,
        contender: Contender,
        conditions: Conditions,
        story: Story,
        *,
        events: Sequence[Event] = (),
        give_up: float = GIVE_UP,
        progress: Callable[[float], None] = lambda _: None,
        load: Load | None = None,
    ) -> Run:
        """*contender* under a whole story, in which *events* happen, or under another *load*.

        Raises :class:`LabError` where it does not come up, or an event fails.
        """

        def tell(serving: Serving) -> tuple[list[Sample], float, float]:
            began = monotonic()
            address, arrivals = serving.server.address, story.arrivals()
            with _happening(events, serving, began):
                samples, lag = asyncio.run(
                    drive(address, arrivals, began=began, progress=progress, give_up=give_up)
                )
            return samples, lag, began

        log_from = len(self.server.read_log())
        with (
            self.serve(contender, conditions) as serving,
            SessionSampler(self.server.conninfo(), role=ROLE) as sampler,
        ):
            samples, lag, began = (load or tell)(serving)
            began_at = time() - (monotonic() - began)
            if any(sample.status == 0 for sample in samples):
                self.proxy.reset_all()  # who still waits for an answer would keep it from ending
        return Run(
            contender.name,
            tuple(samples),
            tuple(at - began_at for at in arrivals(self.server.read_log()[log_from:], role=ROLE)),
            tuple((at - began, n) for at, n in sampler.series),
            self.plan(conditions).budget,
            lag,
            tuple(_spans(serving.folder)),
        )

    def _pooler(
        self, contender: Contender, conditions: Conditions, budget: int
    ) -> PgBouncer | None:
        if contender.pooler is None:
            return None
        # pgbouncer.org/config.html; default_pool_size, 20 by default, is the maximum given to all
        settings = {
            "default_pool_size": str(budget),
            "server_idle_timeout": str(fast(600, conditions.hour)),
            "max_client_conn": "1000",
        }
        if contender.pooler.full:
            settings["min_pool_size"] = str(budget)
        return PgBouncer(
            self.dsn,
            pool_mode=contender.pooler.mode,
            auth_type="trust",
            settings=settings,
            janitor=self.janitor,
        )

    def _web_server(self, contender: Contender, environ: dict[str, str], folder: Path) -> WebServer:
        if contender.kind == "node":
            return WebServer(
                ["node", str(node.SERVER)],
                listener=self.listener,
                log=folder / "node.log",
                environ={**environ, "CONTEST_FD": str(self.listener.fileno())},
                janitor=self.janitor,
            )
        return Gunicorn(
            f"benchmarks.contenders.apps.{contender.module}:app",
            "benchmarks.contenders.apps.conf",
            listener=self.listener,
            folder=folder,
            environ=environ,
            janitor=self.janitor,
        )

    def _clear(self) -> None:
        """End what a contender has left on the server, and wait until it is gone."""
        if not self.server.running:
            raise LabError("the private PostgreSQL ended in the middle of the contest")
        self.proxy.reset_all()
        ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        until = monotonic() + CLEARED_WITHIN
        with self.server.connect() as admin:
            while admin.execute(ending, [ROLE]).fetchone() is not None:
                if monotonic() > until:
                    raise LabError("a contender's connections stay on the server")
                sleep(0.02)


@contextmanager
def stage() -> Iterator[Stage]:
    """A private PostgreSQL of its own, to which connecting is as slow as over a network."""
    # The log then has a line for every connection, with its time.
    settings = {
        "log_connections": "on",
        "log_line_prefix": "%n ",
        "max_connections": str(MAX_CONNECTIONS),
    }
    with (
        listen() as listener,
        Janitor() as janitor,
        PrivatePostgres(settings=settings, janitor=janitor) as server,
        SlowProxy(("127.0.0.1", server.port), connect_delay=CONNECT_DELAY) as proxy,
    ):
        role = server.create_role(ROLE)
        trust(server)
        with psycopg.connect(role, row_factory=dict_row) as conn:
            row = conn.execute(QUERY).fetchone()
        assert row is not None
        yield Stage(server, proxy, listener, janitor, role, Capacity.from_row(row))


@contextmanager
def _happening(events: Sequence[Event], serving: Serving, began: float) -> Iterator[None]:
    """Events happen in a thread, so that the load goes on meanwhile."""
    ended = threading.Event()
    failures: list[Exception] = []

    def happen() -> None:
        for event in sorted(events, key=lambda event: event.at):
            if ended.wait(max(began + event.at - monotonic(), 0.0)):
                return
            try:
                event.act(serving)
            except (LabError, OSError, subprocess.SubprocessError) as error:
                failures.append(error)
                return

    thread = threading.Thread(target=happen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise LabError(f"an event of the story failed: {failures[0]}")


def _spans(folder: Path) -> Iterator[Span]:
    """The spans that the workers wrote, one JSON object a line."""
    for path in sorted(folder.glob("*.spans")):
        for line in path.read_text().splitlines():
            yield from filter(None, spans_of(json.loads(line)))
