"""A process whose threads borrow from two pools in turn, and that says how long each took."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

from psycopg_pool import ConnectionPool

import poolguard
from poolguard.runtime.status import not_warm

Borrow = Callable[[], AbstractContextManager[Any]]
WARM_WITHIN = 30.0


def main(dsn: str, folder: str, *numbers: str) -> None:
    threads, size, rounds, borrowings = map(int, numbers)
    guard = poolguard.Guard(
        dsn, budget=2 * size, floor=size, max_size=size, runtime_dir=Path(folder, "run")
    )
    measured: dict[str, dict[str, list[float]]] = {}
    with ConnectionPool(dsn, min_size=size, open=True) as plain, guard:
        plain.wait(WARM_WITHIN)
        if not guard.wait_warm(WARM_WITHIN):
            sys.exit(not_warm(guard.status(), WARM_WITHIN))
        acts: dict[str, Borrow] = {"plain": plain.connection, "ours": poolguard.connection}
        for borrow in acts.values():
            _turn(borrow, threads, borrowings // threads, contend=size < threads)
        for nth in range(rounds):
            for who in list(acts)[:: -1 if nth % 2 else 1]:
                times = _turn(acts[who], threads, borrowings // threads, contend=size < threads)
                kept = measured.setdefault(who, {"µs": [], "processor, µs": []})
                for kind, seconds in zip(kept, times, strict=True):
                    kept[kind].append(seconds / (borrowings // threads * threads) * 1e6)
    print(json.dumps(measured))


def _turn(borrow: Borrow, threads: int, each: int, *, contend: bool) -> tuple[float, float]:
    """Seconds of wall time and of the processor, from when all threads are there."""
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
    began, ran = perf_counter(), process_time()
    for thread in running:
        thread.join()
    return perf_counter() - began, process_time() - ran


if __name__ == "__main__":
    main(*sys.argv[1:])
