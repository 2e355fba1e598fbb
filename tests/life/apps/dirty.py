"""Dirty apps of gunicorn's that use a guard, in processes that poolguard's hooks do not reach."""

from __future__ import annotations

from typing import Any

from gunicorn.dirty import DirtyApp, get_dirty_client, get_dirty_client_async

import poolguard

from ...doors import asgi_app, wsgi_app


class DoesNotOpen(DirtyApp):  # type: ignore[misc] # gunicorn has no types
    """Uses a guard that nobody has opened."""

    def __init__(self) -> None:
        self.guard = poolguard.Guard(name="unopened")

    def ask(self) -> dict[str, Any]:
        """What the guard is like once it has served a query."""
        with self.guard.connection() as conn:
            conn.execute("SELECT 1")
        return self.guard.status()


class Opens(DoesNotOpen):
    """Opens its own as it begins, and closes it as it ends."""

    def __init__(self) -> None:
        self.guard = poolguard.Guard(name="opened")

    def init(self) -> None:
        assert self.guard.open(wait=10)

    def close(self) -> None:
        self.guard.close()


def _asking(kind: type[DirtyApp]) -> None:
    name = f"{__name__}:{kind.__name__}"

    async def aask() -> Any:
        return await (await get_dirty_client_async()).execute_async(name, "ask")

    path = f"dirty-{kind.__name__}"
    wsgi_app.PATHS[path] = lambda: get_dirty_client().execute(name, "ask")
    asgi_app.PATHS[path] = aask


for kind in (DoesNotOpen, Opens):
    _asking(kind)
app, aapp = wsgi_app.app, asgi_app.app
