"""gevent workers: psycopg must be imported after the patch, since it chooses then how it waits.

Imported before, it waits in C, and one query stops every request of the worker.
"""

from __future__ import annotations

import sys

from ..errors import PoolguardError

__all__ = ["insist_that_psycopg_comes_later"]


def insist_that_psycopg_comes_later() -> None:
    """Raise :exc:`~poolguard.errors.PoolguardError` where psycopg is imported, and nothing patched.

    Call it in a gevent worker before its own patch. Who patches at the top of gunicorn.conf.py may
    have imported psycopg since.
    """
    too_early = [name for name in ("psycopg", "psycopg_pool") if name in sys.modules]
    if not too_early or _waits_with_gevent():
        return
    raise PoolguardError(
        f"{too_early[0]} was imported before this gevent worker was patched (by gunicorn.conf.py, "
        f"or by the application under preload_app): a query would stop all requests of the worker. "
        f"Import it in the application only and without preload_app, or begin gunicorn.conf.py "
        f"with: from gevent import monkey; monkey.patch_all()"
    )


def _waits_with_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    waiting = sys.modules.get("psycopg.waiting")
    if monkey is None or not monkey.is_module_patched("select"):
        return False
    return waiting is None or waiting.wait is not getattr(waiting, "wait_c", None)
