"""gunicorn for the notes: DATABASE_URL=postgresql://… gunicorn"""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

wsgi_app = "notes.main:app"
worker_class = "asgi"  # or "uvicorn_worker.UvicornWorker"
workers = 2
