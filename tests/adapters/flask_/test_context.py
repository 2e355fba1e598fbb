"""A connection for each application context: when it is taken, committed, rolled back, returned."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from flask import Flask, Response, abort, after_this_request, stream_with_context

import poolguard
from poolguard.flask import PoolGuard
from tests.support import until

from ..conftest import Things
from .conftest import add, backend, used

# -- how it ends -------------------------------------------------------------------------------


def test_what_a_request_has_done_is_committed(app: Flask, db: PoolGuard, things: Things) -> None:
    @app.get("/")
    def view() -> str:
        add(db, "a")
        return "done"

    assert app.test_client().get("/").text == "done"
    assert things() == ["a"]
    assert used(db) == 0


@pytest.mark.parametrize("error", [ValueError("nobody handles it"), KeyError("handled"), 409])
def test_an_exception_that_leaves_a_view_rolls_back(
    app: Flask, db: PoolGuard, things: Things, error: Exception | int
) -> None:
    """Flask ends the context well where a handler has answered, of ``abort()`` too."""

    @app.errorhandler(KeyError)
    def handle(_: KeyError) -> tuple[str, int]:
        return "handled", 400

    @app.get("/")
    def view() -> str:
        add(db, "half of it")
        if isinstance(error, int):
            abort(error)
        raise error

    assert app.test_client().get("/").status_code in (400, 409, 500)
    assert things() == []
    assert used(db) == 0


def test_an_error_handler_has_a_transaction_of_its_own(
    app: Flask, db: PoolGuard, things: Things
) -> None:
    """That of the view has failed, and the server would refuse every statement in it."""

    @app.errorhandler(psycopg.errors.UndefinedTable)
    def handle(_: Exception) -> str:
        add(db, "handled")
        return "handled"

    @app.get("/")
    def view() -> str:
        add(db, "half of it")
        return str(db.connection.execute("SELECT FROM no_such_table"))

    assert app.test_client().get("/").text == "handled"
    assert things() == ["handled"]


def test_a_commit_that_fails_is_no_success(app: Flask, db: PoolGuard, things: Things) -> None:
    @app.get("/")
    def view() -> str:
        add(db, "same")
        add(db, "same")  # refused by the commit
        return "done"

    with pytest.raises(psycopg.errors.UniqueViolation):
        app.test_client().get("/")
    assert used(db) == 0


def test_a_lost_connection_does_not_hide_the_error(app: Flask, db: PoolGuard) -> None:
    app.testing = True

    @app.get("/")
    def view() -> str:
        db.connection.close()
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        app.test_client().get("/")
    assert used(db) == 0


def test_a_context_outside_of_requests_ends_the_same_way(
    app: Flask, db: PoolGuard, things: Things
) -> None:
    with app.app_context():
        add(db, "well")
    with suppress(SystemExit), app.app_context():
        add(db, "badly")
        raise SystemExit
    assert things() == ["well"]


@pytest.mark.parametrize("told", [True, False])
def test_a_command_that_fails_is_rolled_back(
    app: Flask, db: PoolGuard, things: Things, told: bool
) -> None:
    """click before 8.2 ends the context of a command that fails without a word of it."""

    @app.cli.command("fail")
    def fail() -> None:
        add(db, "half of it")
        raise ValueError

    if told:
        assert isinstance(app.test_cli_runner().invoke(args=["fail"]).exception, ValueError)
    else:
        context = app.app_context()
        context.push()
        try:
            fail.callback.__wrapped__()  # type: ignore[union-attr]
        except ValueError:
            context.pop(None)
    assert things() == []


def test_a_context_in_an_except_clause_may_end_well(
    app: Flask, db: PoolGuard, things: Things
) -> None:
    try:
        raise ValueError
    except ValueError:
        with app.app_context():
            add(db, "noted")
    assert things() == ["noted"]


@pytest.mark.parametrize("db", ["pooled"], indirect=True)
def test_a_teardown_function_that_fails_keeps_no_connection(
    app: Flask, db: PoolGuard, things: Things
) -> None:
    """Flask 3.1 calls none of those before it then: the pool sees that nothing refers to it."""

    @app.teardown_appcontext
    def fail(_: BaseException | None) -> None:
        raise KeyError

    @app.get("/")
    def view() -> str:
        add(db, "never committed")
        return "done"

    with suppress(KeyError):
        app.test_client().get("/")
    gc.collect()
    until(lambda: used(db) == 0)
    assert things() == []


# -- how long it lasts -------------------------------------------------------------------------


def test_a_context_has_one_connection(app: Flask, db: PoolGuard) -> None:
    with app.app_context():
        outer = db.connection
        assert db.connection is outer
        with app.app_context():
            inner = db.connection
            assert inner is not outer
        assert db.connection is outer
        assert not outer.closed


def test_a_context_that_asks_for_none_takes_none(app: Flask, db: PoolGuard) -> None:
    app.get("/")(lambda: "nothing")
    assert app.test_client().get("/").text == "nothing"
    with app.app_context():
        acquires = db.guard.status()["acquires"]
    assert not any(acquires.values())


def test_what_is_done_after_the_view_belongs_to_the_context(
    app: Flask, db: PoolGuard, things: Things
) -> None:
    @app.get("/")
    def view() -> str:
        add(db, "view")
        first = backend(db)

        @after_this_request
        def after(response: Response) -> Response:
            add(db, "after")
            assert backend(db) == first
            return response

        return "done"

    app.testing = True
    app.test_client().get("/")
    assert things() == ["after", "view"]


def test_a_streamed_body_has_a_connection_until_its_end(
    app: Flask, db: PoolGuard, things: Things
) -> None:
    @app.get("/")
    def view() -> Response:
        def body() -> Iterator[str]:
            add(db, "streamed")
            yield "a"
            yield str(used(db))

        return Response(stream_with_context(body()))

    with app.app_context():
        held = int(db.guard.opened)
    assert app.test_client().get("/").text == f"a{held}"
    assert things() == ["streamed"]
    assert used(db) == 0


def test_async_views_use_it_too(app: Flask, db: PoolGuard, things: Things) -> None:
    @app.get("/")
    async def view() -> str:
        await asyncio.sleep(0)
        add(db, "async")
        return "done"

    assert app.test_client().get("/").text == "done"
    assert things() == ["async"]
    assert used(db) == 0


# -- elsewhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("db", ["plain"], indirect=True)
def test_without_a_pool_a_connection_lasts_as_long_as_its_context(
    app: Flask, db: PoolGuard
) -> None:
    with app.app_context():
        conn = db.connection
        assert not db.guard.opened
    assert conn.closed


def test_a_plain_connection_is_as_the_guard_says(dsn: str) -> None:
    class Own(psycopg.Connection[object]):
        pass

    def configure(conn: psycopg.Connection[object]) -> None:
        conn.autocommit = True

    guard = poolguard.Guard(
        lambda: dsn,
        connection_class=Own,
        configure=configure,
        kwargs=lambda: {"application_name": "shop"},
    )
    app = Flask("shop")
    db = PoolGuard(app, guard=guard)
    with app.app_context():
        assert isinstance(db.connection, Own)
        assert db.connection.autocommit
        assert db.connection.info.parameter_status("application_name") == "shop"
