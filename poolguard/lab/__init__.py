"""Real parts for the demo, the tests and the benchmarks.

A private PostgreSQL, a slow and faulty network, an open-loop load, and who tidies up after them.
"""
