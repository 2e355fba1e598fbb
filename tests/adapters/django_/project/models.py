"""The project's models."""

from __future__ import annotations

from django.db import models


class Book(models.Model):  # type: ignore[misc]
    title = models.CharField(max_length=100, unique=True)
    read_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "project"

    def __str__(self) -> str:
        return str(self.title)
