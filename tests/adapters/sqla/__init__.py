"""SQLAlchemy's engines on guards: in this process, and under real gunicorn."""
