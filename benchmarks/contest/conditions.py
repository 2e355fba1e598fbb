"""Under which conditions contenders serve, and the environment that tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from psycopg.conninfo import conninfo_to_dict

from .contenders import Contender

CLASSES = {"sync": "gthread", "async": "uvicorn_worker.UvicornWorker"}
HOUR = 3600.0
LEAST = 0.1
"""A timeout in fast motion is at least this, as in :func:`benchmarks.apps.service.idle`."""
CHECK_EVERY = 25 * 60.0
"""poolguard's ``check_interval`` in fast motion, as in the demo: that of the project's origin.
The default of 25 s would be 7 ms where an hour takes a second."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all contenders are given alike."""

    query: float = 0.25
    """Seconds that a request's query takes."""
    workers: int = 1
    threads: int = 80
    hour: float = HOUR
    """Seconds that stand for an hour: the idle timeouts of all are as much shorter."""
    budget: int | Literal["auto"] = "auto"
    """poolguard's ``budget``: what it works out of it is what all may open."""
    poolguard: Mapping[str, str] = field(default_factory=dict)
    """More settings of poolguard's, by the names of their variables."""

    def fast(self, seconds: float) -> str:
        """*seconds* in fast motion."""
        return str(max(seconds * self.hour / HOUR, LEAST))

    def environ(self, contender: Contender, dsn: str, budget: int, folder: Path) -> dict[str, str]:
        """What *contender* is told; *dsn* is its way to the server, *folder* is its own."""
        share = budget // self.workers
        environ = {
            "DATABASE_URL": dsn,
            "SERVICE_APP": contender.app,
            "SERVICE_CLASS": CLASSES.get(contender.kind, ""),
            "SERVICE_WORKERS": str(self.workers),
            "SERVICE_THREADS": str(self.threads if contender.kind == "sync" else 1),
            "SERVICE_SIZE": str(share),
            "SERVICE_SETTING": contender.setting,
            "SERVICE_QUERY": str(self.query),
            "SERVICE_HOUR": str(self.hour),
        }
        if contender.kind == "node":
            place = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
            environ |= {f"PG{name.upper()}": value for name, value in place.items()}
            environ["PGDATABASE"] = place["dbname"]
        if contender.guarded:
            environ |= self._guarded(contender, share, folder)
        return environ

    def _guarded(self, contender: Contender, share: int, folder: Path) -> dict[str, str]:
        environ = {
            "SERVICE_TELEMETRY": str(folder),
            "SERVICE_HASTY": "1",
            "POOLGUARD_RUNTIME_DIR": str(folder / "run"),
            "POOLGUARD_BUDGET": str(self.budget),
        }
        if self.hour != HOUR:
            environ["POOLGUARD_IDLE_TIMEOUT"] = self.fast(30 * 60)
            environ["POOLGUARD_CHECK_INTERVAL"] = self.fast(CHECK_EVERY)
        if contender.setting == "tuned":
            # The other half is for the workers that a reload adds, and for what a dead network
            # still counts: a floor of all leaves them nothing.
            environ["POOLGUARD_FLOOR"] = str(max(1, share // 2))
        return {**environ, **self.poolguard}
