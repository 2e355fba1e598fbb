"""gunicorn's configuration for the services: the environment says of which kind each is."""

from __future__ import annotations

import os
from importlib import import_module
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


if shared := os.environ.get("SERVICE_SHARES", ""):
    import_module(shared)

if os.environ["SERVICE_APP"].startswith("guarded"):
    import poolguard.gunicorn

    poolguard.gunicorn.install(globals())
    if motion := os.environ.get("SERVICE_MOTION", ""):
        from .motion import hasten

        hasten(motion, os.environ["SERVICE_TELEMETRY"])

if noted := os.environ.get("SERVICE_BOOTED", ""):
    ready = globals().get("post_worker_init")

    def post_worker_init(worker: Any) -> None:
        """After poolguard's hook, which waits for connections: note that a worker is ready."""
        if ready is not None:
            ready(worker)
        with open(noted, "ab") as file:
            file.write(b".")
