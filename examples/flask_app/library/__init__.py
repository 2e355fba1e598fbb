"""The library as a Flask application. DATABASE_URL says where the database is."""

import os

from flask import Flask
from sqlalchemy import make_url

from . import views
from .models import db

__all__ = ["create_app"]


def create_app() -> Flask:
    """The application, which gunicorn.conf.py names."""
    app = Flask(__name__)
    url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"plugins": ["poolguard"]}
    db.init_app(app)
    app.register_blueprint(views.pages)
    return app
