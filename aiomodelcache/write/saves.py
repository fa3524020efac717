"""``save()`` and ``delete()``, captured by Tortoise's signals: which keys they touch, and when to say so.

Tortoise keys listeners by exact class and cannot remove them, so there is one set of functions for all
models, registered once for each; they look up the open caches each time. It runs listeners in tasks of
their own, beside others that may raise. What belongs to one call of ``save`` or ``delete`` is a ``Write``.
"""

from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, cast
from weakref import WeakSet

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException
from tortoise.models import Model
from tortoise.signals import Signals

from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.model import Binding
from aiomodelcache.open_cache import Session, bindings_of, cascading, lists_of_hidden
from aiomodelcache.orm.connections import outermost, transaction, was_refused, write_client
from aiomodelcache.orm.meta import is_saved, pk_of
from aiomodelcache.orm.select import select_values
from aiomodelcache.orm.statements import lock_by_pk
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import (
    Changed,
    Naming,
    Row,
    affected,
    naming,
    result_attributes,
    same_names,
    touch,
    touch_model,
    touch_results,
    untold,
)
from aiomodelcache.write.transactions import Intents, abandon, enlist, settle


def listen(model: type[Model]) -> None:
    """Registers for a model's signals; a second time does nothing."""
    register = cast("Any", model).register_listener
    register(Signals.pre_save, _before_save)
    register(Signals.post_save, _after_save)
    register(Signals.pre_delete, _before_delete)
    register(Signals.post_delete, _after_delete)


async def _before_save(
    model: type[Model], instance: Model, using_db: BaseDBAsyncClient, update_fields: Iterable[str] | None
) -> None:
    await _before(model, instance, using_db, _columns(update_fields), deleting=False)


async def _after_save(
    model: type[Model],
    instance: Model,
    created: bool,
    using_db: BaseDBAsyncClient,
    update_fields: Iterable[str] | None,
) -> None:
    columns = None if created else _columns(update_fields)
    await _after(model, instance, using_db, columns, deleting=False, created=created)


async def _before_delete(model: type[Model], instance: Model, using_db: BaseDBAsyncClient) -> None:
    await _before(model, instance, using_db, None, deleting=True)


async def _after_delete(model: type[Model], instance: Model, using_db: BaseDBAsyncClient) -> None:
    await _after(model, instance, using_db, None, deleting=True)


# One call ----------------------------------------------------------------------------------------------


class Write:
    """One call of ``save`` or ``delete``, until it returns or raises."""

    __slots__ = ("instance", "intents", "named", "over", "updating")

    def __init__(self, instance: Model, updating: bool) -> None:
        self.instance = instance
        self.updating = updating
        """Whether the row must exist, also if the instance was not loaded from it."""
        self.intents: Intents = {}
        """What was announced before the statement, until somebody takes it to settle it. Empty in a transaction."""
        self.named: dict[Session, Naming] = {}
        """By what all keys of an intent were named, and what to leave under them, if all could be."""
        self.over = False

    def take(self) -> Intents:
        """Hands over what was announced."""
        intents, self.intents = self.intents, {}
        return intents

    async def fail(self, error: BaseException) -> None:
        """Withdraws what was announced, or leaves it to expire if the row may yet be written."""
        self.over = True
        for intent in self.intents.values():
            intent.drop_from(current_scope())  # the scope's instance may be the one that holds refused values
        if is_settled(error):
            await settle(self.take(), committed=False)
        else:
            abandon(self.take())


_current: Final[ContextVar[Write | None]] = ContextVar("aiomodelcache_write", default=None)


class announced:
    """Goes around ``save`` and ``delete``: one that fails leaves nothing behind in the cache."""

    __slots__ = ("_token", "_write")

    def __init__(self, instance: Model, *, updating: bool = False) -> None:
        self._write = Write(instance, updating)

    async def __aenter__(self) -> None:
        self._token = _current.set(self._write)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                await self._write.fail(error)
        finally:
            _current.reset(self._token)


_announced: Final[WeakSet[Callable[..., Any]]] = WeakSet()


def announce(model: type[Model]) -> None:
    """Does for a user's model that is no ``CachedModel`` what that class does; a second time nothing."""
    for name in ("save", "delete"):
        method = getattr(model, name)
        if method not in _announced:
            method = _announcing(method, deleting=name == "delete")
            _announced.add(method)
            setattr(model, name, method)


def _announcing(
    method: Callable[..., Coroutine[Any, Any, None]], *, deleting: bool
) -> Callable[..., Coroutine[Any, Any, None]]:
    parameters = signature(method)

    @wraps(method)
    async def call(self: Model, *args: Any, **kwargs: Any) -> None:
        given = parameters.bind(self, *args, **kwargs)
        named = given.arguments if "using_db" in parameters.parameters else kwargs
        client, fields = named.get("using_db"), named.get("update_fields")
        updating = bool(named.get("force_update"))
        async with announced(self, updating=updating), on(self, client, fields, deleting=deleting) as chosen:
            if named is kwargs and client is None:  # the method finds the transaction by itself
                await method(self, *args, **kwargs)
            else:
                named["using_db"] = chosen
                await (method(self, *args, **kwargs) if named is kwargs else method(*given.args, **given.kwargs))

    return call


def _write_of(instance: Model) -> Write | None:
    """The call in which a listener runs. None if the instance is saved around its model's own ``save``."""
    write = _current.get()
    return write if write is not None and write.instance is instance else None


_BEFORE: Final = [cast("Any", method).__code__ for method in (Model._pre_save, Model._pre_delete)]  # pyright: ignore
_AFTER: Final = [cast("Any", method).__code__ for method in (Model._post_save, Model._post_delete)]  # pyright: ignore


def is_settled(error: BaseException) -> bool:
    """Whether a save or delete that raised this will not write anything any more.

    So it is if a listener raised before the statement, if the database refused, or if Tortoise did, without a
    driver's error inside. After anything else (cancellation, a lost connection) the statement may be under way.
    """
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code in _BEFORE:
            return not isinstance(error, GeneratorExit)  # which leaves no time to say so
        if frame.f_code in _AFTER:
            return False
    if isinstance(error, BaseORMException):
        return was_refused(error) or not any(isinstance(cause, BaseException) for cause in error.args)
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError)


# Before and after ------------------------------------------------------------------------------------


async def _before(
    model: type[Model], instance: Model, client: BaseDBAsyncClient, changed: Changed, *, deleting: bool
) -> None:
    """In autocommit mode: marks the keys known before the statement. In a transaction: nothing is marked yet.

    What a delete will cascade to is looked up now, in either: afterwards it is gone.
    """
    write = _write_of(instance)
    transaction = outermost(client)
    if write is None and transaction is None:
        return
    rows = await _locked(instance, client, changed, deleting=deleting) if transaction is not None else []
    for session, binding in _concerned(model, deleting=deleting):
        if transaction is not None:
            intent = enlist(transaction, session)
        else:
            intent = _begin(cast("Write", write), session, binding, changed, deleting=deleting)
        if binding is not None:
            for row in rows:
                touch_results(intent, binding, row, None if deleting else changed)
        if deleting and rows:
            await session.cascades.touch(intent, model, rows, client)
        elif rows and binding is not None and binding.schema.hides_rows:
            await session.cascades.touch_lists(intent, model, rows, client)
    if write is not None:
        for session, intent in list(write.intents.items()):
            if not write.over:  # another listener may raise while this one waits
                await session.writer.mark(intent)


def _begin(write: Write, session: Session, binding: Binding | None, changed: Changed, *, deleting: bool) -> Intent:
    """The intent with the keys that are known before the statement."""
    intent = write.intents.setdefault(session, Intent())
    intent.leave_nothing()  # as a ``save`` that was refused, and is tried again by its model's own, had said
    write.named.pop(session, None)
    if binding is not None:
        row = vars(write.instance)
        told = touch(intent, binding, row, changed, exists=not deleting, final=False)
        if told and not untold(binding, row, changed):
            write.named[session] = naming(binding, row, changed)
    return intent


async def _locked(instance: Model, client: BaseDBAsyncClient, changed: Changed, *, deleting: bool) -> list[Row]:
    """The row as it is before the write, as far as results and cascades need it; nothing if they do not.

    The instance may not tell its values. What refers to it can neither be added to nor taken away from then on.
    """
    model = type(instance)
    wanted = _wanted_before(instance, changed, deleting=deleting)
    return [*await lock_by_pk(model, client, [instance.pk], [pk_of(model), *wanted])] if wanted else []


def _wanted_before(instance: Model, changed: Changed, *, deleting: bool) -> list[str]:
    """The attributes whose values before the write must be known, to name what it touches."""
    left, write = _left(type(instance), changed, deleting=deleting), _write_of(instance)
    exists = deleting or is_saved(instance) or changed is not None or (write is not None and write.updating)
    return left if exists else []


def _left(model: type[Model], changed: Changed, *, deleting: bool) -> list[str]:
    """The same for any row that was there before."""
    bindings = bindings_of(model)
    if not deleting:
        wanted = [name for _, binding in bindings for name in affected(binding, changed).left]
        return wanted + [pk_of(model) for _ in lists_of_hidden(model, bindings)]
    followed = [name for session in cascading(model) for name in session.cascades.needed(model)]
    return followed + [name for _, binding in bindings for name in result_attributes(binding)]


async def _after(
    model: type[Model],
    instance: Model,
    client: BaseDBAsyncClient,
    changed: Changed,
    *,
    deleting: bool,
    created: bool = False,
) -> None:
    """Adds the keys of the values as written. In autocommit mode: clears; the row is committed."""
    concerned = _concerned(model, deleting=deleting)
    write = _write_of(instance)
    begun, named = (write.take(), write.named) if write is not None else ({}, {})
    transaction = outermost(client)
    intents = {
        session: enlist(transaction, session) if transaction is not None else begun.get(session) or Intent()
        for session, _ in concerned
    }
    bindings = [(session, binding) for session, binding in concerned if binding is not None]
    left = _left(model, changed, deleting=deleting) if transaction is None and not created else []
    try:
        for session, binding in bindings:
            if session not in begun or not same_names(named.get(session), naming(binding, vars(instance), changed)):
                if session in begun:
                    intents[session].leave_nothing()  # what was to be left is for other values
                row = vars(instance) if deleting else await _as_written(binding, instance, client, changed)
                touch(intents[session], binding, row, changed, exists=not deleting)
            if left:
                touch_model(intents[session], binding)  # saved around its model's own ``save``
    except BaseException:
        for session, binding in bindings:  # it is written all the same
            touch_model(intents[session], binding)
        raise
    finally:
        for intent in intents.values():
            intent.drop_from(current_scope())
        if transaction is None:
            await settle(intents, committed=True)


async def _as_written(binding: Binding, instance: Model, client: BaseDBAsyncClient, changed: Changed) -> Row:
    """The values in the row: the instance's, and from the database those that it does not tell."""
    wanted = untold(binding, vars(instance), changed)
    if not wanted:
        return vars(instance)
    rows = await select_values(type(instance), client, binding.schema.pk, [instance.pk], wanted)
    return {**vars(instance), **rows[0]} if rows else vars(instance)


def on(
    instance: Model,
    client: BaseDBAsyncClient | None,
    update_fields: Iterable[str] | None = None,
    *,
    deleting: bool = False,
) -> AbstractAsyncContextManager[BaseDBAsyncClient]:
    """The connection for a save or delete: in a transaction if it touches keys that only this can name.

    Such are the rows that a delete cascades to, and keys with values that the instance does not tell.
    """
    model = type(instance)
    client = client or write_client(model)
    changed = _columns(update_fields)
    needed = bool(_wanted_before(instance, changed, deleting=deleting))
    if deleting:
        needed = needed or bool(cascading(model))
    elif not needed:
        needed = any(untold(binding, vars(instance), changed) for _, binding in bindings_of(model))
    return transaction(client) if needed else nullcontext(client)


def _concerned(model: type[Model], *, deleting: bool) -> list[tuple[Session, Binding | None]]:
    """The open caches in which the write touches something. The model itself need not be cached."""
    others = cascading(model) if deleting else []
    unbound: list[tuple[Session, Binding | None]] = [
        (session, None) for session in others if model not in session.bindings
    ]
    return [*bindings_of(model), *unbound]


def _columns(update_fields: Iterable[str] | None) -> Collection[str] | None:
    """What a save writes; None: everything. An iterator is left to the statement, which needs it."""
    return set(update_fields) if isinstance(update_fields, Collection) else None
