"""The gunicorn hooks: how they get into gunicorn.conf.py, and what they do in the master."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from gunicorn import util
from gunicorn.config import Config, Setting
from gunicorn.glogging import Logger
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

import poolguard
import poolguard.asgi
import poolguard.gunicorn
from poolguard.runtime.lookup import guards
from poolguard.worker import context

from ..support import until
from .conftest import Serve
from .server import ASGI, GEVENT, GTHREAD, SYNC, UVICORN, Door

STARTING = ("on_starting", "pre_fork", "post_fork", "post_worker_init")
ENDING = ("worker_int", "worker_abort", "worker_exit", "child_exit")


def worker_of(cfg: Config, **more: Any) -> SimpleNamespace:
    """What the hooks need of a worker, around gunicorn's own configuration and log."""
    told: dict[str, Any] = {"cfg": cfg, "log": Logger(cfg), "pid": os.getpid(), "alive": True}
    return SimpleNamespace(**{**told, "age": 1, "load_wsgi": lambda: None, **more})


def begin(worker: SimpleNamespace) -> None:
    """As gunicorn begins a worker, until the application is to be imported."""
    poolguard.gunicorn.post_fork(None, worker)
    worker.load_wsgi()


@pytest.fixture(autouse=True)
def _usual_process() -> Iterator[None]:
    """The boot changes these for the whole process, and no end of it follows here."""
    usual = sys.getswitchinterval()
    yield
    sys.setswitchinterval(usual)
    gc.unfreeze()


# -- in the file -------------------------------------------------------------------------------


def test_a_star_import_brings_the_hooks_and_nothing_else() -> None:
    """gunicorn takes every name in its file that is a setting's, so none may come by accident."""
    namespace: dict[str, Any] = {}
    exec("from poolguard.gunicorn import *", namespace)
    assert namespace.keys() - {"__builtins__"} == {*STARTING, *ENDING}
    assert namespace.keys() - {"__builtins__"} <= Config().settings.keys()


def test_gunicorn_takes_the_hooks() -> None:
    """Its validation counts their arguments: as they are, and chained with the file's own."""
    cfg = Config()
    namespace: dict[str, Any] = {}
    for name, arity in poolguard.gunicorn.HOOKS.items():
        cfg.set(name, getattr(poolguard.gunicorn, name))
        their = cfg.settings[name].default
        assert util.get_arity(their) == arity
        namespace[name] = their
    poolguard.gunicorn.install(namespace)
    for name in poolguard.gunicorn.HOOKS:
        assert namespace[name] is not cfg.settings[name].default
        cfg.set(name, namespace[name])


def test_install_runs_the_files_own_hook_first_when_starting_and_last_when_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[str, str]] = []

    def hook(name: str, whose: str) -> Any:
        if poolguard.gunicorn.HOOKS[name] == 1:
            return lambda subject: ran.append((name, whose))
        return lambda server, worker: ran.append((name, whose))

    namespace = {name: hook(name, "theirs") for name in (*STARTING, *ENDING)}
    for name in namespace:
        monkeypatch.setattr(poolguard.gunicorn, name, hook(name, "ours"))
    poolguard.gunicorn.install(namespace)
    for name, installed in namespace.items():
        installed(*[None] * poolguard.gunicorn.HOOKS[name])
    assert ran == [
        *((name, whose) for name in STARTING for whose in ("theirs", "ours")),
        *((name, whose) for name in ENDING for whose in ("ours", "theirs")),
    ]


def test_install_adds_what_the_file_does_not_define() -> None:
    """Twice is as good as once."""
    namespace: dict[str, Any] = {"workers": 4}
    poolguard.gunicorn.install(namespace)
    poolguard.gunicorn.install(namespace)
    hooks = {name: getattr(poolguard.gunicorn, name) for name in (*STARTING, *ENDING)}
    assert namespace == {"workers": 4, **hooks}


@pytest.mark.parametrize("how", ["installed again", "called by the next file"])
def test_hooks_that_are_installed_twice_act_once(
    how: str, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file builds on another one that has installed them, which has hooks of its own."""
    ASGI.must_exist()
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("POOLGUARD_BUDGET", "2")
    monkeypatch.setenv("POOLGUARD_WARMUP_TIMEOUT", "40")
    cfg = Config()
    cfg.set("worker_class", "asgi")  # which allows no such warm-up, and so is warned of
    server, worker = SimpleNamespace(cfg=cfg, log=Logger(cfg)), worker_of(Config())
    worker.log.error_log.addHandler(caplog.handler)
    ran: list[str] = []
    base: dict[str, Any] = {
        "on_starting": lambda server: ran.append("on_starting"),
        "post_fork": lambda server, worker: ran.append("post_fork"),
    }
    poolguard.gunicorn.install(base)
    namespace = dict(base)
    if how == "called by the next file":

        def on_starting(server: Any) -> None:
            base["on_starting"](server)

        def post_fork(server: Any, worker: Any) -> None:
            base["post_fork"](server, worker)

        namespace |= {"on_starting": on_starting, "post_fork": post_fork}
    poolguard.gunicorn.install(namespace)

    usual = sys.getswitchinterval()
    namespace["on_starting"](server)
    namespace["post_fork"](server, worker)
    namespace["post_worker_init"](worker)
    namespace["worker_exit"](server, worker)
    namespace["child_exit"](server, worker)
    assert ran == ["on_starting", "post_fork"]
    assert sys.getswitchinterval() == pytest.approx(usual)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "POOLGUARD_WARMUP_TIMEOUT=40" in line]) == 1
    assert len([line for line in said if "is warm" in line]) == 1


def their_post_fork(server: list[str], worker: object) -> None:
    """A hook that the file names as ``"module.function"``."""
    server.append("theirs")


def test_install_chains_a_hook_that_is_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn takes an import string too."""
    monkeypatch.setattr(poolguard.gunicorn, "post_fork", lambda server, _: server.append("ours"))
    namespace: dict[str, Any] = {"post_fork": f"{__name__}.their_post_fork"}
    poolguard.gunicorn.install(namespace)
    ran: list[str] = []
    namespace["post_fork"](ran, None)
    assert ran == ["theirs", "ours"]


@pytest.mark.parametrize("hook", [lambda server: None, lambda *both: None, "no.such.thing", 5])
def test_install_leaves_what_gunicorn_refuses_for_gunicorn_to_refuse(hook: Any) -> None:
    """Chained, a hook with the wrong arity would fail in each worker instead of at start."""
    namespace = {"post_fork": hook}
    poolguard.gunicorn.install(namespace)
    assert namespace["post_fork"] is hook
    with pytest.raises(TypeError):
        Config().set("post_fork", hook)


def test_importing_the_hooks_imports_neither_psycopg_nor_opentelemetry_nor_gunicorn() -> None:
    """gunicorn.conf.py is run in the master, and psycopg must not be imported before a patch."""
    code = "import poolguard.gunicorn, sys, json; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    tops = {name.partition(".")[0] for name in json.loads(ran.stdout)}
    assert "poolguard" in tops
    assert not tops & {"psycopg", "psycopg_pool", "psycopg_binary", "opentelemetry", "gunicorn"}


# -- in the master -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"POOLGUARD_FLOOR": "many"}, "POOLGUARD_FLOOR"),
        ({"POOLGUARD_FLOR": "2"}, "POOLGUARD_FLOR"),
        ({"POOLGUARD_BUDGET": "1", "TEST_WORKERS": "2"}, "budget"),
        ({"POOLGUARD_DSN": "mysql://user:s3cret@localhost/shop"}, "POOLGUARD_DSN"),
    ],
    ids=["value", "name", "budget", "dsn"],
)
def test_a_settings_error_is_one_clear_line_at_start(
    environ: dict[str, str], named: str, serve: Serve
) -> None:
    server = serve(SYNC, **{"dsn": "postgresql://user:s3cret@localhost/shop", **environ})
    assert server.wait() == 1
    (line,) = server.lines("ERROR")
    assert "poolguard: " in line
    assert named in line
    assert "Traceback" not in server.said()
    assert "s3cret" not in server.said()
    assert not server.lines("Booting worker"), "nothing was forked"


@pytest.mark.parametrize("door", [SYNC, ASGI, UVICORN], ids=str)
def test_a_conninfo_that_libpq_cannot_read_halts_gunicorn_without_showing_it(
    door: Door, serve: Serve
) -> None:
    """libpq, which reads it, is not to be had before the fork."""
    server = serve(door, dsn="postgresql://user:s3cret@[::1/shop")
    assert server.wait() == 3
    (line, *_) = server.lines("ERROR")
    assert "DATABASE_URL" in line
    assert "Traceback" not in server.said()
    assert "s3cret" not in server.said()


def test_what_no_worker_could_open_is_refused_in_the_master(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """So a reload with it leaves the workers of before."""
    poolguard.Guard("host=one", connection_class=AsyncConnection)
    cfg = Config()
    with pytest.raises(SystemExit):
        poolguard.gunicorn.on_starting(SimpleNamespace(cfg=cfg, log=Logger(cfg)))
    assert "connection_class=<AsyncConnection>: it takes" in capfd.readouterr().err


def test_a_guard_opened_in_the_master_is_warned_about_once(serve: Serve, dsn: str) -> None:
    """And the workers open one of their own all the same."""
    server = serve(SYNC, dsn=dsn, TEST_OPEN_IN_MASTER="1", TEST_WORKERS="2", POOLGUARD_BUDGET="4")
    until(lambda: len(server.lines("Booting worker")) == 2)
    assert server.get("/query").status == 200
    (line,) = server.lines("opened in the gunicorn master")
    assert "WARNING" in line
    assert "'default'" in line
    assert server.status()["acquires"].keys() <= {"acquired"}


# -- in the worker -----------------------------------------------------------------------------


def test_a_worker_that_changes_its_user_opens_after_the_change(
    monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    """Connections and files must belong to the user that it will be."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    cfg = Config()
    cfg.set("user", os.geteuid() + 1)
    worker = worker_of(cfg)
    poolguard.gunicorn.post_fork(None, worker)
    assert guards() == []
    worker.load_wsgi()  # it is that user by now, and hears signals
    (guard,) = guards()
    assert guard.opened
    poolguard.gunicorn.post_worker_init(worker)
    assert guard.ready
    poolguard.gunicorn.worker_exit(None, worker)
    assert not guard.opened


@pytest.mark.parametrize(
    "conninfo", ["host=127.0.0.1 port=1 dbname=shop", "postgresql://[::1/shop"]
)
def test_a_gunicorn_that_ignores_a_failed_startup_is_ended_before_it_hears_of_it(
    conninfo: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before 27 its own ASGI worker served all the same: the pool fails late, and at once."""
    ASGI.must_exist()
    from gunicorn.asgi import lifespan

    for name in ("DATABASE_URL", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delattr(lifespan, "LifespanStartupFailed", raising=False)
    cfg = Config()
    cfg.set("worker_class", "asgi")
    worker = worker_of(cfg)
    poolguard.gunicorn.post_fork(None, worker)
    away: dict[str, Any] = {"warmup_timeout": 0.2, "on_warmup_failure": "exit", "mode": "async"}
    poolguard.Guard(conninfo, budget=2, **away)
    heard: list[str] = []

    async def app(scope: object, receive: object, send: object) -> None:
        """It is not reached."""

    async def serve() -> None:
        middleware = poolguard.asgi.PoolGuardMiddleware(app)
        manager = lifespan.LifespanManager(middleware, worker.log.error_log)
        with suppress(Exception):
            await manager.startup()
        heard.append("and serves")

    with pytest.raises(SystemExit) as ended:
        asyncio.run(serve())
    assert ended.value.code == 3
    assert heard == []
    (line,) = capfd.readouterr().err.splitlines()
    assert "[ERROR] poolguard: " in line


def test_two_guards_warm_up_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both databases are away the worker waits for one warmup_timeout, not for two."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    away: dict[str, Any] = {"warmup_timeout": 1, "mode": "sync", "budget": 2}
    for name in ("one", "two", "three"):
        poolguard.Guard("host=127.0.0.1 port=1 dbname=shop", name=name, **away)
    worker = worker_of(Config())
    began = monotonic()
    begin(worker)
    poolguard.gunicorn.post_worker_init(worker)
    assert 1 <= monotonic() - began < 2
    poolguard.gunicorn.worker_exit(None, worker)


@pytest.mark.parametrize("same", [True, False], ids=["same database", "another"])
def test_a_default_guard_beside_one_of_the_same_database_is_warned_about(
    same: bool, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hook had to open it before the application was there to name its own."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("POOLGUARD_BUDGET", "4")
    worker = worker_of(Config())
    worker.log.error_log.addHandler(caplog.handler)
    begin(worker)
    poolguard.Guard(dsn if same else make_conninfo(dsn, dbname="template1"), name="shop")
    poolguard.gunicorn.post_worker_init(worker)
    poolguard.gunicorn.worker_exit(None, worker)
    said = [record.getMessage() for record in caplog.records if "two pools" in record.getMessage()]
    assert len(said) == same
    assert not same or "'default' was opened" in said[0]
    assert dsn not in str(said)


def test_an_environment_that_the_application_changes_is_followed(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It may read variables from a file as it is imported, after the default guard was opened."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("POOLGUARD_BUDGET", "4")
    worker = worker_of(Config())
    begin(worker)
    monkeypatch.setenv("DATABASE_URL", make_conninfo(dsn, dbname="template1"))
    poolguard.gunicorn.post_worker_init(worker)
    with poolguard.connection() as conn:
        assert conn.info.dbname == "template1"
    poolguard.gunicorn.worker_exit(None, worker)
    assert "it is opened anew" in capfd.readouterr().err


def test_what_says_nothing_of_a_database_opens_none_and_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", "mysql://u:s3cret@db/shop")
    caplog.set_level("INFO")
    worker = worker_of(Config())
    worker.log.error_log.addHandler(caplog.handler)
    poolguard.gunicorn.on_starting(SimpleNamespace(cfg=worker.cfg, log=worker.log))
    for _ in range(2):
        poolguard.gunicorn.post_fork(None, worker)
        poolguard.gunicorn.post_worker_init(worker)
    assert guards() == []
    said = [record.getMessage() for record in caplog.records]
    assert sum("another kind of database (mysql)" in line for line in said) == 1
    assert sum("Set DATABASE_URL, POOLGUARD_DSN" in line for line in said) == 1
    assert "s3cret" not in str(said)


def test_a_later_generation_that_cannot_open_its_pools_does_not_halt_gunicorn(
    dsn: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker that exits as it boots takes the whole service down, which may have run for long."""
    poolguard.Guard(dsn, budget=2, floor=2, workers=1)
    cfg = Config()
    cfg.set("workers", 1)
    guard = poolguard.guard()
    guard.settings = guard.settings.replace(dsn="host=127.0.0.1 port=none")
    for age in (2, 1):
        worker = worker_of(cfg, age=age)
        ended = pytest.raises(SystemExit) if age == 1 else nullcontext()
        poolguard.gunicorn.post_fork(None, worker)
        with ended:
            poolguard.gunicorn.post_worker_init(worker)
        poolguard.gunicorn.worker_exit(None, worker)
        assert "[ERROR] poolguard: " in capfd.readouterr().err


@pytest.mark.parametrize("name", ["worker_int", "worker_abort"])
def test_a_hook_that_runs_in_a_signal_handler_closes_nothing_there(name: str, dsn: str) -> None:
    """What the signal interrupted may hold it; ``worker_exit`` follows."""
    with poolguard.Guard(dsn, mode="sync", budget=2) as guard:
        getattr(poolguard.gunicorn, name)(worker_of(Config()))
        assert guard.opened


def test_a_worker_said_to_exit_in_the_master_closes_nothing_there(dsn: str) -> None:
    """gunicorn calls ``worker_exit`` in the master for a worker that is gone already."""
    with poolguard.Guard(dsn, mode="sync", budget=2) as guard:
        poolguard.gunicorn.worker_exit(None, worker_of(Config(), pid=1))
        assert guard.opened


def test_a_logger_class_without_an_error_log_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DATABASE_URL", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    poolguard.gunicorn.post_fork(None, worker_of(Config(), log=SimpleNamespace()))


def test_a_logger_class_that_answers_everything_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DATABASE_URL", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    poolguard.gunicorn.post_fork(None, worker_of(Config(), log=Mock()))


def test_what_the_hooks_say_is_written_where_gunicorns_logger_is_disabled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a preloaded application that configures logging, and by any other in the worker."""
    ASGI.must_exist()
    monkeypatch.setenv("POOLGUARD_WARMUP_TIMEOUT", "40")
    cfg = Config()
    cfg.set("worker_class", "asgi")
    log = Logger(cfg)
    monkeypatch.setattr(log.error_log, "disabled", True)
    poolguard.gunicorn.on_starting(SimpleNamespace(cfg=cfg, log=log))
    (record,) = caplog.records
    assert "POOLGUARD_WARMUP_TIMEOUT=40" in record.getMessage()


def test_a_driver_that_the_hooks_import_early_is_heard_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An application that configures logging and then imports psycopg would hear it without us."""
    for name in ("DATABASE_URL", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    elder, worker = logging.getLogger("psycopg.elder"), worker_of(Config())
    begin(worker)
    younger, other = logging.getLogger("psycopg.younger"), logging.getLogger("psycopgs.cousin")
    for each in (elder, younger, other):
        monkeypatch.setattr(each, "disabled", True)  # as logging.config does
    poolguard.gunicorn.post_worker_init(worker)
    assert [each.disabled for each in (elder, younger, other)] == [True, False, True]


def test_the_settings_in_the_hooks_are_gunicorns() -> None:
    """The table of arities is gunicorn's own, hook by hook."""
    known = {setting.name: setting for setting in Setting.__subclasses__()}
    for name, arity in poolguard.gunicorn.HOOKS.items():
        assert util.get_arity(known[name].default) == arity


@pytest.mark.parametrize(("door", "waits"), [(ASGI, 25.0), (UVICORN, math.inf), (SYNC, math.inf)])
def test_gunicorns_own_asgi_worker_gives_a_lifespan_30_seconds(
    door: Door, waits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a longer wait would be cut short there, and the application served without its pools."""
    door.must_exist()
    monkeypatch.setenv("POOLGUARD_WARMUP_TIMEOUT", "40")
    said: list[str] = []
    log = SimpleNamespace(warning=lambda line, *values: said.append(line % values))
    cfg = Config()
    cfg.set("worker_class", door.worker_class)
    poolguard.gunicorn.on_starting(SimpleNamespace(cfg=cfg, log=log))
    assert len([line for line in said if "POOLGUARD_WARMUP_TIMEOUT=40" in line]) == (door is ASGI)
    poolguard.gunicorn.post_fork(None, worker_of(cfg))
    assert context.current().longest_wait == waits


@pytest.mark.parametrize("chosen", [None, 0.003], ids=["usual", "the application's own"])
def test_threads_take_turns_sooner_during_the_boot_alone(
    chosen: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that connects are begun while the main thread imports the application."""
    for name in ("DATABASE_URL", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    usual = sys.getswitchinterval()
    worker = worker_of(Config())
    begin(worker)
    assert sys.getswitchinterval() < usual / 10
    if chosen is not None:
        sys.setswitchinterval(chosen)
    poolguard.gunicorn.post_worker_init(worker)
    assert sys.getswitchinterval() == pytest.approx(chosen or usual)


@pytest.mark.parametrize("preload", [False, True])
def test_an_application_is_told_whether_a_master_or_a_worker_imports_it(
    serve: Serve, dsn: str, tmp_path: Path, preload: bool
) -> None:
    """A master that preloads it does so before any hook has run."""
    told = tmp_path / "roles"
    options = {"TEST_ROLES": str(told), **({"TEST_PRELOAD": "json"} if preload else {})}
    server = serve(GTHREAD, dsn, POOLGUARD_BUDGET="3", **options)
    assert server.get("/query").status == 200
    assert told.read_text().split() == ["master" if preload else "worker"]
    assert server.get("/role").body == "worker"


@pytest.mark.parametrize("door", [SYNC, GTHREAD, GEVENT], ids=str)
def test_an_application_that_begins_with_a_part_of_psycopg_can_be_imported(
    door: Door, serve: Serve, dsn: str
) -> None:
    """Two threads that import psycopg, one of them a part of it first, would wait for each other:
    Python lets one go on with what is half imported."""
    server = serve(
        door,
        dsn,
        POOLGUARD_BUDGET="3",
        TEST_IMPORTS="tests.doors.slow_psycopg",
        TEST_BEGINS_WITH="psycopg.rows",
    )
    assert server.get("/query").status == 200
    assert "Traceback" not in server.said()
