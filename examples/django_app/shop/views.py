"""The shop's pages, as JSON."""

# mypy: allow-untyped-decorators

import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from .models import Order, OrderLine, Product


@require_GET
def products(request: HttpRequest) -> JsonResponse:
    """All that is on sale."""
    found = Product.objects.order_by("name").values("id", "name", "price", "stock")
    return JsonResponse({"products": list(found)})


@require_GET
def product(request: HttpRequest, number: int) -> JsonResponse:
    """One product, or 404."""
    found = get_object_or_404(Product, pk=number)
    return JsonResponse({"id": found.pk, "name": found.name, "stock": found.stock})


@require_POST
def orders(request: HttpRequest) -> JsonResponse:
    """Order ``{"lines": {"<product>": <quantity>}}``: all of it, or nothing and 409."""
    wanted = {int(key): int(n) for key, n in json.loads(request.body)["lines"].items()}
    with transaction.atomic():
        # In the order of their numbers, so that two orders never wait for each other.
        found = Product.objects.select_for_update().filter(pk__in=wanted).order_by("pk")
        short = [each.name for each in found if each.stock < wanted[each.pk]]
        if short or len(found) < len(wanted):
            return JsonResponse({"error": "out of stock", "products": short}, status=409)
        order = Order.objects.create()
        for each in found:
            quantity = wanted[each.pk]
            OrderLine.objects.create(order=order, product=each, quantity=quantity, price=each.price)
            each.stock -= quantity
            each.save(update_fields=["stock"])
    return JsonResponse({"order": order.pk}, status=201)
