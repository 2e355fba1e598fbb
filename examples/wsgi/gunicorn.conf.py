"""gunicorn for the WSGI example: DATABASE_URL=postgresql://… gunicorn app:app"""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

workers = 2
threads = 8
