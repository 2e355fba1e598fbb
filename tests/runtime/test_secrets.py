"""No password is ever shown: whatever is wrong with a conninfo, its secret is nowhere in sight."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from poolguard import AsyncGuardedPool, Guard, GuardedPool, SettingsError
from poolguard.lab.postgres import PrivatePostgres
from poolguard.pool.errors import PoolTimeout
from poolguard.runtime.status import not_warm
from poolguard.util.conninfo import parse

from ..support import until

SECRET = "tops3cret"
UNREADABLE = {
    "two words": f"host=localhost password=one {SECRET}",
    "open quote": f"host=localhost password='{SECRET}",
    "percent": f"postgresql://u:%zz{SECRET}@localhost/x",
    "space": f"postgresql://u:a {SECRET}@localhost/x",
    "at": f"postgresql://u:p@{SECRET}@localhost/x",
    "slash": f"postgresql://u:{SECRET}/word@localhost/x",
    "at in the database": f"postgresql://u:p@localhost/{SECRET}@b",
    "slash after digits": f"postgresql://u:12/{SECRET}@localhost/x",
    "at and slash": f"postgresql://u:p@{SECRET}/word@localhost/x",
    "comma": f"postgresql://u:p@a,{SECRET}@localhost/x",
    "query before a host": f"postgresql://localhost?password=p@{SECRET}",
    "query after a semicolon": f"postgresql://localhost;password={SECRET}/x",
    "semicolons in a query": f"postgresql://localhost/x?user=u;password={SECRET}",
    "no question mark": f"postgresql://localhost/x&user=u&password={SECRET}",
    "semicolons": f"host=localhost;port=1;user=u;password={SECRET}",
    "semicolons and spaces": f"host=localhost; password={SECRET}",
    "semicolon in quotes": f"host='localhost;password={SECRET}'",
    "commas": f"host=localhost,port=1,password={SECRET}",
    "a URL for a name": f"dbname=postgresql://u:{SECRET}@localhost/x",
    "JDBC": f"jdbc:postgresql://localhost/x?user=u&password={SECRET}",
    "ADO.NET": f"Server=localhost;Port=1;User Id=u;Password={SECRET}",
    "not utf-8": f"postgresql://u:{SECRET}\udcff@localhost/x",
    "port": f"host=localhost port={SECRET}",
    "unknown parameter": f"host=localhost pasword={SECRET}",
}
READABLE = [
    "",
    "host=localhost password=p@ss/word",
    "host=@abstract",
    "host=localhost dbname=a@b",
    "postgresql://u:p@%40abstract/x",
    "host=a,b port=5432,5433",
    "postgresql://u:p%40ss%2Fword@localhost/x",
    "postgresql://localhost/x?user=me@server&password=p@ss",
    "postgresql://u:[p?#:ss]@localhost:5432/x",
    "postgresql://u@a:1,b:2/x",
    "postgresql://localhost/a%40b",
    "postgresql:///x?host=/run/postgresql",
    "postgresql://u:p@%2Frun%2Fpostgresql/x",
    "postgresql://u:p:s@[fe80::1%25eth0]:5432/x",
    "postgresql://u:p;s,s&s|s@localhost/x?application_name=a@b",
    "postgresql://u:p%3Bs%3Ds@localhost/x?options=-csearch_path%3Da,b",
    "host=localhost password='p;s=s' options='-c a=b,c=d'",
    "host=localhost password=p;s,s=s",
    "host=/run/a=b dbname='a;b=c'",
]


def shown_by(error: BaseException) -> str:
    """Everything that a log, a debugger or an error tracker would show of it."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return "".join([*traceback.format_exception(error), *(f"{each!r} {each}" for each in chain)])


class Witness:
    """Uses a guard in every way and keeps all that it says."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self._caplog = caplog
        self._seen: list[str] = []

    def drive(self, guard: Guard) -> None:
        self._try(lambda: guard.open(wait=0.2))
        until(lambda: guard.status()["last_error"])
        self._try(lambda: guard.connection(timeout=0.1).__enter__())
        self._look(guard)
        self._try(guard.close)
        self._look(guard)

    async def adrive(self, guard: Guard) -> None:
        try:
            await guard.aopen(wait=0.2)
            async with guard.aconnection(timeout=0.1):
                pass
        except Exception as error:  # noqa: BLE001 - any kind is looked at
            self._seen.append(shown_by(error))
        self._look(guard)
        await guard.aclose()
        self._look(guard)

    def _try(self, use: Any) -> None:
        try:
            use()
        except Exception as error:  # noqa: BLE001 - any kind is looked at
            self._seen.append(shown_by(error))

    def _look(self, guard: Guard) -> None:
        self._seen += [
            repr(guard),
            repr(guard.settings),
            str(guard.status()),
            not_warm(guard.status(), 1),
        ]
        self._seen.append(repr(guard._runtime))

    def all(self) -> str:
        records = self._caplog.records
        return "\n".join([*self._seen, self._caplog.text, *(repr(r.__dict__) for r in records)])


@pytest.fixture
def witness(caplog: pytest.LogCaptureFixture) -> Witness:
    return Witness(caplog)


@pytest.mark.parametrize("conninfo", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_conninfo(conninfo: str, witness: Witness) -> None:
    """One clear error, wherever it appears; also where libpq reads it, but not as it was meant."""
    witness.drive(Guard(conninfo, budget=1))
    witness.drive(Guard(lambda: conninfo, name="callable", budget=1))
    asyncio.run(witness.adrive(Guard(conninfo, name="async", budget=1, mode="async")))
    asyncio.run(witness.adrive(Guard(lambda: conninfo, name="acallable", budget=1, mode="async")))
    everything = witness.all()
    assert "keyword dsn: libpq cannot read it" in everything
    assert SECRET not in everything


def test_a_wrong_password(postgres: PrivatePostgres, witness: Witness) -> None:
    conninfo = postgres.conninfo(password=SECRET)
    witness.drive(Guard(conninfo))
    asyncio.run(witness.adrive(Guard(conninfo, name="async", mode="async")))
    everything = witness.all()
    assert "password authentication failed" in everything
    assert SECRET not in everything


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_unreachable_host(host: str, witness: Witness) -> None:
    conninfo = make_conninfo(host=host, port=1, user="u", password=SECRET)
    witness.drive(Guard(conninfo, name="words"))
    witness.drive(Guard(f"postgresql://u:{SECRET}@{host}:1/x", name="url"))
    asyncio.run(witness.adrive(Guard(conninfo, name="async", mode="async")))
    everything = witness.all()
    assert "OperationalError" in everything
    assert SECRET not in everything


def test_other_settings_for_the_name_of_an_open_one() -> None:
    with (
        Guard(f"postgresql://u:{SECRET}@127.0.0.1:1/x", warmup_timeout=0, mode="sync"),
        pytest.raises(SettingsError) as caught,
    ):
        Guard(f"postgresql://u:{SECRET}@two/x")
    assert SECRET not in shown_by(caught.value)


@pytest.mark.parametrize("conninfo", READABLE)
def test_what_libpq_reads_as_it_was_meant_passes(conninfo: str) -> None:
    parse(conninfo, "keyword dsn")


@pytest.mark.parametrize("kind", ["at and slash", "semicolons"])
def test_a_pool_alone_asks_no_resolver_for_a_piece_of_a_password(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def look_up(*names: object, **_: object) -> list[object]:
        asked.append(names)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    conninfo = UNREADABLE[kind]
    said = []
    for pool in (GuardedPool(conninfo, open=False), GuardedPool(lambda: conninfo, open=False)):
        with pool:
            until(lambda p=pool: p.status()["last_error"])  # type: ignore[misc]
            with pytest.raises(PoolTimeout) as caught:
                pool.getconn(timeout=0.01)
        said.append(str(caught.value))

    async def use_async() -> None:
        async with AsyncGuardedPool(conninfo, open=False) as pool:
            with pytest.raises(PoolTimeout) as caught:
                await pool.getconn(timeout=0.5)
            said.append(str(caught.value))

    asyncio.run(use_async())
    assert all("SettingsError: conninfo: libpq cannot read it" in each for each in said)
    assert asked == []
    assert SECRET not in "".join([*said, caplog.text])


def test_no_file_is_named_after_a_piece_of_a_password(tmp_path: Path) -> None:
    guard = Guard(UNREADABLE["at and slash"], budget=1, runtime_dir=tmp_path)
    with pytest.raises(SettingsError):
        guard.open(wait=5)
    guard.close()
    assert not any(SECRET in path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("answer", [None, 5, b"postgresql://localhost/x"])
def test_what_is_no_text_is_no_conninfo(answer: Any) -> None:
    """Of a callable, whose answers nobody has looked at before."""
    with pytest.raises(SettingsError):
        parse(answer, "keyword dsn")
