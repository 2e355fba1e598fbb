"""A gunicorn.conf.py with hooks of its own. Type checkers read it; nothing runs it."""

from typing import Any

import poolguard.gunicorn


def post_fork(server: Any, worker: Any) -> None:
    server.log.info("a worker: %s", worker.pid)


poolguard.gunicorn.install(globals())
