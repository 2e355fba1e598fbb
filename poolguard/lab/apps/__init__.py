"""The demo's application, once with an ordinary pool and once with poolguard.

Each has the gunicorn configuration that it runs under beside it.
"""
