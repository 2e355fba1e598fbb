"""The application of the budget's tests: a query as long as the path says, and the worker's pid."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import psycopg

import poolguard
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def hog(threads: int, seconds: float, enough: int) -> dict[str, float]:
    """Load on this worker alone: so many threads that query all the time, for so long or until the
    test says that it is over. Tells the most connections it had, and after how many seconds it had
    *enough*, or -1. A file named after the worker says so at once."""
    folder = Path(os.environ["TEST_HOGS"])
    began = monotonic()
    until = began + seconds

    def goes_on() -> bool:
        return monotonic() < until and not (folder / "over").exists()

    def work() -> None:
        while goes_on():
            with poolguard.connection() as conn:
                conn.execute("SELECT pg_sleep(0.05)")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    most, reached = 0, -1.0
    while goes_on():
        status = poolguard.guard().status()
        held = status["used"] + status["idle"]
        most = max(most, held)
        if held >= enough and reached < 0:
            reached = monotonic() - began
            (folder / str(os.getpid())).touch()
        sleep(0.01)
    for worker in workers:
        worker.join()
    return {"most": most, "reached": reached}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """``/SECONDS``: one query; ``/status``: what the guard has; ``/hog/…/PID``: load on a worker,
    but not on that one. 502: the connection was killed; 409: ask again for another worker."""
    path = environ["PATH_INFO"].strip("/")
    line, body = "200 OK", ""
    if path == "status":
        body = json.dumps(poolguard.guard().status())
    elif path.startswith("hog/"):
        _, threads, seconds, enough, but_not = path.split("/")
        if int(but_not) == os.getpid():
            line = "409 Not I"
        else:
            body = json.dumps(hog(int(threads), float(seconds), int(enough)))
    else:
        try:
            with poolguard.connection() as conn:
                conn.execute("SELECT pg_sleep(%s)", [float(path)])
        except psycopg.OperationalError as error:
            # A pool's error is one of these, too, and none that may happen here.
            killed = not isinstance(error, poolguard.PoolguardError)
            line, body = ("502 Killed" if killed else "503 No connection"), repr(error)
    headers = [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))]
    start_response(line, headers)
    return [body.encode()]


app = PoolGuardMiddleware(application)
