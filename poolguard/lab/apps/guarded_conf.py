"""gunicorn's configuration for poolguard: the ordinary contender's, and poolguard's hooks."""

from __future__ import annotations

import os
from typing import Any

import poolguard.gunicorn

from .ordinary_conf import (  # noqa: F401
    control_socket_disable,
    loglevel,
    threads,
    worker_class,
    workers,
)


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """Set tracing up in the worker, since the SDK's threads do not survive a fork."""
    from .tracing import set_up

    set_up(os.environ["DEMO_SPANS"], os.environ.get("DEMO_OTLP"))


poolguard.gunicorn.install(globals())
