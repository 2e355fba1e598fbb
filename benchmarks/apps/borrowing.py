"""A process whose threads borrow from two pools in turn, and that says how long each took."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from psycopg_pool import ConnectionPool

import poolguard
from poolguard.runtime.status import not_warm

from ..table import turns

Borrow = Callable[[], AbstractContextManager[Any]]
WARM_WITHIN = 30.0


def main(dsn: str, folder: str, *numbers: str) -> None:
    threads, size, rounds, borrowings = map(int, numbers)
    guard = poolguard.Guard(
        dsn, budget=2 * size, floor=size, max_size=size, runtime_dir=Path(folder, "run")
    )
    with ConnectionPool(dsn, min_size=size, open=True) as plain, guard:
        plain.wait(WARM_WITHIN)
        if not guard.wait_warm(WARM_WITHIN):
            sys.exit(not_warm(guard.status(), WARM_WITHIN))
        borrows: dict[str, Borrow] = {"plain": plain.connection, "ours": poolguard.connection}
        each, contend = borrowings // threads, size < threads
        acts = {who: partial(_turn, of, threads, each, contend) for who, of in borrows.items()}
        turns(1, acts)
        print(json.dumps(turns(rounds, acts)))


def _turn(borrow: Borrow, threads: int, each: int, contend: bool) -> float:
    """The µs of one borrowing, from when all threads are there."""
    together = threading.Barrier(threads + 1)

    def borrows() -> None:
        together.wait()
        for _ in range(each):
            with borrow():
                if contend:
                    sleep(0)  # as a query does, it lets the other threads have the interpreter

    running = [threading.Thread(target=borrows) for _ in range(threads)]
    for thread in running:
        thread.start()
    together.wait()
    began = perf_counter()
    for thread in running:
        thread.join()
    return (perf_counter() - began) / (each * threads) * 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
