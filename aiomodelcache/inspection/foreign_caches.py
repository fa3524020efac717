"""Entries of other caches, read for an audit: by a function, by an object with ``get``, or under keys of Redis.

Writes nothing. Must not know how entries are compared. Unpickling runs the code that a pickle names, so pickles are
decoded only if the operator has named that codec.
"""

import asyncio
import inspect
import pickle
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from tortoise.models import Model

from aiomodelcache.encoding.messages import described, safe_cause
from aiomodelcache.inspection.arguments import Argument, field_value
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.store import Store
from aiomodelcache.orm.meta import RowValues, attributes_of, column_names, columns_of, field_names, is_relation, pk_of

CODECS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "json": msgspec.json.decode,
    "msgpack": msgspec.msgpack.decode,
    "pickle": pickle.loads,
}
"""Functions that decode the bytes of entries, by the names of the codecs."""
PLACE: Final = "{pk}"
"""The part of a key's template that stands for the primary key."""
CONCURRENT: Final = 16
"""Maximum number of calls of a function that run at once. Beyond it, they wait."""

ReadMany = Callable[[Sequence[Any]], Awaitable[list[Any]]]
"""Returns what a cache holds for primary keys, in their order; None for a row that is not cached."""

ChoosePks = Callable[[int], Awaitable[list[Any]]]
"""Returns at most so many primary keys, chosen for a comparison."""


class ForeignEntry(NamedTuple):
    """The content of an entry. ``values``: columns by attribute; None if the entry says that the row does not exist."""

    values: RowValues | None


class UnreadableEntry(NamedTuple):
    """An entry that cannot be decoded."""

    reason: str


class ForeignCache:
    """Another cache's entries of one model. ``name`` names the cache in errors."""

    def __init__(self, model: type[Model], name: str, read: ReadMany, codec: str | None) -> None:
        self.model = model
        self._name = name
        self._read = read
        self._codec = codec
        self.stored_pks: ChoosePks | None = None
        """Chooses among the primary keys in the cache's keys; None for a cache whose keys are not known."""
        columns = column_names(model)
        self._relations = {
            name: attributes_of(model, [name])[0]
            for name in field_names(model)
            if is_relation(model, name) and attributes_of(model, [name])[0] in columns
        }
        by_column = {column: name for name, column in columns_of(model, columns).items()}
        self._attributes = self._relations | by_column | {"pk": pk_of(model)} | {name: name for name in columns}
        """The attributes of columns by all their names: of attributes, of columns, and of relations."""

    async def entries(self, pks: Sequence[Any]) -> list[ForeignEntry | UnreadableEntry | None]:
        """Returns the entries of rows; None for a row that is not cached. Raises ``CommandError``."""
        return [None if found is None else self._entry(found) for found in await self._read(pks)]

    def _entry(self, found: Any) -> ForeignEntry | UnreadableEntry:
        if isinstance(found, bytes | bytearray | str):
            if self._codec is None:
                names = ", ".join(CODECS)
                raise CommandError(
                    f"{self._name} holds {described(found)}: name the codec of its entries, one of {names}, by --codec."
                )
            try:
                found = CODECS[self._codec](found.encode() if isinstance(found, str) else bytes(found))
            except Exception as error:  # of the user's own classes
                return UnreadableEntry(f"{self._codec} cannot decode them ({type(error).__qualname__})")
            if found is None:
                return ForeignEntry(None)
        values = self._values(found)
        if not values:
            model = self.model.__name__
            raise CommandError(
                f"{self._name} holds {described(found)} for a row of {model}, without any of its columns: write a "
                f"function that returns the {model} or a dict of its columns, and name it instead."
            )
        return ForeignEntry(values)

    def _values(self, found: Any) -> RowValues:
        """Returns the columns that a decoded entry holds, by attribute. Other attributes and keys are left out."""
        if isinstance(found, Mapping):
            given: Mapping[Any, Any] = found  # pyright: ignore[reportUnknownVariableType]
            return {
                self._attributes[name]: value
                for name, value in given.items()
                if name in self._attributes and not (name in self._relations and _is_compound(value))
            }
        if not isinstance(found, self.model):
            return {}
        held = vars(found)
        return {name: held[name] for name in column_names(self.model) if name in held}


def _is_compound(value: object) -> bool:
    """Returns True if a relation's value is the related row, rather than its key."""
    return isinstance(value, Mapping | Model | list | tuple)


def key_for(template: str, pk: Any) -> str:
    """Returns the key of a row."""
    return template.replace(PLACE, str(pk))


def read_by_function(name: str, function: Callable[[Any], Any]) -> ReadMany:
    """Makes a reader of an async function that takes a primary key. ``name`` names the function in errors."""
    limit = asyncio.Semaphore(CONCURRENT)

    async def read_one(pk: Any) -> Any:
        async with limit:
            try:
                answer = function(pk)
                if inspect.isawaitable(answer):
                    return await answer
            except OSError:
                raise  # a server that does not answer
            except Exception as error:
                raise CommandError(
                    f"{name} raised {type(error).__qualname__}: it must take a primary key, and return None if the row "
                    "is not cached."
                ) from safe_cause(error)
        raise CommandError(f"{name} returned {described(answer)} without being awaited: define it by async def.")

    async def read(pks: Sequence[Any]) -> list[Any]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(read_one(pk)) for pk in pks]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return [task.result() for task in tasks]

    return read


def read_by_get(name: str, cache: Any, template: str) -> ReadMany:
    """Makes a reader of an object whose ``get`` takes a key and returns None for a miss, as of cashews and aiocache."""
    return read_by_function(f"{name}.get", lambda pk: cache.get(key_for(template, pk)))


def string_reader(store: Store, template: str) -> ReadMany:
    """Makes a reader of keys in Redis that hold strings."""

    async def read(pks: Sequence[Any]) -> list[Any]:
        return await store.values([key_for(template, pk).encode() for pk in pks])

    return read


async def stored_pks(store: Store, template: str, model: type[Model], number: int) -> list[Any]:
    """Returns the primary keys in at most ``number`` keys of Redis in random order. Each key is equally likely.

    Looks at each key of the server once. The rows may exist no longer.
    """
    before, _, after = template.partition(PLACE)
    chosen: list[Any] = []
    seen = 0
    async for chunk in store.scan(before.encode()):
        for key in chunk:
            pk = _pk_in(key.decode("utf-8", "replace"), before, after, model)
            if pk is None or key_for(template, pk).encode() != key:
                continue
            seen += 1
            if len(chosen) < number:
                chosen.append(pk)
            elif (at := random.randrange(seen)) < number:
                chosen[at] = pk
    random.shuffle(chosen)
    return chosen


def _pk_in(key: str, before: str, after: str, model: type[Model]) -> Any:
    """Returns the primary key in a key that begins with ``before``; None if it is the key of something else."""
    text = key[len(before) :]
    if text.endswith(after):
        with suppress(CommandError):
            return field_value(model, Argument("pk", text[: len(text) - len(after)]))
    return None
