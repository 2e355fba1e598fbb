"""Django's PostgreSQL engine over the worker's guard: ``"ENGINE": "poolguard.django"``.

Settings of the guard stand in ``"OPTIONS": {"poolguard": {"floor": 4}}``. In gunicorn's workers
each database that has this engine gets a guard, named after its alias. In every other process
(manage.py, a shell, tests, a task queue) its connections are Django's own, unless the guard was
opened there::

    import poolguard.django

    with poolguard.django.guard():
        ...

An engine of another package is made into one with
:class:`poolguard.django.mixin.PoolGuardMixin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.guards import Guard

__all__ = ["guard"]


def guard(alias: str = "default") -> Guard:
    """The guard of the database that ``settings.DATABASES`` calls *alias*.

    While it is open in a process, Django's connections to that database come from it. Outside of
    gunicorn's workers nothing opens it but its own ``open()`` or a ``with`` block. Raises
    :exc:`~poolguard.errors.SettingsError` where the database has another engine, or settings that
    cannot work.
    """
    from .guards import guard_of  # Django's settings may not be configured yet as this is imported

    return guard_of(alias)
