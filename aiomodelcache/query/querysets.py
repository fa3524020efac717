"""``Event.cache.query(queryset)``: the answer of any queryset, for as long as nothing changes that it was read from."""

from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.exceptions import DoesNotExist
from tortoise.fields import ReverseRelation
from tortoise.models import Model

from aiomodelcache.durations import Duration, parse_optional_duration
from aiomodelcache.encoding.messages import described, safe_cause, safe_reason
from aiomodelcache.encoding.together import KnownKeys
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.entries.queries import QueryEntries, digest_of
from aiomodelcache.exceptions import CacheError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.connections import bound_models, router_client
from aiomodelcache.orm.query_copies import (
    bulk_query,
    copied_query,
    inner_queries,
    is_unchanging,
    use_clients,
    without_additions,
)
from aiomodelcache.orm.query_filters import equal_values, selects_rows
from aiomodelcache.orm.query_state import QueryNotCacheable, setting_state, state_of_query
from aiomodelcache.plans.computing import refuse_cycle
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.results import result_hit
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.computed import computed
from aiomodelcache.query.parts import AwaitedWhole
from aiomodelcache.scopes.request import Scope
from aiomodelcache.scopes.tracking import Tracker, current_tracker

if TYPE_CHECKING:
    from aiomodelcache.query.explain import Explanation

T = TypeVar("T")
_ROUTER_CALLS: Final = 50
"""Maximum number of times that a router is asked whether it may choose a connection. It may choose one at random.

``Event.all()`` names the connection that the router chose for it, and so looks like ``using_db()``.
"""


class QuerysetQuery(AwaitedWhole, CacheQuery[T]):
    """A lazy query for the answer of a queryset. See ``ModelCacheManager.query``."""

    __slots__ = (
        "_client",
        "_digest",
        "_field",
        "_is_copied",
        "_model",
        "_queryset",
        "_raises",
        "_timeout",
    )

    def __init__(
        self, model: type[Model], queryset: Awaitable[T], timeout: Duration | None, cache: OpenCache | None = None
    ) -> None:
        super().__init__(cache)
        name = f"{model.__name__}.cache.query"
        self._model = model
        self._timeout = parse_optional_duration(f"{name}: timeout", timeout)
        bulk = bulk_query(queryset)
        asked: Any = queryset if bulk is None else bulk[0]
        self._field: str | None = None if bulk is None else bulk[1]
        if getattr(asked, "model", None) is not model or not hasattr(asked, "_db"):
            asked = cast("Any", asked).all() if isinstance(asked, ReverseRelation) else None  # such as event.tags
            if getattr(asked, "model", None) is not model:
                raise TypeError(f"{name} takes a queryset of {model.__name__}; got {described(queryset)}.")
        self._raises = bool(getattr(asked, "_raise_does_not_exist", False)) and not getattr(asked, "_flat", False)
        if asked._db is None and is_unchanging(asked) and not self._raises:
            self._queryset, self._client, self._is_copied = asked, None, False
        else:
            self._queryset, self._is_copied = copied_query(asked), True
            self._client = _take_client(self._queryset)
        if self._raises:  # the absence is stored, and raised again
            self._queryset._raise_does_not_exist = False
        try:
            self._digest = self._digest_of(self._queryset)
        except QueryNotCacheable as error:
            raise CacheError(f"{name}: {error}.") from None
        except ValueError as error:
            raise CacheError(f"{name}: a value cannot be part of a key: {safe_reason(error)}.") from safe_cause(error)

    def __repr__(self) -> str:
        return f"<{self._model.__name__}.cache.query({type(self._queryset).__name__} #{self._digest[:8].decode()})>"

    def open_cache(self) -> OpenCache:
        cache = super().open_cache()
        client = self._client
        if client is not None and not isinstance(client, TransactionalDBClient):
            name = client.connection_name
            if name != cache.entries_of(self._model).schema.connection:
                raise CacheError(
                    f"{self._model.__name__}.cache.query: the queryset names another connection ({name}): use "
                    f"{self._model.__name__}.cache.using({name!r}).query(...), and write on that connection."
                )
        return cache

    def locate(self, cache: OpenCache) -> tuple[QueryEntries, bytes]:
        """Returns the entries and the key of the answer. Raises ``CacheNotRegistered``."""
        entries = query_entries(cache, self._model).with_timeout(self._timeout, cache.reader.background.watch)
        return entries, entries.digest_key(self._digest)

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        entries, key = self.locate(cache)
        return entries, (key,)

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        """Returns the open transaction in which the queryset is awaited, if any. It may see what others do not."""
        if isinstance(self._client, TransactionalDBClient):
            return self._client
        return next((client for schema in cache.connections if (client := schema.transaction()) is not None), None)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        entries, key = self.locate(cache)
        compute = partial(entries.track, entries, partial(self._run, cache))
        value = yield from computed(cache, entries, key, compute, scope)
        return self.finish(value)

    def fast_lookup(self, cache: OpenCache) -> FastLookup | None:
        entries, key = self.locate(cache)
        refuse_cycle(entries, key)  # here, because the plan may run in another context than the caller's
        return _LocatedQuery(self, entries, key)

    def finish(self, value: Any) -> T:
        """Returns the answer for a value that is stored, or raises ``DoesNotExist``."""
        if value is None and self._raises:
            raise DoesNotExist(self._model)
        return cast("T", value)

    async def _run(self, cache: OpenCache) -> Any:
        """Awaits a copy of the queryset."""
        query, tracker = copied_query(self._queryset), current_tracker()
        if not self._is_copied:
            without_additions(query)
        query._db = None  # its caller may have awaited it since, which sets a connection
        if tracker is not None and self._digest_of(query) != self._digest:
            tracker.refuse("an instance that it was asked for with was changed meanwhile")
        if tracker is not None:
            tracker.selects_rows = selects_rows(self._queryset)
            self._depend_on_group(cache, tracker)
        use_clients(query, partial(_client_of, cache, self._client))
        rows = await query
        return rows if self._field is None else {getattr(row, self._field): row for row in rows}

    def _depend_on_group(self, cache: OpenCache, tracker: Tracker) -> None:
        """Lets the version of a group stand for that of the table, if all rows of the answer are of one group."""
        entries = cache.entries_of(self._model)
        groups, table = entries.groups, entries.rows.table_key
        values = None if groups is None else equal_values(self._queryset, groups.attributes)
        if groups is not None and values is not None and table is not None:
            with suppress(ValueError):  # such as an expression: the database knows its value
                normalised = tuple([groups.schema.normalise(name, values[name]) for name in groups.attributes])
                group = groups.key(normalised)
                tracker.groups[table] = [group, groups.partitions.epoch_of(group)]

    def _digest_of(self, query: Any) -> bytes:
        return digest_of((state_of_query(query, clocks=self._timeout is not None), self._field, self._timeout))

    async def explain(self) -> "Explanation":
        """Returns, as data, the source that would answer now, and the reason. Sends no SQL."""
        from aiomodelcache.query.explain import explain_key

        cache = self.open_cache()
        entries, key = self.locate(cache)
        return await explain_key(cache, self, entries, (), key)


class _LocatedQuery:
    """One await of a query, with its entries and its key."""

    __slots__ = ("_entries", "_epoch_key", "_key", "_query")
    lookup_event: None = None

    def __init__(self, query: QuerysetQuery[Any], entries: QueryEntries, key: bytes) -> None:
        self._query = query
        self._entries = entries
        self._key = key
        self._epoch_key = entries.epoch_of(key)

    def collect_keys(self, cache: OpenCache, wanted: dict[bytes, None], /) -> KnownKeys | None:
        return cache.predictions.predict(self._key).collect_keys(self._epoch_key, self._key, wanted)

    def try_hit(self, cache: OpenCache, found: Mapping[bytes, bytes | None], /) -> Any:
        value = result_hit(self._entries, self._epoch_key, self._key, cache.predictions.predict(self._key), found)
        return value if value is NoValue.MISS else self._query.finish(value)

    def start_plan(self, cache: OpenCache, /) -> Plan[Any]:
        return self._query.plan(cache, None)


def _take_client(query: Any) -> BaseDBAsyncClient | None:
    """Returns the connection that a query names, if a router does not choose it. The query names none afterwards.

    The same is done for the queries that it prefetches, but they keep the connections that they name.
    """
    for inner in inner_queries(query):
        inner._db = _take_client(inner)
    client, query._db = query._db, None
    if client is None or isinstance(client, TransactionalDBClient):
        return client
    choices = (router_client(query.model, for_write=at == 0) for at in range(_ROUTER_CALLS))
    return None if any(each.connection_name == client.connection_name for each in choices) else client


def _client_of(cache: OpenCache, named: BaseDBAsyncClient | None, model: type[Model]) -> BaseDBAsyncClient | None:
    """Returns the connection on which a query of a model is sent: a transaction's, or the one that is written to."""
    if isinstance(named, TransactionalDBClient):
        return named
    entries = cache.models.get(model)
    return None if entries is None else entries.schema.transaction() or entries.schema.client


def query_entries(cache: OpenCache, model: type[Model]) -> QueryEntries:
    """Returns the entries of a model's queries, created at the first use. Raises ``CacheNotRegistered``."""
    rows = cache.entries_of(model).rows
    entries = cache.queries.get(model)
    if entries is None:
        config, label = cache.config, f"{rows.counters.name}.query"

        def lifetimes_for(timeout: float) -> Lifetimes:
            return Lifetimes(timeout, min(timeout, config.negative_timeout), config.ttl_jitter, config.refresh_ahead)

        lifetimes = Lifetimes(config.timeout, config.negative_timeout, config.ttl_jitter, config.refresh_ahead)
        cache.reader.background.watch(lifetimes)
        entries = cache.queries[model] = created = QueryEntries(
            label,
            ["~query", rows.schema.table],
            connection=rows.schema.connection,
            space=cache.space,
            rows=None,
            attributes=(),
            watched=frozenset(),
            bound=cache.models,
            codec=None,
            returns=Any,
            version=setting_state(bound_models()),
            lifetimes=lifetimes,
            lifetimes_for=lifetimes_for,
            policy=Policy(),
            lease_ttl=config.compute_ttl,
            counters=cache.stats.of(label),
        )
        created.tracked_in(cache.versions, cache.derivations.compute, cache.reader.reads_apart, cache.decoded)
        cache.guarded.start_tracking()
    return cast("QueryEntries", entries)
