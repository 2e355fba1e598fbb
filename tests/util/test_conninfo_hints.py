"""Parameters that libpq does not know: each is named, with what to write instead, and no secret."""

from __future__ import annotations

import pytest
from psycopg.pq import version

from poolguard.errors import SettingsError
from poolguard.util.conninfo import parse
from poolguard.util.conninfo_hints import hints

URL = "postgresql://alice:pw@db.internal:6432/shop?"


def remedies(conninfo: str) -> dict[str, str]:
    """What is to be written instead, by the name of the parameter."""
    found = {}
    for line in hints(conninfo):
        begins, _, remedy = line.partition("; ")
        why, _, name = begins.partition(" knows no parameter ")
        assert why == f"libpq cannot read it: its version {version() // 10000}"
        found[name.strip("'")] = remedy
    return found


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ssl", "write sslmode=… instead"),
        ("sslMode", "write sslmode=… instead"),
        ("ssl_ca", "write sslrootcert=… instead"),
        ("charset", "write client_encoding=… instead"),
        ("ApplicationName", "write application_name=… instead"),
        ("targetServerType", "write target_session_attrs=… instead"),
        ("connectTimeout", "write connect_timeout=… instead"),
        ("pgbouncer", "drop it, and set poolguard's pooler (or POOLGUARD_POOLER) instead"),
        (
            "connection_limit",
            "drop it, and set poolguard's max_size (or POOLGUARD_MAX_SIZE) instead",
        ),
        ("min_size", "drop it, and set poolguard's floor (or POOLGUARD_FLOOR) instead"),
        ("floor", "drop it, and set poolguard's floor (or POOLGUARD_FLOOR) instead"),
        ("conect_timeout", "did you mean connect_timeout?"),
        ("prepareThreshold", "drop it"),
        ("zoo", "drop it"),
    ],
)
@pytest.mark.parametrize("begins", [URL, "postgres:///?", "postgresql://h?", "host=db "])
def test_what_to_write_instead(begins: str, name: str, remedy: str) -> None:
    assert remedies(f"{begins}{name}=1") == {name: remedy}


@pytest.mark.parametrize("name", ["schema", "currentSchema", "search_path"])
def test_a_parameter_of_the_server_is_handed_on(name: str) -> None:
    said = "write options={} instead"
    assert remedies(f"{URL}{name}=a") == {name: said.format("-csearch_path%3D…")}
    assert remedies(f"host=db {name}=a") == {name: said.format("'-csearch_path=…'")}


def test_what_is_written_instead_is_what_libpq_reads() -> None:
    assert parse(f"{URL}options=-csearch_path%3Dpublic", "")["options"] == "-csearch_path=public"
    assert parse("options='-csearch_path=public'", "")["options"] == "-csearch_path=public"
    assert parse(f"{URL}ssl=true", "")["sslmode"] == "require"


def test_each_has_a_line_that_names_where_it_came_from() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(f"{URL}sslmode=require&pgbouncer=true&zoo=1&ssl=true", "variable DATABASE_URL")
    one, other = str(caught.value).splitlines()
    assert one.startswith("variable DATABASE_URL: libpq cannot read it: ")
    assert " parameter 'pgbouncer'; drop it, and set" in one
    assert other.startswith("variable DATABASE_URL: libpq cannot read it: ")
    assert other.endswith(" parameter 'zoo'; drop it")


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://u:pa/a?tops3cret=1@db/shop",
        "postgresql://u:p@a?tops3cret=1@db/shop",
        f"{URL}password=pa&tops3cret=1",
        f"{URL}zoo=1&password=pa&tops3cret=1",
        f"{URL}tops3cret%31=1",
        "host=db password=pa tops3cret=1",
        "host=db password='pa tops3cret=1' zoo=1",
        "host=db password='pa tops3cret=1",
        "host=db password=pa\\ tops3cret=1 zoo=1",
        "tops3cret:5432/shop?a=b",
    ],
)
def test_what_could_be_a_piece_of_a_password_is_not_shown(conninfo: str) -> None:
    assert "s3cret" not in "".join(hints(conninfo))
    with pytest.raises(SettingsError) as caught:
        parse(conninfo, "keyword dsn")
    assert "s3cret" not in str(caught.value)


def test_what_others_know_is_shown_all_the_same() -> None:
    """It stands in the table of names, so it tells nothing."""
    assert [*remedies(f"{URL}user=a@b&schema=x&password=p&pgbouncer=1")] == ["schema", "pgbouncer"]
    assert [*remedies("host=db password='p q' schema=x")] == ["schema"]
