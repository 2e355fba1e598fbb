"""gunicorn's configuration for the services: the environment says of which kind each is."""

from __future__ import annotations

import os
from typing import Any

worker_class = os.environ["SERVICE_CLASS"]
workers = int(os.environ["SERVICE_WORKERS"])
threads = int(os.environ["SERVICE_THREADS"])
loglevel = "warning"
control_socket_disable = True

if folder := os.environ.get("SERVICE_TELEMETRY", ""):
    # In the master, as README.md has it: else each new worker would spend its boot on the SDK.
    from .telemetry import set_up

    def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
        """Set all telemetry up, in the worker: the SDK's threads do not survive a fork."""
        set_up(folder, hasty="SERVICE_HASTY" in os.environ)


if os.environ["SERVICE_APP"].startswith("guarded"):
    import poolguard.gunicorn

    poolguard.gunicorn.install(globals())
