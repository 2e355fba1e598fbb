"""What the shop sells, and what was ordered."""

# mypy: allow-subclassing-any

from django.db import models


class Product(models.Model):
    """A thing on sale."""

    name = models.CharField(max_length=100, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField()


class Order(models.Model):
    """What somebody has bought at once."""

    placed_at = models.DateTimeField(auto_now_add=True)


class OrderLine(models.Model):
    """So many of one product, at the price of that day."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)
