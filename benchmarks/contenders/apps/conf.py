"""gunicorn's configuration for every contender: the environment says of which kind it is."""

from __future__ import annotations

import os
from typing import Any

worker_class = os.environ["CONTEST_CLASS"]
workers = int(os.environ["CONTEST_WORKERS"])
threads = int(os.environ["CONTEST_THREADS"])
keepalive = 30  # behind a proxy, which keeps its connections; only the skew's load does so here
loglevel = "warning"
control_socket_disable = True

if os.environ["CONTEST_GUARDED"] == "1":
    import poolguard.gunicorn

    # In the master, as README.md has it: else each new worker would spend its boot on the SDK.
    from .telemetry import set_up

    def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
        """Set all telemetry up, in the worker: the SDK's threads do not survive a fork."""
        set_up(os.environ["CONTEST_TELEMETRY"])

    poolguard.gunicorn.install(globals())
