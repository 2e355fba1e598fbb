"""Real parts for the demo, the tests and the benchmarks.

These are a private PostgreSQL, a slow and faulty network, an open-loop load, a real gunicorn, and
a janitor that tidies up after all of them.
"""
