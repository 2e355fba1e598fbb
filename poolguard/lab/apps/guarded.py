"""The demo's application over poolguard; the hooks in ``guarded_conf`` open and close the pool."""

from __future__ import annotations

from typing import Any

import poolguard
from poolguard.pool.acquirer import CURRENT
from poolguard.telemetry.request import Request
from poolguard.wsgi import PoolGuardMiddleware

from .endpoint import endpoint


def _created(_: Any) -> bool:
    request = CURRENT.get()
    return isinstance(request, Request) and request.created > 0


app = PoolGuardMiddleware(endpoint(poolguard.connection, _created))
