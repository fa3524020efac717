"""The views of one open cache: one for each tenant, and one for each connection that is named by ``using``.

A view is an ``OpenCache`` with keys, lookups and background tasks of its own, so callers of different tenants share
nothing but the store. All views of a cache share its settings, its counters and its predictions, which are by key.
"""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import Context, copy_context
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connections
from tortoise.models import Model

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.near import Near
from aiomodelcache.backends.partitioned import partitions
from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.keys import KeySpace, encode_tenant
from aiomodelcache.encoding.messages import described
from aiomodelcache.engine.admission import Admissions
from aiomodelcache.engine.derivation import Derivations
from aiomodelcache.engine.in_context import CallerContext
from aiomodelcache.engine.publishing import StatsPublisher
from aiomodelcache.engine.reader import Reader
from aiomodelcache.engine.shape_sharing import share_shapes
from aiomodelcache.engine.statements import Waiter
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.engine.writer import Writer
from aiomodelcache.entries.cascades import CascadeGraph
from aiomodelcache.entries.decoded import Decoded
from aiomodelcache.entries.derived import DerivedEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.tables import entries_by_writer
from aiomodelcache.entries.versions import TableVersions
from aiomodelcache.exceptions import CacheConfigurationError, TenantError
from aiomodelcache.observe.relay_status import RelayStatus
from aiomodelcache.observe.stats import Stats
from aiomodelcache.open_cache import Bindings, OpenCache, process_lock
from aiomodelcache.orm.connections import bound_models, root_client
from aiomodelcache.orm.contextual import contextual_part, may_depend_on_context, sees_other_rows
from aiomodelcache.orm.observed import StatementCount, observe_connection
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.orm.tables import models_by_table
from aiomodelcache.plans.requests import ComputeValue, Load
from aiomodelcache.scopes.bypass import BypassFlag

if TYPE_CHECKING:
    from aiomodelcache.relay.relay import Relay
    from aiomodelcache.relay.watch import RelayWatch
    from aiomodelcache.verifier import Verifier

MAX_TENANTS: Final = 1_000
"""Maximum number of tenants whose views are kept. Beyond it, the least recently used idle ones are dropped."""
_TYPES: Final = (str, int, bytes, uuid.UUID)
_OUTSIDE: Final = b""
"""The tenant in the keys of callers that have none."""

_REMEDY: Final = (
    "pass ModelCache(tenant=...) a function that returns what they depend on, like the variable's get. If cached rows "
    "do not depend on it, let the function return always the same value."
)
Tenant = str | int | bytes | uuid.UUID
Bind = Callable[[CacheConfig, KeySpace, Stats, Near, BaseDBAsyncClient | None], Bindings]
"""Resolves the declarations for one view, or the models alone for a connection of theirs."""


class Views:
    """The views of one open cache."""

    def __init__(
        self,
        config: CacheConfig,
        namespace: str,
        store: object,
        guarded: GuardedBackend,
        bypass: BypassFlag,
        bind: Bind,
    ) -> None:
        self._config = config
        self._bind = bind
        self._namespace = namespace
        self._store = store
        self._guarded = guarded
        self._bypass = bypass
        self._predictions = Predictions(config.guess_size)
        self._decoded = Decoded(config.decoded_memory_limit, guarded.stats.decoded)
        self._admissions: Admissions[Waiter] = Admissions(config, guarded.stats)
        self.relays: RelayWatch | None = None
        """The relays that the cache depends on, or None if no model has ``relay = True``."""
        self._verifier: Verifier | None = None
        if config.verify:
            from aiomodelcache import verifier

            self._verifier = verifier.Verifier(config.verify, guarded.stats.verified)
        self._tenants: OrderedDict[tuple[type, Tenant], _TenantView] = OrderedDict()
        self.publisher = StatsPublisher(guarded, namespace, self._undelivered_keys, self._relay_statuses)
        self._inspected: Mapping[type[Model], ModelEntries] = {}
        """The models whose real columns are inspected when the cache opens. All views are taken to have the same."""
        tenant = None if config.tenant is None else _OUTSIDE
        self._partitions = partitions(guarded.backend)
        self.root = self._open(KeySpace(namespace, tenant, self._partitions), CallerContext(copy_context()))
        self._inspected = self.root.models
        if config.tenant is None:
            self._refuse_contexts(self.root)
        else:
            self.root.find_tenant, self.root.direct = self._find, False
        if config.enabled and any(entries.rows.relayed for entries in self.root.models.values()):
            from aiomodelcache.relay import watch  # few caches have relayed models

            self.relays = watch.RelayWatch(self.root)
        self.relay: Relay | None = None
        """The relay that this process runs, or None."""
        if config.relay:
            from aiomodelcache.relay import relay

            self.relay = relay.Relay(self.root)

    async def start(self) -> None:
        """Starts the relay of this process, and learns which relays live. If that is cancelled, ends the relay."""
        if self.relay is not None:
            self.root.tasks.start(self.relay.run())
        if self.relays is not None:
            try:
                await self.relays.start(self._relay_statuses())
            except BaseException:
                await self.root.tasks.finish(0)
                raise

    def all(self) -> list[OpenCache]:
        """Returns all views. The first one is for callers without a tenant."""
        views = [self.root, *[tenant.view for tenant in self._tenants.values()]]
        return [each for view in views for each in (view, *view.views.values())]

    def _undelivered_keys(self) -> int:
        """Returns the number of keys whose invalidation is kept for later."""
        return sum(writer.undelivered_keys for writer in {view.writer for view in self.all()})

    def _relay_statuses(self) -> Sequence[RelayStatus]:
        return () if self.relay is None else self.relay.statuses

    def _refresh_thresholds(self) -> None:
        for view in self.all():
            view.reader.background.refresh_thresholds()

    async def close(self) -> None:
        """Waits for lookups and invalidations in flight, at most ``lease_ttl`` seconds. Then closes all of them."""
        if self._verifier is not None:
            self._verifier.stop()
        if self.relay is not None:
            self.relay.stop()
        now, views = self.root.loop.time, self.all()
        until = now() + self._config.lease_ttl

        async def finish(view: OpenCache) -> None:
            nonlocal until
            try:
                await view.tasks.finish(max(0.0, until - now()))
            except BaseException:
                until = now()  # the caller is cancelled and waits no longer
                raise

        async with AsyncExitStack() as stack:
            for view in views:
                view.end()
            stack.push_async_callback(self.publisher.close)
            if self.relays is not None:
                stack.push_async_callback(self.relays.close)
            for writer in dict.fromkeys(view.writer for view in views):  # the last step but one
                stack.push_async_callback(writer.close)
            for view in views:
                stack.callback(view.reader.close)
            for view in views:
                stack.push_async_callback(finish, view)

    # Tenants -------------------------------------------------------------------------------------

    def _find(self) -> OpenCache | None:
        """Returns the view of the caller's tenant, or None if the caller has none. Raises ``TenantError``."""
        tenant = self._tenant()
        if tenant is None:
            return None
        key = tenant.__class__, tenant
        found = self._tenants.get(key)
        if found is None:
            found = self._tenants[key] = self._open_tenant(tenant)
            self._drop_idle(key)
        else:
            self._tenants.move_to_end(key)
        found.callers.latest = copy_context()
        return found.view

    def _tenant(self) -> Tenant | None:
        function = self._config.tenant
        assert function is not None, "a cache without tenants has no views of them"
        try:
            tenant: Any = function()
        except LookupError:  # a context variable that is not set
            return None
        if tenant is not None and (not isinstance(tenant, _TYPES) or isinstance(tenant, bool)):
            raise TenantError(
                f"The function ModelCache(tenant=...) returned {described(tenant)}: it must return a str, an int, "
                "a UUID or bytes, or None outside of any tenant."
            )
        return tenant

    def _open_tenant(self, tenant: Tenant) -> "_TenantView":
        def check() -> None:
            if self._tenant() != tenant:
                raise TenantError(
                    "The function ModelCache(tenant=...) returns another tenant in a copy of its caller's context: it "
                    "must depend on context variables alone, and on values that do not change."
                )

        callers = CallerContext(copy_context())
        return _TenantView(
            self._open(KeySpace(self._namespace, encode_tenant(tenant), self._partitions), callers, check), callers
        )

    def _drop_idle(self, kept: tuple[type, Tenant]) -> None:
        """Drops the views used least recently, if there are too many, and if nothing is in flight on them."""
        for key, tenant in list(self._tenants.items())[: max(0, len(self._tenants) - MAX_TENANTS)]:
            if key != kept and not any(view.busy for view in (tenant.view, *tenant.view.views.values())):
                del self._tenants[key]

    # Without tenants -----------------------------------------------------------------------------

    def _refuse_contexts(self, view: OpenCache) -> None:
        """Refuses managers and routers that depend on a context variable: in their code now, else at each lookup."""
        suspects: list[ModelSchema] = []
        for entries in view.models.values():
            schema = entries.schema
            found = contextual_part(schema)
            if found is not None:
                method, variable = found
                raise CacheConfigurationError(
                    f"{schema.name}: {method} reads the context variable {variable!r}, so its rows differ by context, "
                    f"but cached rows are the same for all callers: {_REMEDY}"
                )
            if may_depend_on_context(schema):
                suspects.append(schema)

        def check(context: Context, request: Load | ComputeValue) -> None:
            background = view.tasks.context.copy()
            for schema in [request.entry_set.schema] if isinstance(request, Load) else suspects:
                if schema in suspects and sees_other_rows(schema.model, context, background):
                    raise TenantError(
                        f"{schema.name}: its manager or a router selects other rows here than in the context in which "
                        f"the cache was opened, but cached rows are the same for all callers: {_REMEDY}"
                    )

        if suspects:
            view.reader.compare_callers(check)

    # Opening -------------------------------------------------------------------------------------

    def _open(
        self,
        space: KeySpace,
        callers: CallerContext,
        check: Callable[[], None] | None = None,
        client: BaseDBAsyncClient | None = None,
        writer: Writer | None = None,
    ) -> OpenCache:
        config, guarded = self._config, self._guarded
        with process_lock:
            bindings = self._bind(config, space, guarded.stats, guarded.near, client)
            tables = models_by_table(bound_models(), client)
        written = entries_by_writer(bindings.models, tables)
        self.foreign_keys = bindings.foreign_keys
        for model, entries in bindings.models.items():
            entries.rows.decoded = self._decoded
            if model in self._inspected:
                schema, inspected = entries.schema, self._inspected[model].schema
                schema.loose_columns |= inspected.loose_columns
                schema.as_declared &= inspected.as_declared
                if schema.dialect == inspected.dialect:
                    schema.integer_bounds = inspected.integer_bounds
        versions = TableVersions(bindings.models, written, tables, space)
        observed = [observe_connection(root_client(each)) for each in get_connections().all()]
        tasks = BackgroundTasks(callers, callers.leave)
        reader = Reader(guarded, config, tasks, self._bypass, self._admissions, bindings.lifetimes, check)
        view = OpenCache(
            config=config,
            stats=guarded.stats,
            guarded=guarded,
            bypass=self._bypass,
            reader=reader,
            writer=writer or Writer(guarded, config, tasks, reader.background, self._predictions),
            predictions=self._predictions,
            decoded=self._decoded,
            tasks=tasks,
            loop=asyncio.get_running_loop(),
            models=bindings.models,
            classes=bindings.classes,
            space=space,
            store=self._store,
            many_to_many=bindings.many_to_many,
            written=written,
            cascades=CascadeGraph(written, tables, config.bulk_limit),
            versions=versions,
            derivations=Derivations(
                guarded, self._bypass, config, versions, _activity_of(bindings.models, observed), reader.overloads
            ),
        )
        for result in bindings.classes.values():
            if isinstance(result, DerivedEntries):
                result.tracked_in(versions, view.derivations.compute, view.reader.reads_apart, self._decoded)
        if config.adopt_rows:
            share_shapes(guarded, tasks, [entries.rows for entries in bindings.models.values()], space)
        if self._verifier is not None:
            self._verifier.watch(view)
        guarded.near.tick = self._refresh_thresholds
        if self.relays is not None:
            self.relays.cover(view, connected=client is not None)
        if client is None:
            view.make_view = partial(self._open_connection, view, callers, check)
        return view

    def _open_connection(
        self, view: OpenCache, callers: CallerContext, check: Callable[[], None] | None, client: BaseDBAsyncClient
    ) -> OpenCache:
        found = self._open(view.space, callers, check, client, view.writer)
        find = view.find_tenant
        if self._config.tenant is None:
            self._refuse_contexts(found)
        elif find is not None:
            found.find_tenant = lambda: tenant.using(client) if (tenant := find()) is not None else None
            found.direct = False
        return found


def _activity_of(models: Mapping[type[Model], ModelEntries], observed: Sequence[StatementCount]) -> Callable[[], int]:
    """Returns a function whose result grows with each statement and with each lookup of a cached row."""
    counters = [entries.rows.counters for entries in models.values()]
    hits, misses, number = map(attrgetter, ("hits", "misses", "number"))
    return lambda: sum(map(hits, counters)) + sum(map(misses, counters)) + sum(map(number, observed))


class _TenantView(NamedTuple):
    view: OpenCache
    callers: CallerContext
