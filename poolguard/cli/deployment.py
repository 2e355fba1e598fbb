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
    "PLACES",
    "SETTINGS",
    "WORKERS_VARIABLE",
    "add_options",
    "add_places",
    "fleet_of",
    "option",
    "settings_of",
    "spoken",
    "workplace_of",
]

SETTINGS = (
    *("budget", "reserve", "instances", "workers", "floor", "max_size"),
    *("ledger", "ledger_label", "pooler"),
)
"""The settings that are options too, beside those of :data:`PLACES`."""
PLACES = ("dsn", "ledger_dsn")
"""The settings that say where databases are. They may hold a password, and are not shown."""
KINDS = {"ledger": "KIND", "pooler": "KIND", "ledger_label": "NAME"}
WORKERS_VARIABLE = "WEB_CONCURRENCY"
"""The variable from which gunicorn takes its number of workers, unless it is told otherwise."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a deployment. One that is left out has its variable's value."""
    add_places(parser)
    for name in SETTINGS:
        if name != "ledger_label":
            parser.add_argument(
                option(name),
                metavar=KINDS.get(name, "N"),
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


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the database is, and where a fleet shares its budget."""
    parser.add_argument(
        "--dsn", metavar="URL", help="where the database is; without it, as the environment says"
    )
    parser.add_argument("--ledger-dsn", metavar="URL", help=DESCRIPTIONS["ledger_dsn"])
    parser.add_argument(
        "--ledger-label", metavar=KINDS["ledger_label"], help=DESCRIPTIONS["ledger_label"]
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
        return Settings.build(**{name: getattr(options, name) for name in (*PLACES, *SETTINGS)})
    except SettingsError as error:
        raise SettingsError(spoken(str(error))) from None


def fleet_of(options: argparse.Namespace) -> Settings:
    """The settings of a service as far as they say where its fleet is: from the options of
    :func:`add_places`, else from variables.

    Raises SettingsError in the words of the command line.
    """
    given = {name: getattr(options, name) for name in (*PLACES, "ledger_label")}
    try:
        return Settings.build(ledger="fleet", **given)
    except SettingsError as error:
        raise SettingsError(spoken(str(error))) from None


def workplace_of(options: argparse.Namespace, settings: Settings) -> Workplace:
    """gunicorn's worker class and its numbers, as given, else gunicorn's own defaults."""
    workers = settings.workers
    if workers == "auto":
        workers = web_concurrency() or 1
    threads = options.threads or 1
    return Workplace.of(options.worker_class or "sync", workers, threads)
