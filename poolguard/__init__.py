"""poolguard: a warm psycopg pool in each gunicorn worker, sized from one budget."""

__version__ = "0.1.0"
