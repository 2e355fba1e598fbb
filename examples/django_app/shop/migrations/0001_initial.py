"""The tables of the shop, and three products, so that there is something to buy."""

# mypy: allow-subclassing-any

from typing import Any, ClassVar

import django.db.models.deletion
from django.db import migrations, models


def add_products(apps: Any, schema_editor: Any) -> None:
    """Put three products on sale."""
    product = apps.get_model("shop", "Product")
    for name, price in (("cup", "4.50"), ("plate", "7.00"), ("spoon", "2.20")):
        product.objects.create(name=name, price=price, stock=1_000_000)


def _id() -> tuple[str, Any]:
    return "id", models.BigAutoField(primary_key=True, serialize=False)


class Migration(migrations.Migration):
    """The first."""

    initial = True
    operations: ClassVar = [
        migrations.CreateModel(
            "Product",
            [
                _id(),
                ("name", models.CharField(max_length=100, unique=True)),
                ("price", models.DecimalField(max_digits=8, decimal_places=2)),
                ("stock", models.PositiveIntegerField()),
            ],
        ),
        migrations.CreateModel(
            "Order", [_id(), ("placed_at", models.DateTimeField(auto_now_add=True))]
        ),
        migrations.CreateModel(
            "OrderLine",
            [
                _id(),
                ("quantity", models.PositiveIntegerField()),
                ("price", models.DecimalField(max_digits=8, decimal_places=2)),
                (
                    "order",
                    models.ForeignKey(
                        "shop.Order", django.db.models.deletion.CASCADE, related_name="lines"
                    ),
                ),
                ("product", models.ForeignKey("shop.Product", django.db.models.deletion.PROTECT)),
            ],
        ),
        migrations.RunPython(add_products),
    ]
