"""A guard made at import, which under preload_app is in the master."""

from __future__ import annotations

import poolguard

from ...doors import asgi_app, wsgi_app

made = poolguard.Guard()
assert not made.opened
app, aapp = wsgi_app.app, asgi_app.app
