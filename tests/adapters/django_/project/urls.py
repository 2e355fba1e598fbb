"""The project's paths."""

from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("status", views.status),
    path("books", views.books),
    path("books-async", views.books_async),
    path("books-streamed", views.books_streamed),
    path("every", views.every),
    path("starve", views.starve),
    path("close", views.close),
    path("fail", views.fail),
    path("many", views.many),
    path("leave", views.leave),
]
