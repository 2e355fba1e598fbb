"""A gunicorn.conf.py that names the hooks. Type checkers read it; nothing runs it."""

from collections.abc import Callable
from typing import Any

# As the README has it. Linters, and pyright when it is strict, warn of any library's star.
from poolguard.gunicorn import *  # noqa: F403 # pyright: ignore[reportWildcardImportFromLibrary]

workers = 4
threads = 8

of_server: list[Callable[[Any], None]] = [on_starting]  # noqa: F405
of_both: list[Callable[[Any, Any], None]] = [pre_fork, post_fork, worker_exit, child_exit]  # noqa: F405
of_worker: list[Callable[[Any], None]] = [post_worker_init, worker_int, worker_abort]  # noqa: F405
