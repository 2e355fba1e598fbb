"""The demo's two runs: the same application, traffic and server, with each pool in turn."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from time import monotonic, time

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from ..budget.capacity import QUERY, Capacity
from ..budget.plan import Workplace, make_plan
from ..errors import LabError
from ..settings import Settings
from ..telemetry.recorded import Span, spans_of
from ..util.version import __version__
from .binaries import find
from .janitor import Janitor
from .load import drive
from .postgres import PrivatePostgres
from .proxy import SlowProxy
from .result import Comparison, Run
from .server import Gunicorn, listen
from .sessions import SessionSampler, arrivals
from .story import Story

__all__ = ["ORDINARY", "POOLGUARD", "Progress", "compare"]

ORDINARY = "psycopg_pool"
POOLGUARD = "poolguard"

CONNECT_DELAY = 0.1
"""Seconds each connect takes longer: what TCP, TLS and SCRAM cost over a network."""
HOUR = 1.0
"""Seconds that stand for an hour where the story runs in fast motion."""
MAX_IDLE = 10 / 60 * HOUR
"""psycopg_pool's default of 10 minutes."""
IDLE_TIMEOUT = 30 / 60 * HOUR
"""poolguard's default of 30 minutes."""
THREADS = 80
QUERY_SECONDS = 0.25
CHECK_INTERVAL = 25 / 60 * HOUR
"""25 minutes, as in the project's origin; the default is shorter."""

Progress = Callable[[str, float], None]
"""Told what is going on, and which part of the whole (0 to 1) is done."""

_MODULES = {ORDINARY: "ordinary", POOLGUARD: "guarded"}


def compare(
    story: Story, *, port: int = 0, otlp: str | None = None, progress: Progress
) -> Comparison:
    """Run the whole story with the ordinary pool, then with poolguard.

    Raises :exc:`~poolguard.errors.LabError` where the environment does not allow it, or the server
    ends in the middle.
    """
    # The log then has a line for every connection, with its time and whose it is.
    settings = {"log_connections": "on", "log_line_prefix": "%n ", "max_connections": "140"}
    binaries = find()
    if binaries.major >= 16:
        # Hashing the password 4096 times, on both sides, would be done by the very cores that
        # everything else runs on here, and make a burst of connects slower than over a network.
        settings["scram_iterations"] = "64"
    with listen(port) as listener, Janitor() as janitor:
        progress("starting a private PostgreSQL", 0.0)
        with (
            PrivatePostgres(binaries=binaries, settings=settings, janitor=janitor) as server,
            SlowProxy(("127.0.0.1", server.port), connect_delay=CONNECT_DELAY) as proxy,
        ):
            stage = _Stage(
                story=story,
                server=server,
                proxy=proxy,
                janitor=janitor,
                listener=listener,
                otlp=otlp,
            )
            runs = []
            for nth, contender in enumerate(_MODULES):

                def tell(at: float, nth: int = nth, contender: str = contender) -> None:
                    part = (nth + at / story.seconds) / len(_MODULES)
                    progress(f"{contender}: {story.title_at(at)}", part)

                runs.append(stage.run(contender, tell))
            facts = stage.facts()
    phases = tuple((phase.name, phase.title, start, end) for phase, start, end in story.bounds())
    return Comparison(phases, tuple(runs), facts)


class _Stage:
    """What both contenders are given alike."""

    def __init__(
        self,
        *,
        story: Story,
        server: PrivatePostgres,
        proxy: SlowProxy,
        janitor: Janitor,
        listener: socket.socket,
        otlp: str | None,
    ) -> None:
        self._arrivals = story.arrivals()
        self._server = server
        self._proxy = proxy
        self._janitor = janitor
        self._listener = listener
        self._otlp = otlp
        self._folder = janitor.folder()
        self._role = server.create_role("app")
        with psycopg.connect(self._role, row_factory=dict_row) as conn:
            row = conn.execute(QUERY).fetchone()
        assert row is not None
        # What poolguard works out of the server's capacity is what the ordinary pool is told.
        self._plan = make_plan(
            Capacity.from_row(row), Settings(), Workplace(workers=1, at_once=THREADS)
        )

    def run(self, contender: str, tell: Callable[[float], None]) -> Run:
        """One contender under the whole story."""
        log_from = len(self._server.read_log())
        spans = self._folder / f"{contender}.spans"

        def progress(at: float) -> None:
            self._insist_on_the_server()
            tell(at)

        with (
            Gunicorn(
                f"poolguard.lab.apps.{_MODULES[contender]}:app",
                f"poolguard.lab.apps.{_MODULES[contender]}_conf",
                listener=self._listener,
                folder=self._folder,
                environ=self._environ(contender, spans),
                janitor=self._janitor,
            ) as gunicorn,
            SessionSampler(self._server.conninfo(), application=contender) as sampler,
        ):
            gunicorn.wait_healthy()
            began, began_at = monotonic(), time()
            samples, lag = asyncio.run(
                drive(gunicorn.address, self._arrivals, began=began, progress=progress)
            )
            self._insist_on_the_server()
        opened = arrivals(self._server.read_log()[log_from:], application=contender)
        return Run(
            contender,
            tuple(samples),
            tuple(at - began_at for at in opened),
            tuple((at - began, n) for at, n in sampler.series),
            self._plan.budget,
            lag,
            tuple(_spans(spans)),
        )

    def _environ(self, contender: str, spans: Path) -> dict[str, str]:
        environ = {
            "DATABASE_URL": make_conninfo(
                self._role,
                host=self._proxy.host,
                port=self._proxy.port,
                application_name=contender,
            ),
            "DEMO_QUERY_SECONDS": str(QUERY_SECONDS),
        }
        if contender == ORDINARY:
            environ["DEMO_BUDGET"] = str(self._plan.budget)
            environ["DEMO_MAX_IDLE"] = f"{MAX_IDLE:.3f}"
        else:
            environ["POOLGUARD_IDLE_TIMEOUT"] = f"{IDLE_TIMEOUT:.3f}"
            environ["POOLGUARD_CHECK_INTERVAL"] = f"{CHECK_INTERVAL:.3f}"
            environ["POOLGUARD_RUNTIME_DIR"] = str(self._folder / "run")
            environ["DEMO_SPANS"] = str(spans)
            if self._otlp:
                environ["DEMO_OTLP"] = self._otlp
        return environ

    def _insist_on_the_server(self) -> None:
        if not self._server.running:
            lines = self._server.read_log().strip().splitlines()
            raise LabError(
                "the private PostgreSQL ended in the middle of the demo, and with it the story; "
                f"its last words: {lines[-1] if lines else 'none'}. Run the demo again"
            )

    def facts(self) -> dict[str, str]:
        """What the reader must know to judge the figures, in the order of reading."""
        plan = self._plan
        return {
            "server": f"PostgreSQL {self._server.version}, private, on this machine",
            "connecting": f"takes {CONNECT_DELAY * 1e3:.0f} ms longer than it does on this "
            "machine, as over a network (a proxy in front of the server holds each connect)",
            "application": f"gunicorn {version('gunicorn')}, 1 gthread worker of {THREADS} "
            "threads; a request is one query of "
            f"{QUERY_SECONDS * 1e3:.0f} ms",
            "traffic": "open loop: each request starts when it is due, and its latency is counted "
            "from then",
            "fast motion": f"a second stands for an hour: psycopg_pool's max_idle of 10 minutes "
            f"is {MAX_IDLE:.2f} s, poolguard's idle_timeout of 30 minutes {IDLE_TIMEOUT:.2f} s",
            "psycopg_pool": f"{version('psycopg-pool')} at its defaults (min_size 4), max_size "
            f"{plan.budget}",
            "poolguard": f"{__version__} at its defaults: of {plan.capacity} connections "
            f"that the server grants a budget of {plan.budget}, a floor of {plan.floor}",
        }


def _spans(path: Path) -> Iterator[Span]:
    """The spans that the workers wrote, one JSON object a line."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        yield from filter(None, spans_of(json.loads(line)))
