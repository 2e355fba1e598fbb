"""Real parts for the demo, the tests and the benchmarks: a private PostgreSQL, a slow network, an open-loop load."""
