"""The engine that Django loads for ``"ENGINE": "poolguard.django"``."""

from __future__ import annotations

from django.db.backends.postgresql import base

from .mixin import PoolGuardMixin

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(PoolGuardMixin, base.DatabaseWrapper):  # type: ignore[misc]
    """Django's own PostgreSQL wrapper, on connections of the guard's."""
