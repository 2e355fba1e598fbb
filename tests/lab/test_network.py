"""Hosts are apart where that is possible, a cut link lets nothing through, nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.network import Network
from poolguard.lab.postgres import PrivatePostgres
from tests.support import alive

TRUST = "host all all all trust\n"
ASK = """
import socket, sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    print(socket.gethostname(), flush=True)
    for _ in sys.stdin:
        conn.execute("SELECT 1")
        print("answered", flush=True)
"""
SILENT = 0.3
"""Seconds for which nothing is to come through."""


@pytest.fixture(scope="module")
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


@pytest.fixture(params=[True, False], ids=["namespaces", "proxies"])
def network(request: pytest.FixtureRequest, janitor: Janitor) -> Iterator[Network]:
    try:
        with Network(janitor, real=request.param) as network:
            yield network
    except LabError as error:
        pytest.skip(str(error))


@pytest.fixture
def server(network: Network, janitor: Janitor) -> Iterator[PrivatePostgres]:
    with PrivatePostgres(addresses=network.addresses, janitor=janitor) as server:
        with (server.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(TRUST)
        server.restart()
        yield server


def namespace() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_what_is_cut_off_hears_nothing_and_goes_on_once_the_link_is_mended(
    network: Network, server: PrivatePostgres
) -> None:
    link = network.link("alpha", server.port)
    host, port = link.place
    asker = subprocess.Popen(
        [*link.prefix, sys.executable, "-c", ASK, server.conninfo(host=host, port=port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with asker:
        assert asker.stdin is not None
        assert asker.stdout is not None
        name = asker.stdout.readline().strip()
        assert (name == "alpha") is network.real
        link.cut()
        asker.stdin.write("\n")
        asker.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            asker.wait(SILENT)
        with server.connect() as admin:  # the link is the host's own, and others go on
            row = admin.execute("SELECT max(query) FROM pg_stat_activity WHERE query = 'SELECT 1'")
            assert row.fetchone() == (None,)
        link.mend()
        assert asker.stdout.readline() == "answered\n"
        asker.stdin.close()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="it takes Linux and root")
def test_the_caller_is_back_in_its_own_network_afterwards_and_the_hosts_are_gone(
    janitor: Janitor,
) -> None:
    before, devices = namespace(), os.listdir("/sys/class/net")
    with Network(janitor, real=True) as network:
        assert namespace() != before
        link = network.link("alpha", 1)
        holder = int(link.prefix[1].rpartition("=")[2])
        assert alive(holder)
    assert not alive(holder)
    assert namespace() == before
    assert os.listdir("/sys/class/net") == devices


def test_an_address_beside_loopback_is_listened_at(server: PrivatePostgres) -> None:
    for address in ("127.0.0.1", *server.addresses):
        with psycopg.connect(server.conninfo(host=address)) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_where_no_namespace_can_be_made_that_is_said(
    janitor: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="no network namespace"), Network(janitor, real=True):
        pass
    with Network(janitor) as network:
        assert repr(network) == "<Network of 0 proxies>"
