"""The gunicorn door: hooks that open each worker's pools and warm them before it accepts traffic.

In gunicorn.conf.py either name them all::

    from poolguard.gunicorn import *

or, where the file defines hooks of its own, chain them at its end::

    import poolguard.gunicorn
    poolguard.gunicorn.install(globals())

What runs when differs between worker classes. ``post_fork`` comes first in all of them, before the
application is imported, and must not block: a SIGTERM that arrives meanwhile is lost, since the
child still has the arbiter's handlers. ``post_worker_init`` may wait. Nothing here imports psycopg
or gunicorn: gunicorn's objects are used as they are.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from time import monotonic
from typing import Any

from . import registry
from .budget.plan import Workplace, known_budget, make_plan
from .errors import PoolguardError
from .guards import Guard, guard
from .settings import Settings

HOOKS = (
    "on_starting",
    "pre_fork",
    "post_fork",
    "post_worker_init",
    "worker_int",
    "worker_abort",
    "worker_exit",
    "child_exit",
)

__all__ = [  # noqa: PLE0604 - a star import is to bring the hooks and nothing else
    *HOOKS
]

WHEN_ENDING = frozenset({"worker_int", "worker_abort", "worker_exit", "child_exit"})
BOOT_ERROR = 3
"""The exit code by which gunicorn knows that a worker cannot boot, and halts."""
POLL = 0.05
"""Seconds between two looks at whether the worker was told to stop while it warms up."""

logger = logging.getLogger("poolguard")


def on_starting(server: Any) -> None:
    """In the master, once: refuse settings that cannot work, before anything is forked."""
    try:
        settings = [known.settings for known in registry.guards()] or [Settings.build()]
        found = _workplace(server.cfg)
        for each in settings:
            if known_budget(each) is not None:
                make_plan(None, each, found)
    except PoolguardError as error:
        _give_up(server.log, error, 1)


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """In the master, before each fork: a guard that is open here would be useless in the child."""
    for each in registry.guards():
        if each.opened:
            server.log.warning(
                "poolguard %r was opened in the gunicorn master: its connections serve no request. "
                "Make the guard where you like, but leave opening it to the hooks",
                each.name,
            )


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """In the worker, first of all: begin to connect while the application is being imported."""
    _borrow_log(worker)
    registry.set_workplace(_workplace(worker.cfg))
    if _drops_privileges(worker.cfg):
        return  # connections and files must belong to the user that the worker will be
    if not registry.guards() and Settings.has_dsn():
        guard()
    _open_sync_guards()


def post_worker_init(worker: Any) -> None:
    """In the worker, after the import: wait until the pools are warm, or it is time to go on.

    Guards that the application made are opened here. Async ones open in the lifespan.
    """
    try:
        _open_sync_guards()
        for each in _sync_guards():
            _warm(worker, each)
    except PoolguardError as error:
        _give_up(worker.log, error, BOOT_ERROR)


def worker_int(worker: Any) -> None:
    """In the worker, on SIGINT or SIGQUIT: close the pools."""
    _close(worker)


def worker_abort(worker: Any) -> None:
    """In the worker, on SIGABRT (it was too slow): close the pools."""
    _close(worker)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """In the worker, as it ends: close the pools. Where it runs in the master, it does nothing."""
    _close(worker)


def child_exit(server: Any, worker: Any) -> None:
    """In the master, when a worker is gone: say so at debug, for whoever counts connections."""
    server.log.debug("poolguard: worker %s is gone, and with it its pools", worker.pid)


def install(namespace: MutableMapping[str, Any]) -> None:
    """Add the hooks to gunicorn.conf.py: ``install(globals())``, at the end of the file.

    A hook that the file defines runs as well: before ours when starting, after ours when ending.
    """
    for name in HOOKS:
        ours = globals()[name]
        theirs = namespace.get(name)
        if theirs is None or theirs is ours:
            namespace[name] = ours
        elif name in WHEN_ENDING:
            namespace[name] = _chain(ours, theirs, name)
        else:
            namespace[name] = _chain(theirs, ours, name)


def _chain(first: Callable[..., Any], then: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Both hooks as one. gunicorn checks how many arguments a hook takes, so the count is kept."""
    if name in ("on_starting", "post_worker_init", "worker_int", "worker_abort"):

        def one(subject: Any) -> None:
            first(subject)
            then(subject)

        return one

    def two(server: Any, worker: Any) -> None:
        first(server, worker)
        then(server, worker)

    return two


def _workplace(cfg: Any) -> Workplace:
    """What gunicorn's configuration says of its workers."""
    ancestry = {base.__name__ for base in cfg.worker_class.__mro__}
    is_async = bool(ancestry & {"ASGIWorker", "UvicornWorker"})
    at_once = 10
    if "ThreadWorker" in ancestry:
        at_once = cfg.threads
    elif "SyncWorker" in ancestry:
        at_once = 1
    return Workplace(cfg.workers, at_once, "async" if is_async else "sync")


def _drops_privileges(cfg: Any) -> bool:
    return bool(cfg.uid != os.geteuid() or cfg.gid != os.getegid())


def _sync_guards() -> list[Guard]:
    return [each for each in registry.guards() if each.mode == "sync"]


def _open_sync_guards() -> None:
    for each in _sync_guards():
        if not each.opened:
            each.open()


def _warm(worker: Any, each: Guard) -> None:
    """Wait for one guard to be warm, within its time, and as long as nobody stops the worker."""
    began = monotonic()
    until = began + each.settings.warmup_timeout
    while not each.wait_warm(min(POLL, max(0.0, until - monotonic()))):
        if not worker.alive:
            return
        if monotonic() >= until:
            break
    else:
        status = each.status()
        worker.log.info(
            "poolguard %r is warm: %s connections, waited for %.0f ms",
            each.name,
            status["idle"],
            (monotonic() - began) * 1e3,
        )
        return
    if each.settings.on_warmup_failure == "exit" and worker.age <= worker.cfg.workers:
        raise PoolguardError(each.not_warm())
    worker.log.warning("%s", each.not_warm())


def _close(worker: Any) -> None:
    # In the master too a worker may be said to exit; its guards are none of ours to close.
    if worker.pid == os.getpid():
        for each in registry.guards():
            each.close()


def _borrow_log(worker: Any) -> None:
    """Have poolguard's own log records written where gunicorn writes its own.

    Only where nobody has configured anything else: they would be lost otherwise, or reach standard
    error without a time.
    """
    if not logger.handlers and not logging.getLogger().handlers:
        logger.handlers = list(worker.log.error_log.handlers)
        logger.setLevel(worker.log.error_log.level)
        logger.propagate = False


def _give_up(log: Any, error: PoolguardError, code: int) -> None:
    """End the process with one clear line instead of a traceback."""
    log.error("poolguard: %s", error)
    sys.exit(code)
