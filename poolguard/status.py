"""The status of all workers of this host, for programs that read it.

``poolguard status`` shows the same; :meth:`poolguard.Guard.status` tells of one process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .settings import Settings
from .worker import publish

__all__ = ["published"]


def published(folder: Path | None = None) -> list[dict[str, Any]]:
    """What the living processes of this user have published last, by pid.

    Each has an ``at`` and a ``due`` more than :meth:`poolguard.Guard.status`: when it was written,
    and by when it will be written again unless its process hangs, in seconds since the epoch. A
    folder that is not there holds nothing, and is not made.

    :param folder: the workers' ``runtime_dir``; by default that of ``POOLGUARD_RUNTIME_DIR``, else
        the usual one.

    Raises :exc:`~poolguard.errors.RuntimeDirError` where the folder cannot be trusted, and
    :exc:`~poolguard.errors.SettingsError` where the environment is wrong.
    """
    return publish.published(folder or Settings.build().runtime_dir)
