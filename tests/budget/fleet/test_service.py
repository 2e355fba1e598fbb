"""Two services that are hosts of one fleet: real gunicorns under load, whose workers end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from poolguard.lab.postgres import PrivatePostgres

    from ..service import Service

BUDGET = 14


@pytest.fixture
def hosts(postgres: PrivatePostgres, tmp_path: Path, label: str) -> Iterator[list[Service]]:
    """Two hosts of two workers with four threads each."""
    from poolguard.lab.janitor import Janitor

    from ..service import Service

    dsn = postgres.create_role(label.replace("-", "_"))
    with ExitStack() as stack:
        janitor = stack.enter_context(Janitor())
        made: list[Service] = []
        for name in ("one", "other"):
            folder = tmp_path / name
            folder.mkdir()
            service = Service(
                janitor,
                folder,
                dsn,
                workers=2,
                threads=4,
                POOLGUARD_LEDGER="fleet",
                POOLGUARD_BUDGET=str(BUDGET),
                POOLGUARD_FLOOR="2",
            )
            made.append(stack.enter_context(service))
        yield made


@pytest.mark.long
def test_no_reload_and_no_death_has_two_hosts_exceed_their_budget(
    hosts: list[Service], postgres: PrivatePostgres, label: str
) -> None:
    """No request fails but those of a killed worker, and each host goes on with its floors."""
    from poolguard.lab.sessions import SessionSampler

    from ..service import Load

    role = label.replace("-", "_")
    for host in hosts:
        host.until_workers(2)
    with SessionSampler(postgres.dsn, role=role, every=0.005) as counted, ExitStack() as stack:
        loads = [
            stack.enter_context(Load(each, 6, lambda rng: rng.uniform(0, 0.02))) for each in hosts
        ]
        for load in loads:
            load.until_more(20)
        before = hosts[0].pids()
        hosts[0].signal(signal.SIGHUP)
        hosts[0].until_workers(2, without=before)
        for pid in hosts[1].pids():  # one of them is the keeper
            os.kill(pid, signal.SIGKILL)
            hosts[1].until_workers(2, without={pid})
        for load in loads:
            load.until_more(20)
    assert counted.peak <= BUDGET, counted.at_peak
    assert loads[0].bad(0) == []
    assert [each for each in loads[1].bad(0) if each.status] == []
