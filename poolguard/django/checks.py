"""What in ``settings.DATABASES`` cannot work with a guard.

``manage.py check`` says it. A worker says it as it boots, since no server runs Django's checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.utils import DEFAULT_DB_ALIAS, load_backend

from ..errors import SettingsError
from ..settings import Settings

__all__ = ["aliases", "check", "insist_valid"]


def aliases() -> list[str]:
    """The databases whose engine takes its connections from a guard, the default one first."""
    found = [alias for alias in connections.settings if _is_guarded(alias)]
    return sorted(found, key=lambda alias: alias != DEFAULT_DB_ALIAS)


def _is_guarded(alias: str) -> bool:
    with suppress(
        ImproperlyConfigured
    ):  # an engine that is not installed: Django says so, when used
        engine = load_backend(connections.settings[alias]["ENGINE"]).DatabaseWrapper
        return bool(getattr(engine, "is_guarded", False))
    return False


def insist_valid(found: Iterable[str]) -> None:
    """Raise :exc:`~poolguard.errors.SettingsError`, with a line for each thing that is wrong."""
    lines = []
    for alias in found:
        if alias not in connections.settings:
            lines.append(f"DATABASES has no {alias!r}, but {', '.join(map(repr, aliases()))}")
        elif not _is_guarded(alias):
            engine = connections.settings[alias]["ENGINE"]
            lines.append(
                f"DATABASES[{alias!r}] has the engine {engine!r}, whose connections no guard "
                f"lends: write 'poolguard.django'"
            )
        else:
            lines += [f"{each.msg}. {each.hint}" for each in _problems(alias)]
    if lines:
        raise SettingsError("\n".join(lines))


def check(**_: Any) -> list[checks.Error]:
    """poolguard's part of ``manage.py check``."""
    return [problem for alias in aliases() for problem in _problems(alias)]


checks.register(check)


def _problems(alias: str) -> Iterator[checks.Error]:
    given = connections.settings[alias]
    age = given["CONN_MAX_AGE"]
    if age != 0:
        yield checks.Error(
            f"DATABASES[{alias!r}]: CONN_MAX_AGE={age!r} would have each thread keep a connection "
            f"that the guard lends to one request after the other",
            hint="Drop it (dj_database_url: conn_max_age=0): the guard keeps connections open.",
            id="poolguard.E001",
        )
    if given["OPTIONS"].get("pool"):
        yield checks.Error(
            f"DATABASES[{alias!r}]: OPTIONS['pool'] is a second pool, and the guard is the first",
            hint="Drop it. Its min_size is floor in OPTIONS['poolguard'], its timeout is "
            "acquire_timeout.",
            id="poolguard.E002",
        )
    for line in _wrong(given["OPTIONS"].get("poolguard")):
        yield checks.Error(
            f"DATABASES[{alias!r}]: OPTIONS['poolguard']: {line}",
            hint="It takes the guard's settings by their names, such as {'floor': 4}.",
            id="poolguard.E003",
        )


def _wrong(given: Any) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, dict):
        return [f"it takes a dict of settings, no {type(given).__name__}"]
    lines = [
        f"{name} is not for it: {why}; drop it"
        for name, why in (
            ("dsn", "DATABASES says where the database is"),
            ("mode", "Django's connections are sync"),
        )
        if name in given
    ]
    rest = {str(key): given[key] for key in given if key not in ("dsn", "mode")}
    try:
        Settings.build(environ={}, **rest)
    except SettingsError as error:
        lines += str(error).splitlines()
    return lines
