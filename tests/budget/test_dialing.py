"""What a guard's connects are made with: what the application says, and what is told beside it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from poolguard import Guard
from poolguard.budget.dialing import Dialing, effective
from poolguard.budget.queries import rows
from poolguard.lab.postgres import PrivatePostgres
from poolguard.settings import Settings
from tests.support import until

TOLD = {
    "client_connection_check_interval": "1000",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
SHOW = f"SELECT name, setting FROM pg_settings WHERE name IN ({', '.join(map(repr, TOLD))})"


def shown(conn: psycopg.Connection[Any]) -> dict[str, str]:
    return {row["name"]: row["setting"] for row in rows(conn, SHOW)}


def in_session(guard: Guard, *statements: str) -> dict[str, str]:
    """What of ours holds in a session of *guard* after these."""

    async def run() -> dict[str, str]:
        async with guard, guard.aconnection() as conn:
            await conn.set_autocommit(True)
            for statement in statements:
                await conn.execute(statement)
            found = await (await conn.execute(SHOW)).fetchall()
            await conn.set_autocommit(False)
            return dict(found)

    if guard.settings.mode == "async":
        return asyncio.run(run())
    with guard, guard.connection() as conn:
        conn.autocommit = True
        for statement in statements:
            conn.execute(statement)
        conn.autocommit = False
        return shown(conn)


# -- what a session is told --------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["RESET ALL", "DISCARD ALL"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_a_session_is_told_outlives_a_reset(dsn: str, mode: str, statement: str) -> None:
    assert in_session(Guard(dsn, mode=mode, budget=4, floor=1), statement) == TOLD


def test_what_the_operator_has_told_a_role_is_left_alone(postgres: PrivatePostgres) -> None:
    """Unless it is as good as nothing."""
    role = postgres.create_role("told")
    with postgres.connect() as admin:
        admin.execute("ALTER ROLE told SET client_connection_check_interval = '0.2s'")
        admin.execute("ALTER ROLE told SET tcp_keepalives_idle = 600")
    found = in_session(Guard(role, budget=4, floor=1))
    assert found == {**TOLD, "client_connection_check_interval": "200"}


def test_a_server_that_does_not_take_all_of_it_is_told_the_rest(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As PostgreSQL 13, which has no such setting; nor is any connect counted as failed."""
    known = "client_connection_check_interval=1000"
    all_, some = Dialing(Settings())._left
    monkeypatch.setattr(
        "poolguard.budget.dialing.OPTIONS", (all_.replace(known, f"{known}k"), some)
    )
    guard = Guard(dsn, budget=6, floor=3)
    assert in_session(guard, "DISCARD ALL") == {**TOLD, "client_connection_check_interval": "0"}
    assert caplog.messages == []


@contextmanager
def refusing(target: int, text: str) -> Iterator[int]:
    """The port of what stands before a server and refuses clients that send options."""

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", target)) as server:
            length = client.recv(4, socket.MSG_WAITALL)
            startup = length + client.recv(struct.unpack("!I", length)[0] - 4, socket.MSG_WAITALL)
            if b"\0options\0" in startup:
                fields = f"SFATAL\0C08P01\0M{text}\0\0".encode()
                client.sendall(b"E" + struct.pack("!I", 4 + len(fields)) + fields)
                return
            server.sendall(startup)
            back = threading.Thread(target=copy, args=(server, client), daemon=True)
            back.start()
            copy(client, server)
            back.join()

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    "text",
    [
        "unsupported startup parameter: options",
        "unsupported startup parameter in options: tcp_keepalives_idle",
        "Feature not supported: command-line options are not supported",
    ],
)
def test_where_options_are_refused_nobody_notices(
    postgres: PrivatePostgres, text: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Poolers do so, each in its own words: no connect counts as failed, and none is late."""
    with refusing(postgres.port, text) as port:
        dsn = postgres.conninfo(port=port, sslmode="disable", gssencmode="disable")
        guard = Guard(dsn, mode=mode, budget=6, floor=3, acquire_timeout=20)
        assert in_session(guard) == TOLD  # by the greeting: this is PostgreSQL after all
        rotating = Guard(lambda: dsn, name="rotating", mode=mode, budget=6, floor=3)
        assert in_session(rotating) == TOLD
    assert caplog.messages == []


def test_refused_in_words_that_say_nothing_they_are_sent_no_more(postgres: PrivatePostgres) -> None:
    with (
        refusing(postgres.port, "no") as port,
        Guard(postgres.conninfo(port=port, sslmode="disable"), budget=4, floor=1) as guard,
    ):
        until(lambda: guard.ready)


REFUSED = "connection to server failed: FATAL:  "


@pytest.mark.parametrize(
    ("text", "again", "left"),
    [
        ("connection refused", False, 2),
        ("connection timeout expired", False, 2),
        (REFUSED + 'password authentication failed for user "me"', False, 2),
        (REFUSED + "sorry, too many clients already", False, 2),
        (REFUSED + "the database system is starting up", False, 2),
        (REFUSED + 'parameter "client_connection_check_interval" ist unbekannt', True, 1),
        (REFUSED + "unsupported startup parameter: options", True, 0),
        (REFUSED + "why not", False, 0),
    ],
)
def test_what_a_refusal_leaves(text: str, again: bool, left: int) -> None:
    dialing = Dialing(Settings())
    assert dialing.refused(psycopg.OperationalError(text)) == again
    assert len(dialing._left) == left


def test_what_was_taken_once_is_not_given_up_for_another_reason() -> None:
    dialing = Dialing(Settings())
    dialing.succeeded(pooled=False)
    assert not dialing.refused(psycopg.OperationalError(REFUSED + "why not"))
    assert dialing.options


def test_a_pooler_that_is_known_of_is_told_nothing(dsn: str) -> None:
    assert "options" not in Dialing(Settings.build(pooler="session")).beside(dsn)
    dialing = Dialing(Settings())
    dialing.succeeded(pooled=True)
    assert "options" not in dialing.beside(dsn)


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ("-c geqo=off", True),
        ("-c search_path=a\\ b  --work_mem=4MB -cgeqo=off", True),
        ("endpoint=quiet-sea-123", False),  # it is a proxy's, which may read nothing else
        ("reference=abc -c geqo=off", False),
    ],
)
def test_the_applications_own_options_come_last(theirs: str, told: bool) -> None:
    """So they count; and where they are no settings, nothing is put before them."""
    options = Dialing(Settings()).beside(make_conninfo("", options=theirs)).get("options")
    assert options == (f"{Dialing(Settings()).options} {theirs}" if told else None)


def test_options_of_a_variable_hold_too(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c client_connection_check_interval=5000")
    found = in_session(Guard(dsn, budget=4, floor=1), "RESET ALL")
    assert found == {**TOLD, "client_connection_check_interval": "5000"}


# -- what the application says -----------------------------------------------------------------


@pytest.fixture
def service(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A service that says all there is to say."""
    place = conninfo_to_dict(dsn)
    said = {**place, "connect_timeout": 9, "keepalives_idle": 77, "options": "-c geqo=off"}
    lines = ["[shop]", *(f"{key}={value}" for key, value in said.items())]
    path = tmp_path / "services"
    path.write_text("\n".join(lines))
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    return "shop"


def asked_with(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What libpq and psycopg are given by a guard's first connect."""
    given: list[dict[str, Any]] = []
    module: Any = psycopg.connection
    attempts = module.conninfo_attempts

    def noting(params: Any) -> Any:
        given.append(dict(params))
        return attempts(params)

    monkeypatch.setattr(module, "conninfo_attempts", noting)
    with guard, guard.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        parameters = conn.info.get_parameters()
    return {**parameters, "connect_timeout": str(given[0].get("connect_timeout"))}


Spelled = Callable[[str], Any]
SPELLINGS: dict[str, Spelled] = {
    "string": lambda service: f"service={service}",
    "URL": lambda service: f"postgresql:///?service={service}",
    "callable": lambda service: lambda: f"service={service}",
}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_a_service_file_is_obeyed(
    service: str, spelled: Spelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked_with(Guard(spelled(service), budget=4, floor=1), monkeypatch)
    assert (found["connect_timeout"], found["keepalives_idle"]) == ("9", "77")
    assert found["keepalives_count"] == "3"
    assert found["options"].endswith("client_connection_check_interval=1000 -c geqo=off")


def test_a_service_that_a_variable_names_is_obeyed(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSERVICE", service)
    found = asked_with(Guard(budget=4, floor=1), monkeypatch)
    assert (found["connect_timeout"], found["keepalives_idle"]) == ("9", "77")


@pytest.mark.parametrize("later", [False, True])
def test_a_callables_answer_is_obeyed_and_completed(dsn: str, later: bool) -> None:
    def answer() -> str:
        return make_conninfo(dsn, connect_timeout=8, keepalives_idle=66)

    async def awaited() -> str:
        return answer()

    def completed(dialing: Dialing) -> dict[str, Any]:
        given = dialing.completing(awaited if later else answer)()
        return conninfo_to_dict(asyncio.run(_result(given)) if later else given)

    found = completed(Dialing(Settings()))
    assert (found["connect_timeout"], found["keepalives_idle"]) == ("8", "66")
    assert (found["keepalives_count"], found["port"]) == ("3", conninfo_to_dict(dsn)["port"])
    found = completed(Dialing(Settings.build(connect_timeout=3)))
    assert found["connect_timeout"] == "3"


async def _result(given: Any) -> str:
    text: str = await given
    return text


def test_what_libpq_goes_by_is_known_without_connecting_and_without_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "11")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    found = effective("postgresql://me:secret@one:1,two:2/shop?keepalives=0")
    assert found["host"] == "one,two"
    assert (found["connect_timeout"], found["keepalives"]) == ("11", "0")
    assert "password" not in found
    unknown = effective("service=nowhere connect_timeout=4")
    assert unknown["connect_timeout"] == "4"
