"""What this process is: which server runs it, which of its workers it is, and how long it may wait.

A server's door says so once, as the worker begins (:func:`poolguard.worker.registry.become`). Where
no server says anything, the default holds.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from ..budget.plan import Workplace
from ..util.rarely import Once

__all__ = ["Role", "WorkerContext", "become", "current", "role", "web_concurrency"]

Role: TypeAlias = Literal["master", "worker"]


class WorkerContext:
    """One worker, as its server's door knows it. Times are seconds."""

    def __init__(
        self,
        *,
        told: Workplace | None = None,
        role: Role | None = None,
        worker_class: str | None = None,
        first_generation: bool = True,
        told_to_stop: Callable[[], bool] = lambda: False,
        stop_server: Callable[[Exception], Awaitable[None]] | None = None,
        longest_wait: float = math.inf,
        longest_stay: float = 15.0,
    ) -> None:
        self.told = told
        """What the server has said of its workers; None where there is none that would."""
        self.role: Role | None = role
        """What the process is to gunicorn; None outside of it."""
        self.pid = os.getpid()
        """The process that this is said of: the children that it forks are something else."""
        self.worker_class = worker_class
        """gunicorn's name for the kind of worker; None outside gunicorn."""
        self.first_generation = first_generation
        """The service did not run before. A worker of a later generation does not end for what is
        wrong with its pools: the whole service would."""
        self.told_to_stop = told_to_stop
        """Whether the server has been told to stop, maybe before the lifespan began."""
        self.stop_server = stop_server
        """Ends a server that would go on serving after ``lifespan.startup.failed``."""
        self.longest_wait = longest_wait
        """How long a lifespan waits at most, whatever ``warmup_timeout`` says: the server gives
        up."""
        self.longest_stay = longest_stay
        """How long a worker that was told to end stays at most for its successors to boot."""
        self.serves: Callable[[], None] = lambda: None
        """Called when the worker accepts requests, or will in a moment."""
        self.successors_boot: Callable[[], bool] = lambda: False
        """Whether workers that are to replace this one do not serve yet."""
        self.first_to_say: Callable[[str], bool] = Once().is_first
        """Whether nobody has said that yet: in this process, or in any worker where those share
        it."""
        self.stays = False
        """This process was told to end, and accepts requests until its successors do."""

    def __repr__(self) -> str:
        what = self.role or "no worker of gunicorn's"
        return f"<WorkerContext {what}, {self.told!r}>"

    @property
    def workplace(self) -> Workplace:
        """How many workers there are, and what each uses at once. Where no server says it, this is
        one of as many as ``WEB_CONCURRENCY`` says."""
        return self.told or Workplace(web_concurrency() or 1)


_current = WorkerContext()


def current() -> WorkerContext:
    """What this process is."""
    return _current


def role() -> Role | None:
    """What this process is to gunicorn: ``"worker"`` in one that poolguard's hooks have set up,
    ``"master"`` where its configuration names them, None in every other process.

    A child that either has forked by other means than gunicorn's is an other process.
    """
    return _current.role if _current.pid == os.getpid() else None


def become(found: WorkerContext) -> None:
    """The registry's :func:`~poolguard.worker.registry.become` calls this, and tells the doors."""
    global _current  # noqa: PLW0603
    _current = found


def web_concurrency() -> int | None:
    """The number of workers in ``WEB_CONCURRENCY``, which servers take as their default; None where
    it holds none."""
    text = os.environ.get("WEB_CONCURRENCY", "").strip()
    return int(text) if re.fullmatch("0*[1-9][0-9]{0,4}", text, re.ASCII) else None
