"""Tasks that use a guard, in whichever processes or threads Celery runs them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery, signals

import poolguard

FOLDER = Path(os.environ["TEST_CELERY"])
POOL = os.environ["TEST_CELERY_POOL"]
for name in ("outbox", "queue", "results", "control"):
    (FOLDER / name).mkdir(parents=True, exist_ok=True)

app = Celery("tasks", broker="filesystem://", backend=f"file://{FOLDER}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{FOLDER}/queue",
    "data_folder_out": f"{FOLDER}/outbox",
    "control_folder": f"{FOLDER}/control",
    "polling_interval": 0.05,
}
app.conf.worker_hijack_root_logger = False

guard = poolguard.Guard(mode="sync", kwargs={"application_name": "celery"})


def begin(**_: Any) -> None:
    """A child of the prefork pool begins; the solo pool, too, says that it does."""
    guard.open(10)


def end(**_: Any) -> None:
    guard.close()


if POOL == "threads":  # it runs the tasks in the process that the children would be forked from
    signals.worker_init.connect(begin)
    signals.worker_shutdown.connect(end)
else:
    signals.worker_process_init.connect(begin)
    signals.worker_process_shutdown.connect(end)


@app.task  # type: ignore[untyped-decorator] # Celery has no types
def query(seconds: float) -> dict[str, Any]:
    """Hold a connection for some seconds."""
    with guard.connection() as conn:
        conn.execute("SELECT pg_sleep(%s)", [seconds])
        return {"pid": os.getpid(), "in_use": guard.status()["budget"]["in_use"]}


def ask(seconds: float) -> Any:
    """Have the worker run :func:`query`; its result.

    The message comes into the worker's folder in one step: kombu reads one that is being written,
    and ends with that.
    """
    result = query.delay(seconds)
    for message in (FOLDER / "outbox").iterdir():
        message.replace(FOLDER / "queue" / message.name)
    return result
