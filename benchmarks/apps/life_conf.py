"""gunicorn's configuration for the boots and reloads: by the environment, with the hooks or not."""

from __future__ import annotations

import os

worker_class = os.environ["BENCH_CLASS"]
workers = int(os.environ["BENCH_WORKERS"])
threads = 8 if worker_class == "gthread" else 1
loglevel = "warning"
control_socket_disable = True

if os.environ["BENCH_GUARDED"] == "1":
    import poolguard.gunicorn

    poolguard.gunicorn.install(globals())
