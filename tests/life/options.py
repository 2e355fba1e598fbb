"""Events of the matrix: gunicorn's options, each of which works or is refused with a clear line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from ..doors.server import GEVENT, GTHREAD, SYNC, UVICORN, Server
from ..support import until
from .stage import Event, Stage
from .watching import WITHIN, Master, Traffic, census, free_port

__all__ = ["EVENTS"]


def floor_of(stage: Stage) -> int:
    return 1 if stage.door is SYNC else 3


def _app(stage: Stage) -> str:
    """The name of the application that suits the worker class."""
    return "aapp" if stage.door.is_async else "app"


def _warm_only(server: Server, n: int = 0) -> int:
    """How many requests there were, at least *n*; none of them created or waited."""
    until(lambda: len(server.server_spans("/query")) >= n)  # a span may end after the response
    outcomes = [span.tags.get("outcome") for span in server.server_spans("/query")]
    assert set(outcomes) == {"acquired"}, outcomes
    return len(outcomes)


def preloaded(stage: Stage) -> str:
    """preload_app: guards made at import, in the master, are inert there and open in the workers.

    Under gevent psycopg may not be imported with them, and these do not.
    """
    floor = floor_of(stage)
    with stage.network() as network, census(stage) as counted:
        server = stage.serve(
            stage.dsn(network),
            door=replace(stage.door, app=f"tests.life.apps.made:{_app(stage)}"),
            POOLGUARD_BUDGET=str(4 * floor),
            POOLGUARD_FLOOR=str(floor),
            TEST_WORKERS="2",
            TEST_OPTIONS=json.dumps({"preload_app": True}),
        )
        master = Master(server)
        master.until_warm(2, floor)
        assert counted.peak == 2 * floor
        for _ in range(10):
            assert server.get("/query").status == 200
        assert server.stop()[0] == 0
    assert not server.lines("opened in the gunicorn master")
    assert not server.lines("Traceback")
    assert stage.backends() == []
    return f"{_warm_only(server, 10)} acquired"


def changed_on_disk(stage: Stage) -> str:
    """reload: a module of the application changes, and a worker that has read it anew is warm.

    uvicorn's worker does not look at what the reloader sets: without poolguard too it says that it
    reloads, and serves on.
    """
    if stage.door is UVICORN:
        return "–"
    folder = Path(mkdtemp(dir=stage.folder))
    source = f"from {stage.door.app.partition(':')[0]} import app as app\nVERSION = 1\n"
    module = folder / "changing.py"
    module.write_text(source)
    floor = floor_of(stage)
    with stage.network() as network, census(stage) as counted:
        server = stage.serve(
            stage.dsn(network),
            door=replace(stage.door, app="changing:app"),
            POOLGUARD_BUDGET=str(2 * floor),
            POOLGUARD_FLOOR=str(floor),
            TEST_OPTIONS=json.dumps({"reload": True, "pythonpath": str(folder)}),
        )
        master = Master(server)
        master.until_warm(1, floor)
        old = master.workers()
        with Traffic(server.port, clients=1) as traffic:
            traffic.until_more()
            module.write_text(source.replace("1", "2"))
            os.utime(module, (0, 2_000_000_000))  # the reloader compares the times alone
            master.until_workers(1, without=old)
            traffic.until_more()
        assert traffic.refused(stage.door) == [], server.said()
        master.until_warm(1, floor)
        assert counted.peak <= 2 * floor
    assert len(server.lines("changing.py modified")) == 1
    assert not server.lines("Traceback")
    return f"stall {traffic.stall():.1f} s"


def turned_over(stage: Stage) -> str:
    """max_requests: worker after worker is replaced, and each finds its pool warm."""
    floor = floor_of(stage)
    budget = 2 * floor
    with stage.network() as network, census(stage) as counted:
        server = stage.serve(
            stage.dsn(network),
            POOLGUARD_BUDGET=str(budget),
            POOLGUARD_FLOOR=str(floor),
            TEST_WORKERS="2",
            TEST_OPTIONS=json.dumps({"max_requests": 8, "max_requests_jitter": 4}),
        )
        master = Master(server)
        master.until_warm(2, floor)
        with Traffic(server.port) as traffic:
            until(lambda: len(server.lines("Booting worker")) >= 8, within=WITHIN)
            traffic.until_more(5)
        assert traffic.refused(stage.door) == [], server.said()
    assert counted.peak <= budget
    assert not server.lines("Traceback")
    turnovers = len(server.lines("Booting worker")) - 2
    return f"{turnovers} turnovers, {_warm_only(server, 10)} acquired"


def reused_port(stage: Stage) -> str:
    """reuse_port: each worker listens for itself."""
    floor = floor_of(stage)
    with stage.network() as network:
        server = stage.serve(
            stage.dsn(network),
            port=free_port(),
            POOLGUARD_BUDGET=str(4 * floor),
            POOLGUARD_FLOOR=str(floor),
            TEST_WORKERS="2",
            TEST_OPTIONS=json.dumps({"reuse_port": True}),
        )
        Master(server).until_warm(2, floor)
        # A worker listens before it is warm, and clients wait in its backlog.
        until(lambda: len({server.status()["pid"] for _ in range(8)}) == 2)
        for _ in range(10):
            assert server.get("/query").status == 200
        assert server.stop()[0] == 0
    assert not server.lines("Traceback")
    return f"{_warm_only(server, 10)} acquired"


def more_threads(stage: Stage) -> str:
    """gthread: more threads than the floor has connections, which is said; all are served."""
    if stage.door is not GTHREAD:
        return "–"
    with stage.network() as network, census(stage) as counted:
        server = stage.serve(
            stage.dsn(network),
            door=replace(stage.door, threads=8),
            POOLGUARD_BUDGET="4",
            POOLGUARD_FLOOR="2",
        )
        for _ in range(4):
            answers = server.get_together(*["/query"] * 8)
            assert [answer.status for answer in answers] == [200] * 8
        outcomes = server.status()["acquires"]
    assert sum(outcomes.values()) == 32
    assert counted.peak <= 4
    (line,) = server.lines("a worker handles 8 requests at once but holds at most 4 connections")
    assert "WARNING" in line
    return ", ".join(f"{n} {each}" for each, n in sorted(outcomes.items()))


def several_guards(stage: Stage) -> str:
    """A primary, a replica and a sync guard beside async ones: each warm, closed, in its budget."""
    with stage.network() as network:
        dsn = stage.dsn(network)
        server = stage.serve(
            dsn,
            door=replace(stage.door, app=f"tests.life.apps.several:{_app(stage)}"),
            TEST_REPLICA=stage.postgres.conninfo(
                host=network.host,
                port=network.port,
                application_name=stage.name,
                dbname="template1",
            ),
        )
        for _ in range(10):
            answer = server.get("/query")
            assert answer.status == 200, server.said()
            assert answer.body[1] == "template1" != answer.body[0] == answer.body[2]
        found = server.get("/statuses").body
        assert server.stop()[0] == 0
    kinds = {name: status["mode"] for name, status in found.items() if name != "default"}
    own = "async" if stage.door.is_async else "sync"
    assert kinds == {"primary": own, "replica": own, "in threads": "sync"}
    for name, each in found.items():
        assert each["acquires"] == ({} if name == "default" else {"acquired": 10}), each
    assert stage.backends() == []
    assert not server.lines("Traceback")
    return ", ".join(found)


def opened_in_the_master(stage: Stage) -> str:
    """By mistake: it is said once, and closed; the workers open pools of their own. gevent is
    refused."""
    floor = floor_of(stage)
    workers = 1 if stage.door is GEVENT else 2
    server = stage.serve(
        stage.dsn(),
        POOLGUARD_BUDGET=str(workers * floor),  # nothing of it is left to the master
        POOLGUARD_FLOOR=str(floor),
        TEST_WORKERS=str(workers),
        TEST_OPEN_IN_MASTER="1",
    )
    if stage.door is GEVENT:  # whose psycopg must not be imported in the master
        assert server.wait() == 3
        assert server.lines("psycopg was imported before this gevent worker was patched")
        assert not server.lines("Traceback")
        return "refused"
    Master(server).until_warm(workers, floor)
    for _ in range(10):
        assert server.get("/query").status == 200
    (line,) = server.lines("opened in the gunicorn master")
    assert "WARNING" in line
    assert not server.lines("Traceback")
    return f"{_warm_only(server, 10)} acquired"


def dirty_workers(stage: Stage) -> str:
    """gunicorn's dirty workers, which no hook of poolguard's reaches: a guard that the dirty app
    has not opened says so, and one that it has works, within the same budget."""
    door = replace(stage.door, app=f"tests.life.apps.dirty:{_app(stage)}")
    budget = 8 * door.threads
    apps = [f"tests.life.apps.dirty:{kind}" for kind in ("Opens", "DoesNotOpen")]
    with census(stage) as counted:
        server = stage.serve(
            stage.dsn(),
            door=door,
            POOLGUARD_BUDGET=str(budget),
            TEST_WORKERS="2",
            TEST_OPTIONS=json.dumps(
                {
                    "dirty_apps": apps,
                    "dirty_workers": 1,
                    "proc_name": Path(mkdtemp(dir=stage.folder)).name,  # names a pid file
                }
            ),
        )
        master = Master(server)
        until(lambda: server.lines("Dirty worker"), within=WITHIN)
        floor = server.status()["floor"]
        master.until_warm(2, floor)
        opened = server.get("/dirty-Opens")
        unopened = server.get("/dirty-DoesNotOpen")
        assert server.get("/query").status == 200
        assert server.stop()[0] == 0
    assert "the guard 'unopened' is not open in this process" in unopened.body
    assert opened.status == 200, opened.body
    assert opened.body["ready"]
    assert opened.body["floor"] == floor, "what one of the workers has"
    assert stage.backends() == []
    assert floor <= counted.peak <= budget
    return "refused, works"


EVENTS: Mapping[str, Event] = {
    "preload_app": preloaded,
    "reload": changed_on_disk,
    "max_requests": turned_over,
    "reuse_port": reused_port,
    "more threads": more_threads,
    "several guards": several_guards,
    "open in master": opened_in_the_master,
    "dirty workers": dirty_workers,
}
