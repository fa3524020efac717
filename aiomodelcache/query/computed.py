"""Computed results: from the request's scope, from the cache, or by computing them."""

from typing import Any, cast

from tortoise.models import Model

from aiomodelcache.entries.derived import DerivedEntries
from aiomodelcache.entries.results import Compute, ResultEntries, map_nested
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.relations import unstored_parts
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import result_at
from aiomodelcache.plans.steps import with_refusal
from aiomodelcache.scopes.request import Scope


def computed(cache: OpenCache, result: ResultEntries, key: bytes, compute: Compute, scope: Scope | None) -> Plan[Any]:
    """Answers a computed result from the request's scope, from the cache, or by computing it."""
    if scope is None:
        return (yield from result_at(result, key, compute, cache.predictions))
    known = scope.find(key)
    if known is not None:
        return known[0]
    generation = scope.generation
    value, refused = yield from with_refusal(result_at(result, key, compute, cache.predictions))
    if refused:  # a write that changes it may not be noticed
        return value
    row_keys: list[bytes] = []

    def own(instance: Model) -> Model:
        entries = cache.models.get(type(instance))
        schema = entries.rows.schema if entries is not None else None
        if entries is None or schema is None or schema.pk not in vars(instance):
            return instance
        row_keys.append(entries.rows.key(instance.pk))
        if unstored_parts(instance, schema.columns):  # annotations and the like, which the scope's own lacks
            return instance
        return cast("Model", scope.own(row_keys[-1], instance, generation))

    value = map_nested(value, Model, own)
    scope.keep_result(key, value, row_keys, generation, derived=isinstance(result, DerivedEntries))
    return value
