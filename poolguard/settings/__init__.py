"""The settings: what each takes, its default, where its value came from, and what contradicts what.

Only the standard library is imported: gunicorn.conf.py reads settings before psycopg may exist.
"""

from __future__ import annotations

from .kinds import Kind, Percent
from .names import NAMES_OF_OTHERS, RENAMED, checked_name, warn_of_rename
from .settings import DESCRIPTIONS, MOST_SLOTS, VARIABLES, Settings, least_of_fleet
from .urls import other_database, plain_url

__all__ = [
    "DESCRIPTIONS",
    "MOST_SLOTS",
    "NAMES_OF_OTHERS",
    "RENAMED",
    "VARIABLES",
    "Kind",
    "Percent",
    "Settings",
    "checked_name",
    "least_of_fleet",
    "other_database",
    "plain_url",
    "warn_of_rename",
]
