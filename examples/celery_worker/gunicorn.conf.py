"""gunicorn for the outbox's web part: DATABASE_URL=postgresql://… gunicorn"""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

wsgi_app = "web:app"
worker_class = "gthread"
workers = 2
threads = 4
