"""SQLAlchemy's engines on the guard's connections, in gunicorn's workers::

    engine = create_engine("postgresql+psycopg://…", plugins=["poolguard"])

``?plugin=poolguard`` in the URL does the same, as does ``create_async_engine``, and whatever hands
its arguments to either: Flask-SQLAlchemy's ``SQLALCHEMY_ENGINE_OPTIONS``, SQLModel. Settings of the
guard: ``poolguard={"floor": 4}``; ``"name"`` among them is the guard's name.

In every other process the engine has the pool that it would have without the plugin, and all of its
arguments. With another backend, or an explicit ``poolclass``, ``pool`` or ``creator``, it has that
in workers, too. :func:`guard` is for a process that wants the guard's pool and is no worker.
"""

from __future__ import annotations

from .plugin import PoolGuardPlugin, guard
from .pool import AsyncGuardPool, GuardPool
from .records import GuardTimeout

__all__ = ["AsyncGuardPool", "GuardPool", "GuardTimeout", "PoolGuardPlugin", "guard"]
