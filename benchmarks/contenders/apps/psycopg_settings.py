"""psycopg_pool's settings, the same for both of its classes.

Defaults (psycopg.org/psycopg3/docs/api/pool.html): min_size 4, max_idle 10 minutes; max_size is
given, since its default is min_size.
"""

from __future__ import annotations

from typing import Any

from .terms import TERMS

__all__ = ["settings"]


def settings(check: Any) -> dict[str, Any]:
    """The pool's arguments. *check* is the class's own ``check_connection``."""
    if TERMS.limit:  # always open, and nothing that a request would have to pay for
        return {"min_size": TERMS.size, "max_size": TERMS.size, "num_workers": 32}
    if TERMS.tuned:
        # psycopg.org/psycopg3/docs/advanced/pool.html: a fixed size ("What's the right size for the
        # pool?"), check= ("Connection quality"), wait() before the first request ("Pool startup
        # check"); more num_workers, so that these do not open three at a time.
        return {
            "min_size": TERMS.size,
            "max_size": TERMS.size,
            "num_workers": 10,
            "timeout": 5.0,
            "check": check,
        }
    return {"max_size": TERMS.size, "max_idle": TERMS.fast(600)}
