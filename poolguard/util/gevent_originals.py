"""What gevent's patches hide or change, as the watch on sockets needs it: the only file that knows.

``monkey.patch_all()`` takes epoll away, makes sockets non-blocking, and has every wait switch to
another greenlet. The originals go on working, as long as nothing waits in them.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import Any

__all__ = ["WATCHES", "Epoll", "Poll", "Socket", "ready"]


def _original(module: str, name: str) -> Any:
    """What *module* has of that *name*, or had before it was patched; None where there is none."""
    if "gevent" in sys.modules:
        from gevent import monkey

        if monkey.is_module_patched(module):
            return monkey.get_original(module, name)
    return getattr(sys.modules[module], name, None)


Epoll: Any = _original("select", "epoll")
Poll: Any = _original("select", "poll")
Socket: type[socket.socket] = _original("socket", "socket")

WATCHES = Epoll is not None and hasattr(os, "eventfd")
"""Sockets can be watched: this is Linux."""


def ready(epoll: Any, timeout: float | None) -> list[tuple[int, int]]:
    """``epoll.poll(timeout)``; under gevent the other greenlets run on meanwhile."""
    if not hasattr(select, "epoll"):  # gevent has taken it away, perhaps since this was imported
        # An epoll's descriptor is readable while it has something to tell.
        select.select([epoll], [], [], timeout)
        timeout = 0
    found: list[tuple[int, int]] = epoll.poll(timeout)
    return found
