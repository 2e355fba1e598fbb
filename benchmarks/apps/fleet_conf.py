"""gunicorn's configuration for the hosts of a fleet."""

from __future__ import annotations

import os

from poolguard.gunicorn import *  # noqa: F403

worker_class = "gthread"
workers = int(os.environ["FLEET_WORKERS"])
threads = int(os.environ["FLEET_THREADS"])
graceful_timeout = 20
control_socket_disable = True
