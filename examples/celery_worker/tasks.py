"""The tasks. DATABASE_URL says where the database is, BROKER_FOLDER where the messages are kept."""

# mypy: allow-untyped-decorators

import os
from pathlib import Path

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

import poolguard

folder = Path(os.environ["BROKER_FOLDER"])
(folder / "messages").mkdir(exist_ok=True)
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": folder / "messages",
    "data_folder_out": folder / "messages",  # one folder, which web and worker share
    "control_folder": folder / "control",
    "polling_interval": 0.1,
}
app.conf.task_ignore_result = True


@worker_process_init.connect
def open_guard(**_: object) -> None:
    """One guard in each process that runs tasks, of one connection: it runs one task at a time.

    It is made here and not above: the web part imports this file, too, and has a pool of its own.
    """
    poolguard.Guard(floor=1, max_size=1).open()


@worker_process_shutdown.connect
def close_guard(**_: object) -> None:
    """Return its connection to the budget."""
    poolguard.guard().close()


@app.task
def deliver(letter: int) -> None:
    """Deliver a letter, once: a message may come twice."""
    with poolguard.connection() as conn:
        conn.execute(
            "INSERT INTO deliveries (letter_id) VALUES (%s) ON CONFLICT DO NOTHING", (letter,)
        )
