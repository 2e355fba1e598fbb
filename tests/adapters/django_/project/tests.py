"""The project's own tests, for ``manage.py test``."""

from __future__ import annotations

from django.db import connection
from django.test import TestCase

from .models import Book


class First(TestCase):  # type: ignore[misc]
    def test_book(self) -> None:
        Book.objects.create(title="first")
        assert connection.settings_dict["NAME"].startswith("test_")
        assert connection.pool is None


class Second(First):
    """In the other process."""
