"""Lookups of the rows of one model by one key: ``get``, ``filter``, ``exists``, ``count``.

A query knows its key and makes its result of the rows; ``plans`` knows how rows are found, ``engine`` when requests
are sent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned
from tortoise.models import Model

from aiomodelcache.entries.base import Miss, Nothing
from aiomodelcache.entries.model import Source
from aiomodelcache.entries.results import Result, replaced
from aiomodelcache.entries.rows import Rows
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import Session, current_or_none
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.indexes import index_hit, rows_at
from aiomodelcache.plans.requests import Compute, Look, Plan
from aiomodelcache.plans.results import instance_of, result_at
from aiomodelcache.plans.rows import row_by_pk
from aiomodelcache.query.base import CacheQuery, T
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)


class Located(NamedTuple):
    """A query's place in one open cache."""

    session: Session
    source: Source
    values: Values
    key: bytes


class LookupQuery(CacheQuery[T]):
    """A look-up of the rows of one model by one key."""

    __slots__ = ("_key", "_model", "_session", "_source", "_values")

    instances: ClassVar[bool] = True
    """Whether the result holds the rows themselves, not just how many there are."""
    _quick: ClassVar[bool] = True
    """Whether ``answer`` says the same as ``plan`` about a hit."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cast("Any", cls).plan is not cast("Any", LookupQuery).plan and "_quick" not in cls.__dict__:
            cls._quick = False

    _session: Session | None
    """In which open cache it is located: where ``_source``, ``_values`` and ``_key`` are of."""

    def __init__(self, model: type[Model], session: Session | None = None) -> None:
        super().__init__(session)
        self._model = model
        self._session = None

    def source(self, session: Session) -> tuple[Source, list[Any]]:
        """The key and the raw values asked for. Raises ``CacheNotRegistered``."""
        raise NotImplementedError

    def finish(self, found: Sequence[Any]) -> T:
        """Makes the result of the rows found."""
        raise NotImplementedError

    def locate(self, session: Session) -> Located:
        """Resolves fields and values, once per open cache.

        Raises ``CacheNotRegistered`` for fields without a cache and ``ValueError`` for a bad value.
        """
        if self._session is not session:
            self._locate(session)
        return Located(session, self._source, self._values, self._key)

    def _locate(self, session: Session) -> None:
        source, raw = self.source(session)
        values: Values = tuple(map(source.schema.normalise, source.attributes, raw))
        self._source, self._values, self._key = source, values, source.key_of(values)
        self._session = session

    def transaction(self, session: Session) -> BaseDBAsyncClient | None:
        if self._session is session:
            return self._source.schema.transaction()
        return session.binding(self._model).schema.transaction()

    def recall(self, session: Session, scope: Scope) -> T | None:
        if not self._quick:
            return None
        if self._session is not session:
            self._locate(session)
        known = scope.recall(self._key)
        return self.finish(known) if known else None  # what an absence raises is said by the plan

    def nearby(self, session: Session) -> T | Miss:
        if not self._quick:
            return Nothing.MISS
        if self._session is not session:
            self._locate(session)
        if not self._source.near:
            return Nothing.MISS
        found: T | Miss = session.reader.near_answer(self, session)
        return found

    def look(self, session: Session) -> Look | None:
        if not self._quick:
            return None
        if self._session is not session:
            self._locate(session)
        return self

    def ask(self, session: Session, wanted: dict[bytes, None], /) -> None:
        if self._session is not session:
            self._locate(session)
        source, key = self._source, self._key
        wanted[source.epoch_key] = wanted[key] = None
        if source.__class__ is not Rows:
            for guessed in session.guesses.recall(key).keys:
                wanted[guessed] = None

    def answer(self, session: Session, found: Mapping[bytes, bytes | None], /) -> T | Miss:
        if self._session is not session:
            self._locate(session)
        source, key = self._source, self._key
        if isinstance(source, Rows):
            row = source.hit(found[key], found[source.epoch_key], self._values[0])
            if row is None:
                return Nothing.MISS
            source.counters.hits += 1
            return self.finish((source.schema.instance(row) if self.instances else row,))
        rows = index_hit(source, self._values, key, session.guesses.recall(key), found)
        if not rows:
            return Nothing.MISS
        source.counters.hits += 1
        source.rows.counters.hits += len(rows)
        return self.finish([source.schema.instance(row) for row in rows] if self.instances else rows)

    def begin(self, session: Session, /) -> Plan[T]:
        return self.plan(session, None)

    def plan(self, session: Session, scope: Scope | None) -> Plan[T]:
        _, source, values, key = self.locate(session)
        generation = 0
        if scope is not None:
            known = scope.recall(key)
            if known is not None:
                return self.finish(known)
            generation = scope.generation
        if isinstance(source, Rows):
            found = yield from row_by_pk(source, values[0], key)
        else:
            found = yield from rows_at(source, values, key, session.guesses)
        if not self.instances and scope is None:
            return self.finish(found)
        made = [instance_of(source, row) for row in found]
        if scope is not None:
            made = scope.keep(key, [(row_key(source, row), row) for row in made], generation)
        return self.finish(made)


def row_key(source: Source, instance: Model) -> bytes:
    """The key of the row entry of an instance."""
    return source.rows.key(instance.pk)


class FieldsQuery(LookupQuery[T]):
    """A look-up by field names, as the manager's methods make.

    Where a cache is open it raises ``CacheNotRegistered`` at once; bad values wait until it is awaited.
    """

    __slots__ = ("_given",)

    kind: ClassVar[str] = "get"

    def __init__(self, model: type[Model], given: Mapping[str, Any], session: Session | None = None) -> None:
        # All that the classes above do: the way of every look-up.
        self.chosen = session
        self._model = model
        self._session = None
        self._given = given
        known = session or current_or_none()
        if known is not None:
            try:
                self._locate(known)
            except CacheNotRegistered:
                raise
            except (ValueError, TypeError):
                pass

    def _locate(self, session: Session) -> None:
        binding = session.bindings.get(self._model) or session.binding(self._model)
        found = binding.find(self.kind, self._given)
        self._values, self._key = found.place(self._given)
        self._source, self._session = found.source, session

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._given.items())
        return f"<{type(self).__name__} {self._model.__name__}({given})>"


class GetQuery(FieldsQuery[M], Generic[M]):
    """The one row with these values. Raises Tortoise's ``DoesNotExist`` or ``MultipleObjectsReturned``."""

    __slots__ = ()

    def finish(self, found: Sequence[Any]) -> M:
        row: M = found[0] if len(found) == 1 else only(self._model, found)
        return row


class GetOr404Query(GetQuery[M], Generic[M]):
    """The one row with these values. Raises what ``CacheConfig.not_found`` says, or ``MultipleObjectsReturned``."""

    __slots__ = ()
    _quick: ClassVar[bool] = True

    def plan(self, session: Session, scope: Scope | None) -> Plan[M]:
        try:
            return (yield from super().plan(session, scope))
        except DoesNotExist as error:
            raise session.config.no_row(self._model) from error


class GetOrNoneQuery(FieldsQuery[M | None], Generic[M]):
    """The one row with these values, or None. Raises ``MultipleObjectsReturned``."""

    __slots__ = ()

    def finish(self, found: Sequence[Any]) -> M | None:
        return only(self._model, found) if found else None


class FilterQuery(FieldsQuery[list[M]], Generic[M]):
    """All rows with these values, in the list's order. A new list each time."""

    __slots__ = ()
    kind: ClassVar[str] = "filter"

    def finish(self, found: Sequence[Any]) -> list[M]:
        return list(found)


class ExistsQuery(FieldsQuery[bool]):
    """Whether there is a row with these values."""

    __slots__ = ()
    kind: ClassVar[str] = "either"
    instances: ClassVar[bool] = False

    def finish(self, found: Sequence[Any]) -> bool:
        return bool(found)


class CountQuery(FieldsQuery[int]):
    """How many rows have these values."""

    __slots__ = ()
    kind: ClassVar[str] = "either"
    instances: ClassVar[bool] = False

    def finish(self, found: Sequence[Any]) -> int:
        return len(found)


def computed(session: Session, result: Result, key: bytes, compute: Compute, scope: Scope | None) -> Plan[Any]:
    """How a computed result is answered: by the request's scope, by the cache, or by computing it."""
    if scope is None:
        return (yield from result_at(result, key, compute, session.guesses))
    known = scope.recall(key)
    if known is not None:
        return known[0]
    generation = scope.generation
    value = yield from result_at(result, key, compute, session.guesses)
    row_keys: list[bytes] = []

    def own(instance: Model) -> Model:
        binding = session.bindings.get(type(instance))
        if binding is None:
            return instance
        row_keys.append(binding.rows.key(instance.pk))
        return cast("Model", scope.own(row_keys[-1], instance, generation))

    value = replaced(value, Model, own)
    scope.keep_result(key, value, row_keys, generation)
    return value


def only(model: type[Model], found: Sequence[Any]) -> Any:
    """Returns the one row. Raises Tortoise's ``DoesNotExist`` or ``MultipleObjectsReturned``."""
    if len(found) == 1:
        return found[0]
    raise (MultipleObjectsReturned if found else DoesNotExist)(model)
