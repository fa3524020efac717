"""Django with django-cacheops, as its README shows it: a profile in the settings, and nothing in the code.

Django's ORM is synchronous, and so it is measured. The bare way uses a second class for the same table, which has no
profile.
"""

import sys
from typing import Any
from urllib.parse import urlsplit

import django
from django.conf import settings

from benchmarks import data
from benchmarks.other_orms.cases import GET, LIST, OWNER, PK, measure


def configure(redis_url: str, database_url: str) -> None:
    url = urlsplit(database_url)
    settings.configure(
        INSTALLED_APPS=["cacheops", "benchmarks.other_orms.shop"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": url.path[1:],
                "USER": url.username,
                "HOST": url.hostname,
                "PORT": url.port,
                "CONN_MAX_AGE": None,
            }
        },
        CACHEOPS_REDIS=redis_url,
        CACHEOPS={"shop.product": {"ops": "all", "timeout": 3600}},
        USE_TZ=True,
        TIME_ZONE="UTC",
    )
    django.setup()


class Cacheops:
    name = "Django, django-cacheops"

    def __init__(self) -> None:
        from django.db import connection

        from benchmarks.other_orms.shop.models import PlainProduct, Product  # only after the settings

        self.statements = 0
        self._models: dict[bool, Any] = {True: Product, False: PlainProduct}
        with connection.schema_editor() as editor:
            editor.create_model(PlainProduct)
        PlainProduct.objects.bulk_create([PlainProduct(**data.product(pk)) for pk in range(1, data.PRODUCTS + 1)])
        connection.execute_wrappers.append(self._count)

    def _count(self, execute: Any, *arguments: Any) -> Any:
        self.statements += 1
        return execute(*arguments)

    def get(self, pk: int, *, cached: bool) -> Any:
        return self._models[cached].objects.get(id=pk)

    def list(self, owner: int, *, cached: bool) -> list[Any]:
        return list(self._models[cached].objects.filter(owner_id=owner).order_by("id"))

    def save(self, stock: int, *, cached: bool) -> None:
        self._models[cached](**{**data.product(PK), "stock": stock}).save(force_update=True)

    def repeat(self, case: str, times: int, *, cached: bool) -> None:
        for _ in range(times):
            if case == GET:
                self.get(PK, cached=cached)
            elif case == LIST:
                self.list(OWNER, cached=cached)
            else:
                self.save(data.product(PK)["stock"], cached=cached)


if __name__ == "__main__":
    configure(*sys.argv[1:3])
    measure(Cacheops(), int(sys.argv[3]))
