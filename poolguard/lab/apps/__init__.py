"""The demo's application, once with an ordinary pool and once with poolguard; each with the
gunicorn configuration it runs under."""
