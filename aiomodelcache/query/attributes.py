"""The error for an attribute of a query's result that is read from the query itself: await the query."""

from typing import Any

from tortoise.models import Model

from aiomodelcache.orm.meta import field_names
from aiomodelcache.query.base import CacheQuery


class ResultAttribute:
    """An attribute that queries lack and their results have. Reading it says that the query must be awaited.

    A ``__getattr__`` would do, but with one Python reads every attribute of a query more slowly.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, query: CacheQuery[Any] | None, owner: type) -> Any:
        if query is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
        raise AttributeError(f"{query!r} is a query and has no attribute {self._name!r}: await it.")


def explain_result_attributes(model: type[Model]) -> None:
    """Lets queries say, when an attribute of the model's instances is read, that they must be awaited."""
    for name in (*field_names(model), *dir(model)):
        if not name.startswith("_") and name not in vars(CacheQuery):
            setattr(CacheQuery, name, ResultAttribute(name))
