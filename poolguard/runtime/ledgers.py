"""Which ledger a guard takes part in, and under which name.

The name follows from the server, so that all guards of it on this host meet in one file.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from socket import gethostname
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..budget.fallback import FallbackLedger
from ..budget.host.ledger import HostLedger
from ..budget.ledger import Ledger
from ..budget.static import StaticLedger
from ..budget.terms import Scope
from ..errors import RuntimeDirError
from ..settings import Settings
from ..util.conninfo_location import (
    database_name,
    ledger_name,
    located,
    session_of,
)
from ..util.logs import logger
from ..util.rundir import RuntimeDir
from ..worker import context
from .control import control_connect, sits_in_slots

if TYPE_CHECKING:
    from ..budget.fleet.ledger import FleetLedger

__all__ = ["open_ledger"]


def open_ledger(
    name: str, settings: Settings, kwargs: Mapping[str, Any] | Callable[[], Any] | None
) -> tuple[Ledger, dict[str, str]]:
    """The ledger for the guard called *name*, and what status says of it: its kind, and the name
    that all guards of the same database have in common.

    A process that cannot use the runtime folder shares nothing, and a warning says so.
    """
    dsn = located(settings.dsn, kwargs)
    named = {"kind": settings.ledger, "name": database_name(dsn, name)}
    if settings.ledger == "static":
        return StaticLedger(1), named
    workers = settings.workers
    if workers == "auto":
        workers = context.current().workplace.workers
    if settings.ledger == "fleet":
        return _of_fleet(name, settings, workers, dsn, kwargs), named
    of_server = ledger_name(dsn, name)
    try:
        # Only a callable that says so is known to keep to the role of the connection string.
        may_change = callable(kwargs) and getattr(kwargs, "may_change_role", True)
        return _of_host(settings, of_server, workers, dsn, may_change), named
    except RuntimeDirError as error:
        logger.warning(
            "poolguard %r: %s. Until this process is started again it shares nothing, and "
            "holds no more than an equal part of the budget",
            name,
            error,
        )
    return FallbackLedger(settings.runtime_dir, of_server, workers=workers), {
        **named,
        "kind": "static",
    }


def _of_host(
    settings: Settings, name: str, workers: int, dsn: Any, role_may_change: bool
) -> HostLedger:
    folder = RuntimeDir(settings.runtime_dir)
    try:
        database, role = session_of(dsn)
        scope = Scope.of(database, "" if role_may_change else role)
        return HostLedger(folder, name, workers=workers, scope=scope)
    except BaseException:
        folder.close()
        raise


def _of_fleet(guard: str, settings: Settings, workers: int, dsn: Any, kwargs: Any) -> FleetLedger:
    """The ledger of a fleet. The processes of this host share one control session where they agree
    on the database that has the fleet's ledger, and on the label."""
    # Here: gunicorn's master, and hosts that share nothing, need nothing of it.
    from ..budget.fleet.keeper import FleetSettings
    from ..budget.fleet.ledger import FleetLedger

    at = dsn if settings.ledger_dsn is None else settings.ledger_dsn
    whose = settings.ledger_label or f"\0{session_of(at)[1]}"  # a label, or by default a role
    name = f"{database_name(at, guard)}-{crc32(whose.encode(errors='surrogateescape')):08x}"
    fleet = FleetSettings(
        control_connect(settings, kwargs),
        settings.ledger_label,
        gethostname(),
        pooled=settings.pooler == "session",
    )
    folder = _folder(settings)
    try:
        database, role = session_of(dsn)
        return FleetLedger(
            folder,
            name,
            workers=workers,
            fleet=fleet,
            scope=Scope.of(database, role),
            seats=sits_in_slots(settings, kwargs),
        )
    except BaseException:
        folder.close()
        raise


def _folder(settings: Settings) -> RuntimeDir:
    """The runtime folder. To a fleet, a process that cannot use it is a host of its own."""
    try:
        return RuntimeDir(settings.runtime_dir)
    except RuntimeDirError as error:
        try:
            own = Path(mkdtemp(prefix="poolguard-alone-"))
        except OSError:
            raise error from None
        atexit.register(rmtree, own, ignore_errors=True)
        logger.warning(
            "poolguard: %s. Until this process is started again it shares nothing with this "
            "host's others, and is a host of its own to the fleet",
            error,
        )
        return RuntimeDir(own)
