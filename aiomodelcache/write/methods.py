"""Wraps ``save()``, ``delete()`` and ``refresh_from_db()`` of models that are no ``CachedModel``."""

from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from inspect import signature
from typing import Any, Final, cast
from weakref import WeakSet

from tortoise.models import Model

from aiomodelcache.orm.changes import clear_changes, noting
from aiomodelcache.orm.meta import mark_fresh
from aiomodelcache.write.calls import intent_scope, refuse_write
from aiomodelcache.write.saves import connection_for, run_write

_wrapped: Final[WeakSet[Callable[..., Any]]] = WeakSet()


def wrap_methods(model: type[Model]) -> None:
    """Wraps methods of a model that is no ``CachedModel``, which does the same itself. Idempotent."""
    for name in ("save", "delete", "refresh_from_db"):
        method = getattr(model, name)
        if method not in _wrapped:
            refreshing = name == "refresh_from_db"
            method = _wrap_refresh(method) if refreshing else _wrap(method, deleting=name == "delete")
            _wrapped.add(method)
            setattr(model, name, method)
    cast("Any", model).__setattr__ = noting(cast("Any", model).__setattr__)


def _wrap_refresh(method: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @wraps(method)
    async def refresh_from_db(self: Model, fields: Iterable[str] | None = None, *args: Any, **kwargs: Any) -> None:
        refuse_write(self, action="refresh_from_db()")
        await method(self, fields, *args, **kwargs)
        if not fields:
            mark_fresh(self)
            clear_changes(self)

    return refresh_from_db


def _wrap(
    method: Callable[..., Coroutine[Any, Any, None]], *, deleting: bool
) -> Callable[..., Coroutine[Any, Any, None]]:
    parameters = signature(method)

    @wraps(method)
    async def captured(self: Model, *args: Any, **kwargs: Any) -> None:
        arguments = parameters.bind(self, *args, **kwargs)
        named = arguments.arguments if "using_db" in parameters.parameters else kwargs
        client, fields = named.get("using_db"), named.get("update_fields")
        refuse_write(self, fields, action="delete()" if deleting else "save()")
        updating = bool(named.get("force_update"))
        inserting = bool(named.get("force_create"))

        async def call() -> None:
            async with (
                intent_scope(self, updating=updating),
                connection_for(self, client, fields, deleting=deleting, inserting=inserting) as connection,
            ):
                if named is kwargs and client is None:  # the method takes the transaction from its context
                    await method(self, *args, **kwargs)
                else:
                    named["using_db"] = connection
                    called = ((self, *args), kwargs) if named is kwargs else (arguments.args, arguments.kwargs)
                    await method(*called[0], **called[1])

        await run_write(call, self, client)

    return captured
