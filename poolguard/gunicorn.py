"""The gunicorn door: hooks that open each worker's pools and warm them before it accepts traffic.

In gunicorn.conf.py either name them all::

    from poolguard.gunicorn import *

or, where the file defines hooks of its own, chain them at its end::

    import poolguard.gunicorn
    poolguard.gunicorn.install(globals())

What runs when differs between worker classes. ``post_fork`` comes first in all of them, and must
not block: a SIGTERM that arrives meanwhile is lost, since the child still has the arbiter's
handlers. Once it has its own, and before it imports the application, a worker begins to connect.
``post_worker_init`` may wait. A gevent worker is patched in between, and opens there. On SIGTERM a
worker stays until those that were forked after it serve.
Importing this imports neither psycopg nor gunicorn, whose objects are used as they are.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from time import monotonic
from typing import Any, NoReturn

from .budget.plan import known_budget, make_plan
from .errors import PoolguardError
from .runtime.guards import Guard
from .runtime.lookup import guards, guards_to_open, of_environment, spelled_out
from .runtime.preload import forget, import_pool, preload
from .runtime.prewarm import prewarm
from .runtime.usage import announce
from .runtime.warmup import wait_warm
from .settings import Kind, Settings, other_database
from .util.logs import logger
from .util.rarely import Once
from .worker import context, drain, registry
from .worker.classes import (
    ignores_failure,
    is_green,
    longest_lifespan,
    workplace_of,
)
from .worker.context import WorkerContext
from .worker.generations import Generations
from .worker.gevent import insist_that_psycopg_comes_later
from .worker.gunicornlog import borrow_log, hear_psycopg, heard, say
from .worker.hooks import chained, is_read_by_gunicorn, once
from .worker.hurry import hurry, hurry_no_more
from .worker.reload import survive_reloads

HOOKS = {
    "on_starting": 1,
    "pre_fork": 2,
    "post_fork": 2,
    "post_worker_init": 1,
    "worker_int": 1,
    "worker_abort": 1,
    "worker_exit": 2,
    "child_exit": 2,
}
"""Each hook, and how many arguments gunicorn wants it to take."""

# A star import brings the hooks and nothing else. Type checkers read no computed list.
__all__ = [
    "child_exit",
    "on_starting",
    "post_fork",
    "post_worker_init",
    "pre_fork",
    "worker_abort",
    "worker_exit",
    "worker_int",
]

WHEN_ENDING = frozenset({"worker_int", "worker_abort", "worker_exit", "child_exit"})
BOOT_ERROR = 3
"""The exit code by which gunicorn knows that a worker cannot boot, and halts."""
INTERRUPTS = (signal.SIGINT, signal.SIGQUIT)
"""Signals whose handlers, in most workers, raise SystemExit wherever the process is."""


_first_workers: int | None = None
"""How many workers gunicorn started with: those are the first generation."""
_generations: Generations | None = None
"""Which workers still boot; None before the first is forked."""
_warned = Once()
"""The guards that were found open in the master, and warned about."""


@once
def on_starting(server: Any) -> None:
    """In the master, once: refuse settings that cannot work, before anything is forked.

    Processes that no other hook reaches, as gunicorn's dirty workers, inherit how many workers
    there are: a guard opened in one takes no more for its floor than a worker does. Which kind of
    pool it is remains theirs to say.
    """
    global _first_workers  # noqa: PLW0603 - the workers inherit it
    _first_workers = server.cfg.workers
    try:
        _check(server, server.cfg)
    except PoolguardError as error:
        _give_up(server.log, error, 1)


def _check(server: Any, cfg: Any) -> None:
    """Refuse what cannot work, and warn of what hardly does. What a reload has found is not in the
    environment yet: gunicorn puts its ``raw_env`` there afterwards."""
    found = workplace_of(cfg)
    registry.become(WorkerContext(told=found._replace(mode=None), role="master"))
    for guard in spelled_out():
        if kind := found.mode if guard.settings.mode == "auto" else guard.settings.mode:
            guard.arguments.suit(kind)
    for each in _settings_to_check({**os.environ, **cfg.env}):
        if each.warmup_timeout > longest_lifespan(cfg):
            heard(server.log).warning(
                "poolguard: %s is more than this worker class allows, workers wait %g s",
                each.cite("warmup_timeout"),
                longest_lifespan(cfg),
            )
        if known_budget(each) is not None:
            for warning in make_plan(None, each, found).warnings:
                heard(server.log).warning("poolguard: %s", warning)


def _settings_to_check(environ: dict[str, str]) -> list[Settings]:
    known = [each.settings for each in spelled_out()]
    if known and not Settings.has_dsn(environ, beside=True):
        return known
    if other_database(environ) is not None:
        environ.pop("DATABASE_URL", None)  # the application may make the guard that these are for
    return [*known, Settings.build(environ=environ)]


def pre_fork(server: Any, worker: Any) -> None:
    """In the master, before each fork: expect the worker, import what it would import else, and
    close the guards that are open here, by mistake.

    Their connections would serve no request, and their threads are a danger to the child: it has
    for ever what one of them holds at the fork, a module half imported or a lock of libpq's.
    """
    global _generations  # noqa: PLW0603 - the workers inherit it
    _generations = _generations or Generations()
    survive_reloads(server, partial(_check_anew, server, _generations))
    _generations.expect(worker.age)
    _preload(worker.cfg)
    for each in guards():
        if not each.opened:
            continue
        with suppress(PoolguardError):
            _ = each.pool  # waits for the thread that opens it
        each.shut()
        if _warned.is_first(each.name):
            heard(server.log).warning(
                "poolguard %r was opened in the gunicorn master, where it serves no request, and "
                "is closed there. Make the guard where you like, but leave opening it to the hooks",
                each.name,
            )


def _preload(cfg: Any) -> None:
    if is_green(cfg):  # what is to be patched is imported after that
        forget()
        return
    kind = workplace_of(cfg).mode or "sync"
    preload(kind)
    _middleware(kind)


def _check_anew(server: Any, generations: Generations) -> None:
    generations.begin_anew()
    _check(server, server.app.cfg)


@once
def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """In the worker, first of all: have it begin to connect before it imports the application."""
    gc.freeze()  # a collection writes to all that it visits: the master's memory would be copied
    borrow_log(worker.log)
    registry.become(_context(worker))
    if not is_green(worker.cfg):
        worker.load_wsgi = partial(_open_and_load, worker, worker.load_wsgi)
        return
    try:  # it is patched after this, and nothing of psycopg may be imported before
        insist_that_psycopg_comes_later()
    except PoolguardError as error:
        _refuse(worker, error)


def _open_and_load(worker: Any, load: Callable[[], None]) -> None:
    """In the place of the worker's ``load_wsgi``, when it is the user that it will be, and hears
    signals: the pools connect while the application is being imported."""
    try:
        if _known_guards("sync"):
            import_pool("sync")
        _open_sync_guards()
        hurry()
    except PoolguardError as error:
        _refuse(worker, error)
    load()


@once
def post_worker_init(worker: Any) -> None:
    """In the worker, after the import: wait until the pools are warm, or it is time to go on.

    Guards that the application made are opened here. Async ones open in the lifespan.
    """
    if is_green(worker.cfg):
        registry.renew_locks()  # those of before the patch tell no greenlet from another
    hear_psycopg()
    try:
        _follow_environment(worker)
        _open_sync_guards()
        if context.current().workplace.mode == "sync":
            announce()  # in the others the lifespan does
        _warn_of_twins(worker.log)
        began = monotonic()
        for each in guards_to_open(kind="sync"):
            wait_warm(each, began, lambda: not worker.alive, heard(worker.log))
    except PoolguardError as error:
        _refuse(worker, error)
    _wrap(worker)
    if not _known_guards("async"):
        prewarm()  # unless it did while it waited; in the others the lifespan does
    hurry_no_more()
    _leave_when_told(worker)


def worker_int(worker: Any) -> None:
    """In the worker, on SIGINT or SIGQUIT: nothing, ``worker_exit`` follows.

    Most workers call this in a signal handler. What it interrupted may hold the locks that closing
    a pool takes.
    """


def worker_abort(worker: Any) -> None:
    """In the worker, on SIGABRT (it was too slow): nothing, as ``worker_int``."""


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """In the worker, as it ends: close the pools. Where it runs in the master, it does nothing."""
    _close(worker)


@once
def child_exit(server: Any, worker: Any) -> None:
    """In the master, when a worker is gone: say so at debug, for people who count connections."""
    heard(server.log).debug("poolguard: worker %s is gone, and with it its pools", worker.pid)


def install(namespace: MutableMapping[str, Any]) -> None:
    """Add the hooks to gunicorn.conf.py: ``install(globals())``, at the end of the file.

    A hook that the file defines runs as well: before ours when starting, after ours when ending.
    Ours act once, also where the file builds on another one that has installed them.
    """
    for name, arity in HOOKS.items():
        theirs = namespace.get(name)
        ours_first = name in WHEN_ENDING
        namespace[name] = chained(globals()[name], theirs, arity, ours_first=ours_first)


def _context(worker: Any) -> WorkerContext:
    """What this process is, once it is that worker."""
    cfg = worker.cfg
    found = WorkerContext(
        told=workplace_of(cfg),
        role="worker",
        worker_class=cfg.worker_class_str,
        first_generation=_is_first_generation(worker),
        told_to_stop=lambda: not worker.alive,
        stop_server=partial(_stop, worker.log) if ignores_failure(cfg) else None,
        longest_wait=longest_lifespan(cfg),
        longest_stay=cfg.graceful_timeout / 2,  # the other half is for its requests
    )
    if _generations is not None:
        # Those that this worker may replace learn that it boots.
        _generations.boot(worker.age)
        found.first_to_say = _generations.first_to_say
        found.serves = partial(_generations.serve, worker.age)
        found.successors_boot = partial(_generations.boots_after, worker.age)
    return found


def _is_first_generation(worker: Any) -> bool:
    first = worker.cfg.workers if _first_workers is None else _first_workers
    return bool(worker.age <= first)


def _known_guards(kind: Kind | None = None) -> list[Guard]:
    """The guards to open; none where the environment is wrong, which opening them says."""
    try:
        return guards_to_open(kind=kind)
    except PoolguardError:
        return []


def _wrap(worker: Any) -> None:
    """Put the middleware around the application, where none is and a guard is to be opened."""
    found = _known_guards()
    if registry.wrapped or not found or any(each.settings.wrap == "off" for each in found):
        return
    middleware = _middleware("async" if context.current().workplace.mode == "async" else "sync")
    name = "asgi" if hasattr(worker, "asgi") else "wsgi"  # UvicornWorker keeps an ASGI one there
    if (app := getattr(worker, name, None)) is not None:
        setattr(worker, name, middleware.PoolGuardMiddleware(app))


def _middleware(kind: Kind) -> Any:
    """The door that such workers need. The other one is not imported."""
    return import_module(f"{__package__}.{'asgi' if kind == 'async' else 'wsgi'}")


def _open_sync_guards() -> None:
    for each in guards_to_open(kind="sync"):
        if not each.opened:
            each.open()


def _follow_environment(worker: Any) -> None:
    """The application may set variables as it is imported, after the default guard was opened."""
    default = of_environment()
    if default is None or not default.opened:
        return
    if default.settings != Settings.build():
        heard(worker.log).warning(
            "poolguard 'default' was opened by what the environment said before the application "
            "was imported, which has changed it: it is opened anew"
        )
        default.shut()


def _warn_of_twins(log: Any) -> None:
    """The default guard was opened for the database that the application then named differently."""
    default = of_environment()
    if default is None or not default.opened:
        return
    if default not in guards_to_open():
        heard(log).warning(
            "poolguard 'default' was opened from the environment, for the same database as "
            "another guard: two pools, two floors. Leave out the other one's name, so that there "
            "is one, or make that guard in gunicorn.conf.py: then no default one is opened"
        )


def _leave_when_told(worker: Any) -> None:
    """Have SIGTERM heard, and say that the worker serves where its lifespan will not."""
    if longest_lifespan(worker.cfg) < math.inf and hasattr(worker, "handle_exit_signal"):
        # Its loop would call this whatever other handler there is: the loop hears of signals by a
        # file descriptor.
        worker.loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: worker.handle_exit_signal())
    drain.leave_when_told()
    if not _known_guards("async"):
        context.current().serves()  # in the others the lifespan says it, or the first request


def _close(worker: Any) -> None:
    # In the master too a worker may be said to exit; its guards are none of ours to close.
    if worker.pid == os.getpid():
        with _uninterrupted():
            for each in guards():
                try:
                    each.shut()
                except Exception:
                    logger.exception("poolguard %r could not be closed", each.name)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C reaches a worker twice, as SIGINT and as the master's SIGQUIT: the second is not to
    raise in the middle of what the first has led to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.getsignal(number)) for number in INTERRUPTS]
    for number, _ in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _refuse(worker: Any, error: PoolguardError) -> None:
    """End a worker that cannot open its pools. Only one of the first generation: gunicorn halts
    when a worker cannot boot, and a service that runs is not to end by a reload."""
    if _is_first_generation(worker):
        _give_up(worker.log, error, BOOT_ERROR)
    say(worker.log, error)


def _give_up(log: Any, error: PoolguardError, code: int) -> NoReturn:
    """End the process with one clear line for each thing that is wrong, instead of a traceback."""
    say(log, error)
    sys.exit(code)


async def _stop(log: Any, error: Exception) -> None:
    """As ``_give_up``, in a task of a worker that cannot boot.

    The loop exits, since an exit that a task raises is reported as an exception that nobody
    retrieved. It never returns: a worker that hears of the failure first may go on to serve, for
    before Python 3.12 ``wait_for`` returns what it has got even when it is cancelled.
    """
    say(log, error)
    loop = asyncio.get_running_loop()
    loop.call_soon(sys.exit, BOOT_ERROR)
    await loop.create_future()


if is_read_by_gunicorn() and context.role() is None:
    # Before any hook: under ``preload_app`` the master imports the application first.
    registry.become(WorkerContext(role="master"))
