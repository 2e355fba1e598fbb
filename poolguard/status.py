"""The status of all workers of this host, for programs that read it.

``poolguard status`` shows the same; :meth:`poolguard.Guard.status` tells of one process.
"""

from __future__ import annotations

from .worker.publish import published

__all__ = ["published"]
