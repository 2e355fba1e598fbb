"""The gunicorn door: hooks that open each worker's pools and warm them before it accepts traffic.

In gunicorn.conf.py either name them all::

    from poolguard.gunicorn import *

or, where the file defines hooks of its own, chain them at its end::

    import poolguard.gunicorn
    poolguard.gunicorn.install(globals())

What runs when differs between worker classes. ``post_fork`` comes first in all of them, before the
application is imported, and must not block: a SIGTERM that arrives meanwhile is lost, since the
child still has the arbiter's handlers. ``post_worker_init`` may wait. A gevent worker is patched in
between, and opens there. On SIGTERM a worker stays until those that were forked after it serve.
Importing this imports neither psycopg nor gunicorn, whose objects are used as they are.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from functools import partial, wraps
from importlib import import_module
from time import monotonic
from typing import Any, NoReturn, TypeVar, cast

from .budget.plan import Workplace, known_budget, make_plan
from .errors import PoolguardError
from .runtime.lookup import guards, guards_to_open, of_environment, spelled_out
from .runtime.prewarm import prewarm
from .runtime.usage import announce
from .runtime.warmup import wait_warm
from .settings import Settings, other_database
from .util.escape import escaped
from .util.logs import logger
from .worker import context, drain, registry
from .worker import gevent as green
from .worker.context import WorkerContext
from .worker.generations import Generations
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

__all__ = [  # noqa: PLE0604 - a star import is to bring the hooks and nothing else
    *HOOKS
]

WHEN_ENDING = frozenset({"worker_int", "worker_abort", "worker_exit", "child_exit"})
BOOT_ERROR = 3
"""The exit code by which gunicorn knows that a worker cannot boot, and halts."""
LONGEST_LIFESPAN = 25.0
"""Seconds. gunicorn's own asgi worker gives the lifespan 30 (asgi/lifespan.py), the application's
startup included, and then serves without, and so without its pools."""
BOOT_INTERVAL = 0.0002
"""Seconds after which, during the boot, a thread gives the interpreter's lock to one that waits."""
INTERRUPTS = (signal.SIGINT, signal.SIGQUIT)
"""Signals whose handlers, in most workers, raise SystemExit wherever the process is."""


_first_workers: int | None = None
"""How many workers gunicorn started with: those are the first generation."""
_generations: Generations | None = None
"""Which workers still boot; None before the first is forked."""
_usual_interval: float | None = None
"""The switch interval before the boot; None where it was left as it is."""
_named_before: frozenset[str] = frozenset()
"""The loggers that existed before this worker opened a pool."""
_warned: set[str] = set()
"""The guards that were found open in the master, and warned about."""

Hook = TypeVar("Hook", bound=Callable[..., None])


def _once(hook: Hook) -> Hook:
    """*hook*, which acts once for each server or worker, however often it is called for that one.

    A gunicorn.conf.py may build on another that names the hooks as well, or call that one's.
    """
    latest: object = None

    @wraps(hook)
    def acting_once(*subjects: Any) -> None:
        nonlocal latest
        if latest is not subjects[-1]:
            latest = subjects[-1]
            hook(*subjects)

    return cast("Hook", acting_once)


@_once
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
    found = _workplace(cfg)
    registry.become(WorkerContext(told=found._replace(mode=None)))
    for guard in spelled_out():
        if kind := found.mode if guard.settings.mode == "auto" else guard.settings.mode:
            guard.arguments.suit(kind)
    for each in _settings_to_check({**os.environ, **cfg.env}):
        if _limits_lifespan(cfg) and each.warmup_timeout > LONGEST_LIFESPAN:
            _heard(server.log).warning(
                "poolguard: %s is more than this worker class allows, workers wait %g s",
                each.cite("warmup_timeout"),
                LONGEST_LIFESPAN,
            )
        if known_budget(each) is not None:
            for warning in make_plan(None, each, found).warnings:
                _heard(server.log).warning("poolguard: %s", warning)


def _settings_to_check(environ: dict[str, str]) -> list[Settings]:
    known = [each.settings for each in spelled_out()]
    if known and not Settings.has_dsn(environ, beside=True):
        return known
    if other_database(environ) is not None:
        environ.pop("DATABASE_URL", None)  # the application may make the guard that these are for
    return [*known, Settings.build(environ=environ)]


def pre_fork(server: Any, worker: Any) -> None:
    """In the master, before each fork: expect the worker, and close the guards that are open here,
    by mistake.

    Their connections would serve no request, and their threads are a danger to the child: it has
    for ever what one of them holds at the fork, a module half imported or a lock of libpq's.
    """
    global _generations  # noqa: PLW0603 - the workers inherit it
    _generations = _generations or Generations()
    survive_reloads(server, partial(_check_anew, server, _generations))
    _generations.expect(worker.age)
    for each in guards():
        if not each.opened:
            continue
        with suppress(PoolguardError):
            _ = each.pool  # waits for the thread that imports psycopg
        each.shut()
        if each.name not in _warned:
            _warned.add(each.name)
            _heard(server.log).warning(
                "poolguard %r was opened in the gunicorn master, where it serves no request, and "
                "is closed there. Make the guard where you like, but leave opening it to the hooks",
                each.name,
            )


def _check_anew(server: Any, generations: Generations) -> None:
    generations.begin_anew()
    _check(server, server.app.cfg)


@_once
def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """In the worker, first of all: begin to connect while the application is being imported."""
    global _named_before  # noqa: PLW0603
    _borrow_log(worker)
    _named_before = frozenset(logging.root.manager.loggerDict)
    registry.become(_context(worker))
    try:
        if _is_green(worker.cfg):
            green.insist_that_psycopg_comes_later()
            return  # it is patched after this, and nothing of psycopg may be imported before
        if _drops_privileges(worker.cfg):
            return  # connections and files must belong to the user that the worker will be
        _open_sync_guards()
        _hurry()
    except PoolguardError as error:
        _refuse(worker, error)


@_once
def post_worker_init(worker: Any) -> None:
    """In the worker, after the import: wait until the pools are warm, or it is time to go on.

    Guards that the application made are opened here. Async ones open in the lifespan.
    """
    if _is_green(worker.cfg):
        registry.renew_locks()  # those of before the patch tell no greenlet from another
    _hear_psycopg()
    try:
        _follow_environment(worker)
        _open_sync_guards()
        if context.current().workplace.mode == "sync":
            announce()  # in the others the lifespan does
        _warn_of_twins(worker.log)
        began = monotonic()
        for each in guards_to_open(kind="sync"):
            wait_warm(each, began, lambda: not worker.alive, _heard(worker.log))
    except PoolguardError as error:
        _refuse(worker, error)
    if not _has_async_guard():
        prewarm()  # unless it did while it waited; in the others the lifespan does
    _hurry_no_more()
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


@_once
def child_exit(server: Any, worker: Any) -> None:
    """In the master, when a worker is gone: say so at debug, for whoever counts connections."""
    _heard(server.log).debug("poolguard: worker %s is gone, and with it its pools", worker.pid)


def install(namespace: MutableMapping[str, Any]) -> None:
    """Add the hooks to gunicorn.conf.py: ``install(globals())``, at the end of the file.

    A hook that the file defines runs as well: before ours when starting, after ours when ending.
    Ours act once, also where the file builds on another one that has installed them.
    """
    for name, arity in HOOKS.items():
        ours = globals()[name]
        theirs = _found(namespace.get(name))
        if theirs is None or theirs is ours:
            namespace[name] = ours
        elif not callable(theirs) or _arity(theirs) != arity:
            pass  # no hook: gunicorn refuses it, and says why
        elif name in WHEN_ENDING:
            namespace[name] = _chain(ours, theirs, arity)
        else:
            namespace[name] = _chain(theirs, ours, arity)


def _found(hook: Any) -> Any:
    """gunicorn takes a hook by its name too: ``"package.module.function"``."""
    if not isinstance(hook, str):
        return hook
    home, _, name = hook.rpartition(".")
    try:
        return getattr(import_module(home), name)
    except (ImportError, AttributeError, ValueError):
        return hook


def _arity(hook: Callable[..., Any]) -> int:
    """As gunicorn counts, which refuses a hook that takes more or fewer than it passes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds for each in inspect.signature(hook).parameters.values())


def _chain(first: Callable[..., Any], then: Callable[..., Any], arity: int) -> Callable[..., Any]:
    """Both hooks as one that takes as many arguments."""
    if arity == 1:

        def one(subject: Any) -> None:
            first(subject)
            then(subject)

        return one

    def two(server: Any, worker: Any) -> None:
        first(server, worker)
        then(server, worker)

    return two


def _context(worker: Any) -> WorkerContext:
    """What this process is, once it is that worker."""
    cfg = worker.cfg
    found = WorkerContext(
        told=_workplace(cfg),
        worker_class=cfg.worker_class_str,
        first_generation=_is_first_generation(worker),
        told_to_stop=lambda: not worker.alive,
        stop_server=partial(_stop, worker.log) if _ignores_failure(cfg) else None,
        longest_wait=LONGEST_LIFESPAN if _limits_lifespan(cfg) else math.inf,
        longest_stay=cfg.graceful_timeout / 2,  # the other half is for its requests
    )
    if _generations is not None:
        # Those that this worker may replace learn that it boots.
        _generations.boot(worker.age)
        found.first_to_say = _generations.first_to_say
        found.serves = partial(_generations.serve, worker.age)
        found.successors_boot = partial(_generations.boots_after, worker.age)
    return found


def _workplace(cfg: Any) -> Workplace:
    """What gunicorn's configuration says of its workers."""
    ancestry = {base.__name__ for base in cfg.worker_class.__mro__}
    is_async = bool(ancestry & {"ASGIWorker", "UvicornWorker"})
    at_once = 10
    if "ThreadWorker" in ancestry:
        at_once = cfg.threads
    elif "SyncWorker" in ancestry:
        at_once = 1
    bounded = bool(ancestry & {"ThreadWorker", "SyncWorker"})
    return Workplace(cfg.workers, at_once, "async" if is_async else "sync", bounded)


def _limits_lifespan(cfg: Any) -> bool:
    return any(base.__name__ == "ASGIWorker" for base in cfg.worker_class.__mro__)


def _ignores_failure(cfg: Any) -> bool:
    """Before gunicorn 27 its own ASGI worker took a failed startup for an application without
    lifespan and served; with ``asgi_lifespan = "on"`` its workers ended and were begun for ever.
    """
    if not _limits_lifespan(cfg):
        return False
    return not hasattr(import_module("gunicorn.asgi.lifespan"), "LifespanStartupFailed")


def _is_green(cfg: Any) -> bool:
    return any(base.__name__ == "GeventWorker" for base in cfg.worker_class.__mro__)


def _drops_privileges(cfg: Any) -> bool:
    return bool(cfg.uid != os.geteuid() or cfg.gid != os.getegid())


def _is_first_generation(worker: Any) -> bool:
    first = worker.cfg.workers if _first_workers is None else _first_workers
    return bool(worker.age <= first)


def _has_async_guard() -> bool:
    """A middleware or lifespan has something to open."""
    try:
        return bool(guards_to_open(kind="async"))
    except PoolguardError:
        return False  # what is wrong with the environment is said where they are opened


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
        _heard(worker.log).warning(
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
        _heard(log).warning(
            "poolguard 'default' was opened from the environment, for the same database as "
            "another guard: two pools, two floors. Leave out the other one's name, so that there "
            "is one, or make that guard in gunicorn.conf.py: then no default one is opened"
        )


def _hurry() -> None:
    """Let the opening thread have its turns while the main one imports the application.

    It reads modules and waits for the network, and after each has to ask an importing thread for
    the interpreter's lock, which takes a switch interval: of 5 ms, by default. A connect then
    began after half a second of import.
    """
    global _usual_interval  # noqa: PLW0603
    _usual_interval = sys.getswitchinterval()
    sys.setswitchinterval(BOOT_INTERVAL)


def _hurry_no_more() -> None:
    if _usual_interval is not None and abs(sys.getswitchinterval() - BOOT_INTERVAL) < 1e-6:
        sys.setswitchinterval(_usual_interval)  # unless the application has chosen one


def _leave_when_told(worker: Any) -> None:
    """Have SIGTERM heard, and say that the worker serves where its lifespan will not."""
    if _limits_lifespan(worker.cfg) and hasattr(worker, "handle_exit_signal"):
        # Its loop would call this whatever other handler there is: the loop hears of signals by a
        # file descriptor.
        worker.loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: worker.handle_exit_signal())
    drain.leave_when_told()
    if not _has_async_guard():
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


def _borrow_log(worker: Any) -> None:
    """Have poolguard's own log records written where gunicorn writes its own.

    Only while nobody has configured anything else: they would be lost otherwise, or reach standard
    error without a time.
    """
    theirs = getattr(worker.log, "error_log", None)
    if isinstance(theirs, logging.Logger):  # a logger_class need not have it
        logger.borrow(theirs)


def _hear_psycopg() -> None:
    """Have psycopg's log records written, as they were if the application had imported it.

    These hooks import it earlier, and a configuration of logging disables the loggers it finds.
    """
    for name, each in list(logging.root.manager.loggerDict.items()):
        is_new = name.partition(".")[0] == "psycopg" and name not in _named_before
        if is_new and isinstance(each, logging.Logger):
            each.disabled = False


def _heard(log: Any) -> Any:
    """*log*, gunicorn's; ours where the application's configuration of logging has disabled it."""
    theirs = getattr(log, "error_log", None)
    return logger if isinstance(theirs, logging.Logger) and theirs.disabled else log


def _refuse(worker: Any, error: PoolguardError) -> None:
    """End a worker that cannot open its pools. Only one of the first generation: gunicorn halts
    when a worker cannot boot, and a service that runs is not to end by a reload."""
    if _is_first_generation(worker):
        _give_up(worker.log, error, BOOT_ERROR)
    _say(worker.log, error)


def _give_up(log: Any, error: PoolguardError, code: int) -> NoReturn:
    """End the process with one clear line for each thing that is wrong, instead of a traceback."""
    _say(log, error)
    sys.exit(code)


async def _stop(log: Any, error: Exception) -> None:
    """As ``_give_up``, in a task of a worker that cannot boot.

    The loop exits, since an exit that a task raises is reported as an exception that nobody
    retrieved. It never returns: a worker that hears of the failure first may go on to serve, for
    before Python 3.12 ``wait_for`` returns what it has got even when it is cancelled.
    """
    _say(log, error)
    loop = asyncio.get_running_loop()
    loop.call_soon(sys.exit, BOOT_ERROR)
    await loop.create_future()


def _say(log: Any, error: Exception) -> None:
    for line in str(error).split("\n"):
        _heard(log).error("poolguard: %s", escaped(line.removeprefix("poolguard ")))
