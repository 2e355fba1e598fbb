"""gunicorn's configuration for every contender: the environment says of which kind it is."""

from __future__ import annotations

import os
from typing import Any

worker_class = os.environ["CONTEST_CLASS"]
workers = int(os.environ["CONTEST_WORKERS"])
threads = int(os.environ["CONTEST_THREADS"])
loglevel = "warning"
control_socket_disable = True

if "CONTEST_TELEMETRY" in os.environ:
    import poolguard.gunicorn

    # In the master, as README.md has it: else each new worker would spend its boot on the SDK.
    from .telemetry import set_up

    def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
        """Set all telemetry up, in the worker: the SDK's threads do not survive a fork.

        At the SDK's defaults a thousand spans are turned into JSON in one go, which keeps the
        interpreter's lock from the requests for a tenth of a second, and no metric is exported in
        the seconds that a run takes.
        """
        set_up(os.environ["CONTEST_TELEMETRY"], spans_ms=250, metrics_ms=1000)

    poolguard.gunicorn.install(globals())
