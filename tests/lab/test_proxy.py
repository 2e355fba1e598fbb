"""The proxy delays, holds, resets and refuses, and otherwise changes nothing."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from poolguard.errors import LabError
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy
from tests.support import alive, until

Serve = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def server() -> Iterator[PrivatePostgres]:
    with PrivatePostgres() as server:
        yield server


@pytest.fixture
def proxy(server: PrivatePostgres) -> Iterator[SlowProxy]:
    with SlowProxy(("127.0.0.1", server.port), connect_delay=0) as proxy:
        yield proxy


@contextlib.contextmanager
def through_proxy(
    serve: Serve, *, latency: float = 0.0
) -> Iterator[tuple[SlowProxy, socket.socket]]:
    """A server of one connection, a proxy before it, and a client's socket to that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        with (
            SlowProxy(listener.getsockname(), connect_delay=0, latency=latency) as proxy,
            socket.create_connection((proxy.host, proxy.port), timeout=10) as client,
        ):
            yield proxy, client
            thread.join(10)
            assert not thread.is_alive()


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def readable(connection: socket.socket | psycopg.Connection, within: float) -> bool:
    return bool(select.select([connection], [], [], within)[0])


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def test_connecting_is_as_slow_as_asked_and_queries_are_not(server: PrivatePostgres) -> None:
    with SlowProxy(("127.0.0.1", server.port), connect_delay=0.2) as proxy:
        connections = []
        assert 0.2 <= timed(lambda: connections.append(server.connect(port=proxy.port))) < 0.7
        with connections[0] as connection:
            assert timed(lambda: connection.execute("SELECT 1")) < 0.15
        proxy.set(connect_delay=0)
        assert timed(lambda: connections.append(server.connect(port=proxy.port))) < 0.15
        connections[1].close()
        assert repr(proxy) == f"SlowProxy(127.0.0.1:{proxy.port} -> 127.0.0.1:{server.port})"


def test_connects_wait_side_by_side(server: PrivatePostgres) -> None:
    with SlowProxy(("127.0.0.1", server.port), connect_delay=0.3) as proxy:
        threads = [
            threading.Thread(target=lambda: server.connect(port=proxy.port).close())
            for _ in range(10)
        ]

        def run() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert 0.3 <= timed(run) < 1.2
        assert proxy.stats()["accepted"] == 10
        until(lambda: proxy.stats()["open"] == 0)


def test_the_clients_half_close_leaves_the_way_back_open() -> None:
    def count_then_answer(connection: socket.socket) -> None:
        connection.sendall(str(len(read_all(connection))).encode())

    with through_proxy(count_then_answer) as (proxy, client):
        client.sendall(b"x" * 3_000_000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"3000000"
        until(lambda: proxy.stats() == {"open": 0, "accepted": 1})


def test_the_servers_half_close_leaves_the_way_there_open() -> None:
    received = []

    def farewell(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        received.append(read_all(connection))

    with through_proxy(farewell) as (_, client):
        assert read_all(client) == b"bye"
        client.sendall(b"still here")
        client.shutdown(socket.SHUT_WR)
        until(lambda: received == [b"still here"])


def test_a_slow_reader_slows_the_sender_down_and_gets_everything() -> None:
    size = 50_000_000
    sent = threading.Event()

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"x" * size)
        sent.set()

    with through_proxy(flood) as (_, client):
        assert readable(client, 10)
        assert not sent.wait(0.3)
        assert len(read_all(client)) == size


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_is_passed_on(side: str) -> None:
    seen: list[type[BaseException]] = []
    ready = threading.Event()

    def reset(connection: socket.socket) -> None:
        linger = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()

    def reset_when_asked(connection: socket.socket) -> None:
        connection.recv(1)  # before, it could be the client's connect that fails
        reset(connection)

    def expect_reset(connection: socket.socket) -> None:
        ready.set()
        try:
            read_all(connection)
        except ConnectionResetError as error:
            seen.append(type(error))

    serve = expect_reset if side == "client" else reset_when_asked
    with through_proxy(serve) as (_, client):
        if side == "client":
            assert ready.wait(10)
            client.sendall(b"x")
            reset(client)
        else:
            client.sendall(b"x")
            expect_reset(client)
        until(lambda: seen == [ConnectionResetError])


def test_latency_is_added_in_each_direction_and_keeps_the_order() -> None:
    with through_proxy(echo, latency=0.1) as (proxy, client):
        began = time.perf_counter()
        client.sendall(b"slow ")
        until(lambda: proxy.stats()["open"])
        assert client.recv(5) == b"slow "
        assert 0.2 <= time.perf_counter() - began < 0.7
        client.sendall(b"first ")
        proxy.set(latency=0)
        client.sendall(b"second")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"first second"


def test_a_blackhole_holds_all_and_resume_lets_it_flow() -> None:
    with through_proxy(echo) as (proxy, client):
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        proxy.blackhole()
        client.sendall(b"b")
        client.shutdown(socket.SHUT_WR)
        assert not readable(client, 0.2)
        proxy.resume()
        assert read_all(client) == b"b"


def test_a_blackhole_holds_what_is_on_its_way() -> None:
    arrived = threading.Event()

    def receive(connection: socket.socket) -> None:
        assert connection.recv(1) == b"a"
        arrived.set()

    with through_proxy(receive, latency=0.3) as (proxy, client):
        client.sendall(b"a")
        until(lambda: proxy.stats()["open"])
        proxy.blackhole()
        assert not arrived.wait(0.6)
        proxy.resume()
        assert arrived.wait(10)


def test_a_blackhole_hangs_new_connections_until_resume(
    server: PrivatePostgres, proxy: SlowProxy
) -> None:
    proxy.blackhole()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        server.connect(port=proxy.port, connect_timeout=2)
    with socket.create_connection((proxy.host, proxy.port)) as hung:
        hung.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")  # "do you speak TLS?"
        assert not readable(hung, 0.1)
        proxy.resume()
        assert readable(hung, 10)
        assert hung.recv(1) in b"NS"
    server.connect(port=proxy.port).close()


def test_reset_all_breaks_every_connection(server: PrivatePostgres, proxy: SlowProxy) -> None:
    connections = [server.connect(port=proxy.port) for _ in range(3)]
    pids = [connection.info.backend_pid for connection in connections]
    proxy.reset_all()
    for connection in connections:
        assert readable(connection, 10)
        with connection, pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert proxy.stats()["open"] == 0
    until(lambda: not any(map(alive, pids)))
    server.connect(port=proxy.port).close()


def test_silence_takes_those_that_are_there_and_no_new_ones(
    server: PrivatePostgres, proxy: SlowProxy
) -> None:
    """Neither side hears a word: not of a query, nor of the other's end."""
    conninfo = server.conninfo(host=proxy.host, port=proxy.port)
    with psycopg.connect(conninfo, autocommit=True) as conn, server.connect() as admin:
        pid = conn.info.backend_pid
        proxy.silence_all()
        with psycopg.connect(conninfo) as new:
            assert new.execute("SELECT 1").fetchone() == (1,)
        conn.pgconn.send_query(b"SELECT pg_terminate_backend(pg_backend_pid())")
        proxy.resume()
        assert select.select([conn.pgconn.socket], [], [], 0.5)[0] == []
        conn.close()
        query = "SELECT state FROM pg_stat_activity WHERE pid = %s"
        assert admin.execute(query, [pid]).fetchone() == ("idle",)
        proxy.reset_all()
        until(lambda: admin.execute(query, [pid]).fetchone() is None)


def test_what_is_forgotten_is_reset_towards_the_client_alone(
    server: PrivatePostgres, proxy: SlowProxy
) -> None:
    conninfo = server.conninfo(host=proxy.host, port=proxy.port)
    with psycopg.connect(conninfo) as conn, server.connect() as admin:
        pid = conn.info.backend_pid
        proxy.forget_all()
        assert readable(conn, 10)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        with psycopg.connect(conninfo) as new:
            assert new.execute("SELECT 1").fetchone() == (1,)
        query = "SELECT state FROM pg_stat_activity WHERE pid = %s"
        assert admin.execute(query, [pid]).fetchone() == ("idle",)


def test_refuse_lets_nobody_in_and_keeps_those_inside(
    server: PrivatePostgres, proxy: SlowProxy
) -> None:
    with server.connect(port=proxy.port) as connection:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((proxy.host, proxy.port))
        with pytest.raises(psycopg.OperationalError, match="refused"):
            server.connect(port=proxy.port)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        port = proxy.port
        proxy.resume()
        assert proxy.port == port
        server.connect(port=port).close()


def test_the_client_sees_the_servers_end(server: PrivatePostgres, proxy: SlowProxy) -> None:
    with server.connect(port=proxy.port) as connection, server.connect() as killer:
        assert not readable(connection, 0)
        killer.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        with socket.socket(fileno=os.dup(connection.fileno())) as raw:
            raw.settimeout(10)
            assert b"57P01" in read_all(raw)
    until(lambda: proxy.stats()["open"] == 0)


def test_the_server_sees_the_clients_end(server: PrivatePostgres, proxy: SlowProxy) -> None:
    connection = server.connect(port=proxy.port)
    pid = connection.info.backend_pid
    connection.close()
    until(lambda: not alive(pid))
    until(lambda: proxy.stats()["open"] == 0)


def test_a_server_that_refuses_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    with (
        SlowProxy(nobody, connect_delay=0) as proxy,
        pytest.raises(ConnectionResetError),
        socket.create_connection((proxy.host, proxy.port), timeout=10) as client,
    ):
        client.recv(1)


def test_a_given_port_is_taken_or_reported(server: PrivatePostgres) -> None:
    with pytest.raises(LabError, match=r"could not 'open': .*in use"):
        SlowProxy(("127.0.0.1", server.port), port=server.port)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_owner(number: signal.Signals) -> None:
    owner = (
        "import signal\n"
        "from poolguard.lab.proxy import SlowProxy\n"
        "proxy = SlowProxy(('127.0.0.1', 1))\n"
        "print(proxy.pid, flush=True)\n"
        "signal.pause()\n"
    )
    argv = [sys.executable, "-c", owner]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.send_signal(number)
    until(lambda: not alive(pid))
