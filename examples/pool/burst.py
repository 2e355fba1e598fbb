"""The pool alone, in a script: twenty threads want a connection at once.

Run it with the server's address: ``DATABASE_URL=postgresql://… python burst.py``
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from poolguard import GuardedPool


def main() -> None:
    """Ask the server for its time from 20 threads, and print what their acquires were."""
    # psycopg_pool.ConnectionPool would take the same arguments, and so does the rest of the script.
    with GuardedPool(os.environ["DATABASE_URL"], min_size=2, max_size=20, name="burst") as pool:
        pool.wait()

        def ask(_: int) -> None:
            with pool.connection() as conn:
                conn.execute("SELECT pg_sleep(0.2)")

        with ThreadPoolExecutor(20) as threads:
            list(threads.map(ask, range(20)))
        status = pool.status()
    for what, counted in (
        ("acquires", status["acquires"]),
        ("connections opened", status["created"]),
    ):
        print(f"{what}: {', '.join(f'{key} {n}' for key, n in counted.items())}")


if __name__ == "__main__":
    main()
