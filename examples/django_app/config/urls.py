"""Which path leads where."""

from django.urls import path
from shop import views  # type: ignore[import-not-found]

urlpatterns = [
    path("products", views.products),
    path("products/<int:number>", views.product),
    path("orders", views.orders),
]
