"""Reloads of gunicorn's configuration: they make its file's guards anew, and end no running master.

On SIGHUP gunicorn runs its file again in the master, and exits where that fails. But the service
runs, and can go on with the configuration that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import registry

__all__ = ["survive_reloads"]


def survive_reloads(server: Any, check: Callable[[], None]) -> None:
    """Have a configuration that cannot be loaded, or that *check* refuses, leave that of before.

    Told in the master. *check* is called with the new configuration in place.
    """
    app = server.app
    load = app.reload
    if getattr(load, "survives", False):
        return

    def reload() -> None:
        cfg = app.cfg
        before = registry.begin_file()
        try:
            load()
            registry.end_file()
            check()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - gunicorn exits for what is wrong
            app.cfg = cfg
            registry.restore(before)
            said = "poolguard: the new configuration is not used, and the one of before stays: %s"
            why = "gunicorn has said why" if isinstance(error, SystemExit) else str(error)
            for line in why.splitlines():
                server.log.error(said, line)  # noqa: TRY400 - the line says it all

    reload.survives = True  # type: ignore[attr-defined]
    app.reload = reload
