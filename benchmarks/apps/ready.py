"""How a worker of a crew says that it is about to accept requests: one datagram with its pid."""

from __future__ import annotations

import os
import socket

__all__ = ["ready"]


def ready() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(str(os.getpid()).encode(), os.environ["CREW_READY"])
