"""Two models of one table. Only ``Product`` has a profile in the settings."""

from django.db import models


class Columns(models.Model):
    id = models.IntegerField(primary_key=True)
    slug = models.CharField(max_length=64, unique=True)
    title = models.CharField(max_length=100)
    text = models.TextField()
    price = models.DecimalField(max_digits=10, decimal_places=2)
    token = models.UUIDField()
    details = models.JSONField()
    created = models.DateTimeField()
    stock = models.IntegerField()
    owner_id = models.IntegerField(db_index=True)

    class Meta:
        abstract = True
        db_table = "django_product"


class Product(Columns):
    pass


class PlainProduct(Columns):
    pass
