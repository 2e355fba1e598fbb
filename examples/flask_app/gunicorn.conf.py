"""gunicorn for the library: DATABASE_URL=postgresql://… gunicorn"""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

wsgi_app = "library:create_app()"
worker_class = "gthread"  # or sync, or gevent
workers = 2
threads = 4
