"""Copies of querysets that nothing else changes, and the attributes of querysets.

Tortoise changes querysets when they are awaited: it adds the prefetched querysets to them. A caller may change a list
that was passed to ``filter``. Knows Tortoise, not caches.
"""

import copy
from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, Final, cast
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import Q, Subquery
from tortoise.models import Model
from tortoise.query_utils import Prefetch
from tortoise.queryset import QuerySet, UnionQuery

_STATE: Final = frozenset(
    {
        "_all",
        "_annotations",
        "_db",
        "_distinct",
        "_fields_for_select",
        "_fields_for_select_list",
        "_filter_kwargs",
        "_flat",
        "_force_indexes",
        "_group_bys",
        "_having",
        "_limit",
        "_obj",
        "_offset",
        "_orderings",
        "_prefetch_map",
        "_prefetch_queries",
        "_q_objects",
        "_qs",
        "_raise_does_not_exist",
        "_select_related",
        "_single",
        "_use_indexes",
    }
)
"""The attributes of querysets that decide their SQL and the form of their result."""
_OTHERS: Final = frozenset(
    {
        "_capabilities",
        "_custom_filters",
        "_fields_to_select_sql",
        "_joined_tables",
        "_models",
        "_select_for_update",
        "_select_for_update_no_key",
        "_select_for_update_nowait",
        "_select_for_update_of",
        "_select_for_update_skip_locked",
        "_select_related_idx",
        "_selects",
        "_union_query",
        "fields",
        "model",
        "query",
    }
)
"""The attributes that follow from the others, or are refused."""


def state_attributes(query: Any) -> Iterable[tuple[str, Any]]:
    """Returns the attributes that a query's state consists of. The value of one that is not set is None."""
    names, values_of = _state_slots(cast("Any", type(query)))
    try:
        values = values_of(query)
    except AttributeError:
        values = tuple([getattr(query, name, None) for name in names])
    others = _others(query)
    return chain(zip(names, values, strict=True), sorted([item for item in others.items() if item[0] in _STATE]))


def unread_slots(query: Any) -> list[str]:
    """Returns the names of the attributes that this module was not written for."""
    unread, others = _unread_slots(cast("Any", type(query))), _others(query)
    return sorted({*unread, *others} - _STATE - _OTHERS) if others else unread


def _others(query: Any) -> dict[str, Any]:
    """Returns the attributes without a slot."""
    return cast("dict[str, Any]", vars(query))


@cache
def _slots(kind: Any) -> list[str]:
    return sorted({name for cls in kind.__mro__ for name in cls.__dict__.get("__slots__", ())})


@cache
def _state_slots(kind: Any) -> tuple[list[str], Callable[[Any], tuple[Any, ...]]]:
    names = [name for name in _slots(kind) if name in _STATE]
    return names, attrgetter(*names)


@cache
def _unread_slots(kind: Any) -> list[str]:
    return sorted({*_slots(kind)} - _STATE - _OTHERS)


def copied_query(query: Any) -> Any:
    """Returns a copy of a query that shares no list, dict or set with it."""
    result: Any = copy.copy(query)
    result._annotations = {name: _copied_value(each) for name, each in getattr(query, "_annotations", {}).items()}
    kind = cast("Any", type(query))
    if issubclass(kind, UnionQuery):
        result._qs = tuple([copied_query(each) for each in query._qs])
        return result
    result._q_objects = [_copied_q(q) for q in query._q_objects]
    result._custom_filters = dict(query._custom_filters)
    result._joined_tables = []
    for name in _SETS:
        if hasattr(query, name):
            setattr(result, name, set(getattr(query, name)))
    if issubclass(kind, QuerySet):
        result._prefetch_queries = {
            name: [(attribute, copied_query(each)) for attribute, each in pairs]
            for name, pairs in query._prefetch_queries.items()
        }
        result._prefetch_map = {
            name: {_copied_prefetch(each) for each in forwarded} for name, forwarded in query._prefetch_map.items()
        }
    return result


def without_additions(query: Any) -> None:
    """Takes out of a copied query all that was added in place since its original was found unchanging."""
    for name in _SETS:
        setattr(query, name, set())


def is_unchanging(query: Any) -> bool:
    """Returns True if a query can be copied later: see ``without_additions``.

    Nothing else that decides its SQL is changed in place. Awaiting the query gives it a connection.
    """
    if not issubclass(cast("Any", type(query)), QuerySet) or any(map(bool, _changing(query))):
        return False
    for q in query._q_objects:
        if cast("Any", type(q)) is not Q or q.children or not _UNCHANGING.issuperset(map(type, q.filters.values())):
            return False
    return True


_SETS: Final = ("_force_indexes", "_select_related", "_use_indexes")
"""Sets that a queryset shares with those derived from it. Tortoise adds to them in place."""
_changing: Final[Callable[[Any], tuple[Any, ...]]] = attrgetter(
    "_annotations", "_custom_filters", "_prefetch_map", "_prefetch_queries", *_SETS, "__dict__"
)
"""The attributes that hold what can be changed, conditions apart."""
_UNCHANGING: Final = frozenset[type]({bool, int, float, str, bytes, type(None), Decimal, UUID, date, datetime})


def _copied_prefetch(forwarded: Any) -> Any:
    if cast("Any", type(forwarded)) is Prefetch:
        return Prefetch(forwarded.relation, copied_query(forwarded.queryset), forwarded.to_attr)
    return forwarded


def _copied_q(q: Any) -> Any:
    if cast("Any", type(q)) is not Q:
        return q
    result: Any = Q(*[_copied_q(child) for child in q.children], join_type=q.join_type)
    result.filters = {name: _copied_value(value) for name, value in q.filters.items()}
    result._is_negated = q._is_negated
    return result


def _copied_value(value: Any) -> Any:
    kind = cast("Any", type(value))
    if kind in _COLLECTIONS:
        items: Any = [_copied_value(item) for item in value]
        return kind(items)
    if kind is dict:
        return {key: _copied_value(item) for key, item in value.items()}
    if kind is range or kind in _VIEWS:
        return list(value)
    if kind is Subquery:
        result: Any = Subquery(copied_query(value.query))
        result.alias = value.alias
        result.query._db = None  # only the outer query is sent
        return result
    return value


_COLLECTIONS: Final[tuple[Any, ...]] = (list, tuple, set, frozenset)
_VIEWS: Final[tuple[Any, ...]] = (type(dict[str, str]().keys()), type(dict[str, str]().values()))


ClientOf = Callable[[type[Model]], BaseDBAsyncClient | None]


def use_clients(query: Any, client_of: ClientOf) -> None:
    """Has a copied query, and those that it prefetches, ask the connections of their models, unless they name one."""
    if query._db is None:
        query._db = client_of(query.model)
    for inner in inner_queries(query):
        use_clients(inner, client_of)


def inner_queries(query: Any) -> list[Any]:
    """Returns the queries of a union, or those that a query prefetches."""
    found = list(getattr(query, "_qs", ()))
    for pairs in getattr(query, "_prefetch_queries", {}).values():
        found += [inner for _, inner in pairs]
    for forwarded in getattr(query, "_prefetch_map", {}).values():
        found += [each.queryset for each in forwarded if cast("Any", type(each)) is Prefetch]
    return found


def bulk_query(call: Any) -> tuple[Any, str] | None:
    """Returns the query and the field that a call of ``in_bulk`` that was not awaited is about.

    Returns None for anything else. The call is closed, and its queryset may be used instead.
    """
    frame = getattr(call, "cr_frame", None)
    of_model = frame is not None and call.cr_code is cast("Any", Model).in_bulk.__code__
    if frame is None or not (of_model or call.cr_code is cast("Any", QuerySet).in_bulk.__code__):
        return None
    arguments = dict(frame.f_locals)
    call.close()
    field = arguments["field_name"]
    query: Any = arguments["cls"].all(arguments["using_db"]) if of_model else arguments["self"]
    return query.filter(**{f"{field}__in": list(arguments["id_list"])}), field
