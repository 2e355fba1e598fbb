"""Frameworks that make the engine themselves, and hand its arguments on."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, text

import poolguard
from poolguard.sqlalchemy import GuardPool


@pytest.mark.usefixtures("worker")
def test_flask_sqlalchemys_engine_is_pooled(url: URL) -> None:
    """Its options are one line of the configuration; it returns a session's connection as the
    application's context ends."""
    flask = pytest.importorskip("flask")
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    app = flask.Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url.render_as_string(hide_password=False)
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"plugins": ["poolguard"]}
    db = flask_sqlalchemy.SQLAlchemy(app)
    with app.app_context():
        guard = poolguard.sqlalchemy.guard(db.engine)
        assert isinstance(db.engine.pool, GuardPool)
        assert db.session.scalar(text("SELECT 1")) == 1
        assert guard.status()["used"] == 1
    assert guard.status()["used"] == 0
    poolguard.forget(guard)


@pytest.mark.usefixtures("worker")
def test_sqlmodels_engine_is_pooled(url: URL) -> None:
    sqlmodel = pytest.importorskip("sqlmodel")
    engine = sqlmodel.create_engine(url, plugins=["poolguard"])
    assert isinstance(engine.pool, GuardPool)
    with sqlmodel.Session(engine) as session:
        assert session.scalar(text("SELECT 1")) == 1
    poolguard.forget(poolguard.sqlalchemy.guard(engine))
