"""The errors that poolguard raises of itself: one small family, each with what to do in its text.

The pool's errors (``PoolTimeout`` and its kin) stand in :mod:`poolguard.pool.errors`, since they
derive from psycopg_pool's and this file must be importable before psycopg may be.
"""

from __future__ import annotations

__all__ = [
    "ForkError",
    "LabError",
    "ModeError",
    "PlanError",
    "PoolguardError",
    "RuntimeDirError",
    "SettingsError",
]


class PoolguardError(Exception):
    """Everything that poolguard raises of itself is one of these."""


class SettingsError(PoolguardError, ValueError):
    """A setting that is unknown, malformed, out of range, or contradicts another."""


class PlanError(PoolguardError, ValueError):
    """A budget that cannot be divided among the workers; the text shows the arithmetic."""


class ModeError(PoolguardError, TypeError):
    """A sync guard was asked for an async connection, or the other way round."""


class ForkError(PoolguardError, RuntimeError):
    """A pool that was opened before a fork was used in the child."""


class RuntimeDirError(PoolguardError):
    """The runtime folder, or a file in it, cannot be used or cannot be trusted."""


class LabError(PoolguardError):
    """The demo's own environment is not as it must be; the text is one line with its remedy."""
