"""``rest``: what a fleet asks of the server, and of its hosts, while nobody asks anything of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import mean
from time import monotonic, sleep
from typing import Any

from ..processes import processor
from ..table import Row, Table, say
from .hosts import Field, Host, field, until
from .stage import Stage

__all__ = ["rest"]

HOSTS = 3
SECONDS, QUICK = 120.0, 2.0
SETTLED = 65.0
"""Seconds after which a host has given back what it did not need when it joined, and has gone over
to looking at the others once a minute."""
MESSAGES, LONGER, CONTROLS = 15.0, 2.0, 1.0
"""A minute: the goals."""
_SAID = re.compile(r"^~(\d+) (poolguard [^~]*)~ LOG:  statement: (.*?)(?=^~|\Z)", re.M | re.S)


def rest(stage: Stage) -> Table:
    """Three hosts for two minutes."""
    seconds = QUICK if stage.quick else SECONDS
    with field(log_statement="all", log_line_prefix="~%p %a~ ") as there:
        hosts = there.started(HOSTS)
        sleep(0.0 if stage.quick else SETTLED)
        threads = {host.name: _threads(host) for host in hosts}
        read = len(there.server.read_log())
        say(f"{seconds:g} s of nothing")
        began, before = monotonic(), {host.name: _took(threads[host.name]) for host in hosts}
        sleep(seconds)  # what is measured is that nothing happens
        minutes = (monotonic() - began) / 60
        after = {host.name: _took(threads[host.name]) for host in hosts}
        said = [*_SAID.findall(there.server.read_log()[read:])]
        controls = _controls(there)
        keepers = {host.name: host.keeper() for host in hosts}
    by_session: dict[str, list[str]] = {}
    for pid, _, text in said:
        by_session.setdefault(pid, []).append(text)
    messages = [*by_session.values()] or [[]]  # there may be none in a short while
    more: list[float] = []
    thread: list[float] = []
    for name, keeper in keepers.items():
        used = {pid: after[name][pid][0] - before[name][pid][0] for pid in after[name]}
        siblings = [ms for pid, ms in used.items() if pid != keeper]
        more.append((used[keeper or 0] - mean(siblings)) / minutes)
        thread.append((after[name][keeper or 0][1] - before[name][keeper or 0][1]) / minutes)
    figures = {
        "control messages": [len(texts) / minutes for texts in messages],
        "statements": [sum(map(_statements, texts)) / minutes for texts in messages],
        "control sessions": [controls / HOSTS],
        "keeper's thread, ms": thread,
        "more than siblings, ms": more,
    }
    goals = {
        "control messages": MESSAGES,
        "control sessions": CONTROLS,
        "keeper's thread, ms": LONGER,
    }
    for _, app, text in said:
        stage.record.write(f"{app}: {' '.join(text.split())}")
    title = f"rest: {HOSTS} hosts of 2 workers without requests, a minute, in {seconds:g} s"
    notes = ["control messages: what a host's control session asks; each has some statements"]
    return Table(title, [Row("a host", figures, goals)], notes)


def _statements(text: str) -> int:
    return text.count("; ") + 1


def _controls(there: Field) -> float:
    with there.server.connect() as admin:
        found = admin.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE starts_with(application_name, 'poolguard ')"
        ).fetchone()
    return float(found[0]) if found else 0.0


def _threads(host: Host) -> dict[int, dict[str, int]]:
    """The kernel's numbers of each worker's threads, by the worker's pid and the thread's name."""
    found: dict[int, dict[str, int]] = {}

    def all_found() -> bool:
        told: dict[str, Any] = host.get("threads")
        found[told["pid"]] = told["threads"]
        return found.keys() >= host.workers()

    until(all_found, f"every worker of {host.name} has answered")
    return found


def _took(workers: dict[int, dict[str, int]]) -> dict[int, tuple[float, float]]:
    """Milliseconds that each worker has run, and of these its keeper's thread."""
    return {
        pid: (processor(pid), sum(_thread_ms(pid, tid) for tid in _keeping(threads)))
        for pid, threads in workers.items()
    }


def _keeping(threads: dict[str, int]) -> Iterator[int]:
    return (tid for name, tid in threads.items() if name == "poolguard-fleet")


def _thread_ms(pid: int, tid: int) -> float:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0]) / 1e6
    return 0.0
