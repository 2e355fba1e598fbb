"""gunicorn's configuration for the budget's tests."""

from __future__ import annotations

import os

from poolguard.gunicorn import *  # noqa: F403

workers = int(os.environ["TEST_WORKERS"])
worker_class = "gthread"
threads = int(os.environ["TEST_THREADS"])
graceful_timeout = 10
control_socket_disable = True
