"""The ports that the lab's servers listen on."""

from __future__ import annotations

__all__ = ["PORTS"]

PORTS = range(20_000, 32_768)
"""They lie below the ports that systems hand out to clients. A client that retries while its server
is away would now and then be given the server's own port, and connect to itself."""
