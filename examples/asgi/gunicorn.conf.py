"""gunicorn for the ASGI example: DATABASE_URL=postgresql://… gunicorn app:app"""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

workers = 2
worker_class = "asgi"  # or "uvicorn_worker.UvicornWorker"
