"""gunicorn for the shop: DATABASE_URL=postgresql://… gunicorn"""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

wsgi_app = "config.wsgi"
worker_class = "gthread"  # or sync, or gevent; for "asgi" the application is config.asgi
workers = 2
threads = 4
