"""gunicorn's configuration for the hosts of a fleet."""

from __future__ import annotations

import os
from typing import Any

from poolguard.gunicorn import *  # noqa: F403

worker_class = "gthread"
workers = int(os.environ["FLEET_WORKERS"])
threads = int(os.environ["FLEET_THREADS"])
graceful_timeout = 20
control_socket_disable = True


def when_ready(server: Any) -> None:  # noqa: ARG001 - gunicorn wants it
    """Wait at a gate, where there is one: whoever opens it has several hosts begin at once."""
    if gate := os.environ.get("FLEET_GATE"):
        import psycopg  # noqa: F401 - its workers need not import it any more

        os.close(os.open(gate, os.O_RDONLY))
