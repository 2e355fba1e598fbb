"""The application that gunicorn runs: a factory's, with raw psycopg."""

from __future__ import annotations

import os

from flask import Flask, Response, request, stream_with_context

from poolguard.flask import PoolGuard

from .conftest import add, backend

db = PoolGuard()


def create_app() -> Flask:
    app = Flask("shop")
    app.config["POOLGUARD"] = {"floor": 1, "budget": 2, "acquire_timeout": 0.2}
    app.config["PROPAGATE_EXCEPTIONS"] = "TEST_PROPAGATE" in os.environ
    db.init_app(app)

    @app.get("/query")
    def query() -> dict[str, object]:
        return {"backend": backend(db), "pooled": db.guard.opened, "pid": os.getpid()}

    @app.get("/add")
    def write() -> str:
        add(db, request.args["name"])
        if "fail" in request.args:
            raise ValueError
        return "done"

    @app.get("/add-twice")
    def write_twice() -> str:
        add(db, "same")
        add(db, "same")
        return "done"

    @app.get("/stream")
    def stream() -> Response:
        return Response(stream_with_context(f"{backend(db)} " for _ in range(2)))

    @app.get("/status")
    def status() -> dict[str, object]:
        return db.guard.status()

    @app.get("/starve")
    def starve() -> str:
        with db.guard.connection(), db.guard.connection():
            return str(db.connection)

    return app


if "TEST_AT_IMPORT" in os.environ:
    with create_app().app_context():
        backend(db)
