"""The plugin that ``create_engine(…, plugins=["poolguard"])`` loads, and the guard of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy.engine import URL, CreateEnginePlugin, Engine

from ..errors import SettingsError
from ..runtime.adoption import in_each_worker
from ..runtime.guards import Guard
from ..settings import Settings
from .engines import Binding, binding_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["PoolGuardPlugin", "guard"]

ASIDE = ("poolclass", "pool", "creator")
"""Arguments by which the user chooses another way to connect."""
SWALLOWED = (
    *("pool_size", "max_overflow", "pool_timeout", "pool_recycle", "pool_use_lifo"),
    "pool_pre_ping",
)
"""Arguments of SQLAlchemy's own pool that say what the guard decides."""
ENGINES = frozenset({"dsn", "mode", "configure", "kwargs", "connection_class"})
"""What a guard takes and an engine says already."""
DRIVERS = ("psycopg", "psycopg_async")


class PoolGuardPlugin(CreateEnginePlugin):
    """Has an engine's connections come from a guard, in gunicorn's workers."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        self._settings = kwargs.pop("poolguard", None)
        given = kwargs.get("connect_args") or {}
        self._stands_aside = (
            url.get_backend_name() != "postgresql"
            or any(kwargs.get(name) is not None for name in ASIDE)
            or "async_creator_fn" in given
        )
        if self._stands_aside:
            return
        _insist_on_psycopg(url)
        self._settings = _checked(self._settings)
        self._connect_args = dict(given)
        self._swallowed = tuple(name for name in SWALLOWED if kwargs.get(name) is not None)

    def update_url(self, url: URL) -> URL:
        """As it is: SQLAlchemy takes ``plugin=`` out itself."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Called by SQLAlchemy, last of all."""
        if self._stands_aside or binding_of(engine) is not None:
            return
        _, arguments = engine.dialect.create_connect_args(engine.url)
        connect = {**arguments, **self._connect_args}
        in_each_worker(Binding(engine, connect, self._settings, self._swallowed).for_worker)


def guard(engine: Engine | AsyncEngine) -> Guard:
    """The guard of an engine, made where there is none yet.

    For a process that is no worker of gunicorn's, such as Celery's, or a script: within
    ``with guard(engine):`` (``async with`` for an async engine) the engine's connections are a
    warm pool's, within the budget; before and after they are those of the engine's own pool.

    Raises :exc:`~poolguard.errors.SettingsError` where the engine was made without the plugin.
    """
    of_sync: Any = getattr(engine, "sync_engine", engine)
    found = binding_of(getattr(of_sync, "_proxied", of_sync))
    if found is None:
        raise SettingsError(
            f"{engine!r} has no guard: make it with create_engine(…, plugins=['poolguard']) and a "
            f"postgresql+psycopg:// URL, without poolclass, pool and creator"
        )
    return found.bound()


def _insist_on_psycopg(url: URL) -> None:
    driver = url.get_driver_name()
    if driver not in DRIVERS:
        remedy = "psycopg_async" if driver == "asyncpg" else "psycopg"
        raise exc.ArgumentError(
            f"poolguard lends connections of psycopg, and the engine's URL asks for {driver}: "
            f"write postgresql+{remedy}:// in the place of {url.drivername}://, or leave out "
            f"plugins=['poolguard']"
        )


def _checked(given: Any) -> dict[str, Any]:
    """The settings that an engine was given for its guard. Raises
    :exc:`~poolguard.errors.SettingsError`."""
    if not isinstance(given, dict | None):
        raise SettingsError(
            f"create_engine(poolguard=<{type(given).__name__}>): it takes a dict of a guard's "
            f"settings, such as {{'floor': 4}}; correct it, or drop it"
        )
    settings = dict(given or {})
    if wrong := sorted(ENGINES & settings.keys()):
        raise SettingsError(
            f"create_engine(poolguard={{{wrong[0]!r}: …}}): the engine says that itself, by its "
            f"URL, its class and its connect_args; drop it"
        )
    own = {"name", "reset", "check"}  # a guard's, and no settings
    Settings.build(environ={}, **{key: settings[key] for key in settings.keys() - own})
    return settings
