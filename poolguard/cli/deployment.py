"""A deployment, as the options of ``plan`` and ``check`` and the environment describe it."""

from __future__ import annotations

import argparse
import re

from ..budget.plan import Workplace
from ..errors import SettingsError
from ..settings import DESCRIPTIONS, Settings
from ..worker.context import web_concurrency
from .arguments import positive

__all__ = [
    "SETTINGS",
    "WORKERS_VARIABLE",
    "add_options",
    "settings_of",
    "spoken",
    "workplace_of",
]

SETTINGS = ("budget", "reserve", "instances", "workers", "floor", "max_size", "ledger", "pooler")
"""The settings that are options too, beside ``dsn``."""
WORKERS_VARIABLE = "WEB_CONCURRENCY"
"""The variable from which gunicorn takes its number of workers, unless it is told otherwise."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a deployment. One that is left out has its variable's value."""
    parser.add_argument(
        "--dsn", metavar="URL", help="where the database is; without it, as the environment says"
    )
    for name in SETTINGS:
        parser.add_argument(
            option(name),
            metavar="KIND" if name in ("ledger", "pooler") else "N",
            help=DESCRIPTIONS[name].replace("%", "%%"),
        )
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="gunicorn's threads in each worker"
    )
    parser.add_argument(
        "--worker-class",
        metavar="CLASS",
        help="gunicorn's worker class; without it, sync, or gthread with more than one thread",
    )


def option(name: str) -> str:
    """The option of a setting: ``--max-size`` for ``max_size``."""
    return "--" + name.replace("_", "-")


def spoken(text: str) -> str:
    """*text* of an error, in which the keywords of a guard become options of the command line."""
    return re.sub(r"\bkeyword ([a-z_]+)", lambda match: option(match[1]), text)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings: from options, else from variables, else the defaults.

    Raises SettingsError in the words of the command line.
    """
    try:
        return Settings.build(
            dsn=options.dsn, **{name: getattr(options, name) for name in SETTINGS}
        )
    except SettingsError as error:
        raise SettingsError(spoken(str(error))) from None


def workplace_of(options: argparse.Namespace, settings: Settings) -> Workplace:
    """gunicorn's worker class and its numbers, as given, else gunicorn's own defaults."""
    workers = settings.workers
    if workers == "auto":
        workers = web_concurrency() or 1
    threads = options.threads or 1
    return Workplace.of(options.worker_class or "sync", workers, threads)
