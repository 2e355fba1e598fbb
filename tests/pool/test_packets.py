"""A network that loses packets, as firewalls do: what is sent is never acknowledged.

Unlike behind the proxy of the other tests, the kernel sends it again and again, and knows that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.network import Link, Network
from poolguard.lab.postgres import PrivatePostgres

pytestmark = pytest.mark.long

TRUST = "host all all all trust\n"
OLD, NEW = "10.213.0.1", "10.213.0.2"
"""The server's addresses: at one of them nothing arrives any more."""
MAC = "02:70:67:00:00:01"
NOBODY = "02:70:67:ff:ff:ff"
HOST = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
import psycopg
from poolguard.pool.sync import GuardedPool

old, new, lent, max_size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
way = [old]

def used(conn):
    began = monotonic()
    try:
        conn.execute("SELECT 1")
    except psycopg.OperationalError:
        return monotonic() - began
    finally:
        pool.putconn(conn)

with (
    GuardedPool(lambda: way[0], min_size=lent, max_size=max_size, timeout=30, open=True) as pool,
    ThreadPoolExecutor() as threads,
):
    conns = [pool.getconn() for _ in range(lent)]
    print("lent", flush=True)
    sys.stdin.readline()
    way[0] = new
    took = list(threads.map(used, conns))
    with pool.connection() as conn:
        conn.execute("SELECT 1")
print(json.dumps(took), flush=True)
"""


@dataclass
class Scene:
    """A host, and the two addresses of the server."""

    link: Link
    old: str
    new: str

    def lose(self) -> None:
        """Nothing arrives at the server's old address any more, and nobody says so."""
        self.neighbour(OLD, NOBODY)

    def neighbour(self, address: str, mac: str) -> None:
        line = f"ip neigh replace {address} lladdr {mac} dev eth0 nud permanent"
        subprocess.run([*self.link.prefix, *line.split()], check=True)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        janitor = stack.enter_context(Janitor())
        try:
            network = stack.enter_context(Network(janitor, real=True))
        except LabError as error:
            pytest.skip(str(error))
        subprocess.run(f"ip addr add {NEW}/16 dev poolguard".split(), check=True)
        server = PrivatePostgres(addresses=(OLD, NEW), janitor=janitor)
        stack.enter_context(server)
        with (server.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(TRUST)
        server.restart()
        link = network.link("host", server.port)
        ways = (server.conninfo(host=address, port=server.port) for address in (OLD, NEW))
        made = Scene(link, *ways)
        made.neighbour(NEW, MAC)
        yield made


@pytest.mark.parametrize(
    ("lent", "max_size"),
    [(2, 8), (1, 2), (2, 2)],
    ids=["others can be opened", "one can be opened", "none can be opened"],
)
def test_commands_that_are_never_acknowledged_end_with_an_error(
    scene: Scene, lent: int, max_size: int
) -> None:
    """In seconds, and not in a quarter of an hour: also where nobody could ask the server."""
    host = subprocess.Popen(
        [
            *scene.link.prefix,
            sys.executable,
            "-c",
            HOST,
            scene.old,
            scene.new,
            str(lent),
            str(max_size),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == "lent\n"
            scene.lose()
            told, _ = host.communicate("lost\n", timeout=60)
        finally:
            host.kill()
    took = json.loads(told)
    assert len(took) == lent
    assert all(1.0 < each < 30 for each in took)
