"""Managers and routers whose rows depend on a context variable: found in their code, or by what they return.

Must not know lookups. ``contextual_part`` reads code when a cache opens, and follows only calls within a manager's or
router's own package. ``sees_other_rows`` compares what they return in two contexts.
"""

from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context, ContextVar
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, cast

from tortoise.expressions import Q
from tortoise.models import Model
from tortoise.router import router

from aiomodelcache.orm.connections import root_client
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.orm.schema import ModelSchema

_SELECTING: Final = ("_custom_filters", "_annotations", "_distinct", "_limit", "_offset", "_fields_for_select")
"""The attributes of a query, other than its conditions, that decide which rows and columns it selects."""


def contextual_part(schema: ModelSchema) -> tuple[str, str] | None:
    """Returns the method of the model's manager or of a router that reads a context variable, and its name, or None."""
    methods: list[tuple[Any, str]] = (
        [(type(meta_of(schema.model).manager), "get_queryset")] if schema.hides_rows else []
    )
    methods += [(type(each), "db_for_write") for each in _routers()]
    for owner, name in methods:
        function = getattr(owner, name, None)
        variable = _variable_in(function, owner) if isinstance(function, FunctionType) else None
        if variable is not None:
            return f"{owner.__name__}.{name}", variable
    return None


def may_depend_on_context(schema: ModelSchema) -> bool:
    """Returns True if a user's code decides which rows of a model a query finds."""
    return schema.hides_rows or bool(_routers())


def sees_other_rows(model: type[Model], context: Context, other: Context) -> bool:
    """Returns True if a query for the model's rows differs between two contexts.

    Returns False if it differs each time in one of them, like that of a manager that compares with the present time.
    """
    own = other.run(_selection, model)
    return bool(context.run(_selection, model) != own and other.run(_selection, model) == own)


def _routers() -> list[Any]:
    return list(cast("Any", router)._routers or ())


def _selection(model: type[Model]) -> Any:
    """Returns what decides which rows a query for all rows finds, in a form that can be compared."""
    try:
        client = router.db_for_write(model)
        rows: Any = meta_of(model).manager.get_queryset()
        conditions = [_described(condition) for condition in rows._q_objects]
        selected = [getattr(rows, name) for name in _SELECTING]
        return id(root_client(client)) if client is not None else None, conditions, selected
    except Exception as error:  # such as the LookupError of a variable that is not set
        return type(error)


def _described(condition: Q) -> tuple[Any, ...]:
    """Returns a condition as a value. ``==`` of conditions does not see that one is negated."""
    negated = cast("Any", condition)._is_negated
    return negated, condition.join_type, condition.filters, [_described(child) for child in condition.children]


# Code -----------------------------------------------------------------------------------------------------


def _variable_in(function: FunctionType, owner: type) -> str | None:
    """Returns the name of a context variable that a function, or one of its package that it calls, reads, or None."""
    package = function.__module__.partition(".")[0]
    seen: set[int] = set()
    pending: list[Any] = [function]
    while pending:
        found = pending.pop()
        found = getattr(found, "__func__", found)
        if isinstance(found, ContextVar):
            return str(cast("Any", found).name)
        if not isinstance(found, FunctionType) or id(found) in seen or found.__module__.partition(".")[0] != package:
            continue
        seen.add(id(found))
        pending += _referred(found, owner)
    return None


def _referred(function: FunctionType, owner: type) -> Iterator[Any]:
    """Yields the objects that a function's code names: globals, their attributes, and methods of its own class."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not assigned yet
            yield cell.cell_contents
    names = list(_names(function.__code__))
    for name in names:
        found = function.__globals__.get(name)
        yield found
        yield getattr(owner, name, None)
        if isinstance(found, ModuleType | type):
            for attribute in names:
                yield vars(found).get(attribute)
        elif found is not None:
            for attribute in names:
                yield getattr(cast("Any", type(found)), attribute, None)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
