"""gunicorn's configuration for a crew: the environment says of what kind it is."""

from __future__ import annotations

import os
from typing import Any

worker_class = os.environ["CREW_CLASS"]
workers = int(os.environ["CREW_WORKERS"])
threads = 8 if worker_class == "gthread" else 1
loglevel = "warning"
control_socket_disable = True

if os.environ["CREW_TELEMETRY"]:

    def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
        """In the worker: the SDK's threads do not survive a fork."""
        from .telemetry import set_up

        set_up(os.environ["CREW_TELEMETRY"])


if os.environ["CREW_WHO"] == "poolguard":
    import poolguard.gunicorn

    poolguard.gunicorn.install(globals())
