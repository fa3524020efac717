"""The statements that plans ask for: one for all lookups of a key that miss together, when the database admits it.

Must not know how plans proceed: ``advance`` is handed in.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.admission import Admission, Admissions
from aiomodelcache.engine.batching import Coalescer, TickBatcher
from aiomodelcache.engine.in_context import InContext, caller_context
from aiomodelcache.engine.leases import group_requests
from aiomodelcache.engine.loader import can_share_statement, load
from aiomodelcache.engine.observing import note_database, observe_statement, operations_of
from aiomodelcache.engine.overload import Overloads
from aiomodelcache.engine.run import RunningPlan
from aiomodelcache.engine.soft_timeout import Advance
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.exceptions import DatabaseOverloaded
from aiomodelcache.observe.events import Lookup
from aiomodelcache.orm.contextual import may_depend_on_context
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.requests import Load

Waiter = tuple[RunningPlan, Load]
SharedLoad = tuple[Any, bool, bool]
"""An entry set, and whether a replica may answer, and whether primary keys suffice."""


class Statements:
    """The statements of one open cache."""

    def __init__(
        self,
        guarded: GuardedBackend,
        config: CacheConfig,
        tasks: BackgroundTasks,
        advance: Advance,
        check_context: Callable[[], None],
        deadline: Callable[[], float],
        admissions: Admissions[Waiter],
    ) -> None:
        self._guarded = guarded
        self._config = config
        self._tasks = tasks
        self._advance = advance
        self._check_context = check_context
        self._deadline = deadline
        """Returns the time until which rows may be leased that a statement finds which is sent now."""
        self._admissions = admissions
        self.overloads = Overloads(guarded, config, admissions)
        self.load: TickBatcher[Waiter] = TickBatcher(self._load, tasks)
        self.coalescer = Coalescer(self._load_source, tasks)

    async def _load(self, requests: list[Waiter]) -> None:
        for target, group in group_requests(
            requests, lambda request: (request.entry_set, request.replica, request.only_pks)
        ).items():
            if can_share_statement(target[0]):
                self.coalescer.add(target, group)
            else:
                self._tasks.start(self._load_source(target, group))

    async def _load_source(
        self, target: SharedLoad, group: list[Waiter], *, alone: bool = False, forced: bool = False
    ) -> None:
        """Sends a statement when the database admits it, or now if ``forced``: for no other group if ``alone``."""
        entry_set, replica, _ = target
        try:
            self._check_context()
            client = entry_set.schema.replica() if replica else entry_set.schema.client
            admission = self._admissions.admission_to(client)
            key = object() if alone or not can_share_statement(entry_set) else target
            if forced:
                admission.in_flight += 1
            elif not await admission.enter(key, group, partial(self._end_wait, target, admission)):
                return
            answers = await self._admitted(target, group, client, admission)
        except Exception as error:
            if len(group) == 1:
                self._advance(group[0][0], None, error)
                return
            # Alone, so that one lookup's bad value does not fail the others. At once, so that a slow failure delays
            # the lookups only once.
            await asyncio.gather(*[self._load_source(target, [pair], alone=True) for pair in group])
            return
        except BaseException:  # cancelled, by the driver or because the cache closes
            for run, _ in group:
                self._advance(run, None, self._tasks.cancellation("statement"))
            raise
        if entry_set.rows.near:
            loaded = self._guarded.near.catch_up()
            for run, _ in group:
                run.loaded = loaded
        for run, request in group:
            self._advance(run, {key: answers[key] for key in request.wanted})

    async def _admitted(
        self, target: SharedLoad, group: list[Waiter], client: BaseDBAsyncClient, admission: Admission[Waiter]
    ) -> dict[bytes, Any]:
        """Loads as many of a group as one statement answers. The others wait for another one.

        The statement of a lookup alone runs in the context of the task that awaits it, so that the driver sees the
        current span. If the rows may depend on the context, it does not.
        """
        entry_set, _, only_pks = target
        wanted: dict[bytes, Values] = {}
        sample = None
        for number, (_, request) in enumerate(group):
            if number and len(wanted) + len(request.wanted) > self._config.batch_size:
                self._tasks.start(self._load_source(target, group[number:]))
                del group[number:]
                break
            wanted.update(request.wanted)
        kind, in_flight, started = (entry_set.counters.name, only_pks), admission.in_flight, perf_counter()
        try:
            operations = tuple(operations_of(run for run, _ in group))
            select = self.select(entry_set, wanted, client, operations, only_pks=only_pks)
            alone = len(group) == 1 and not may_depend_on_context(entry_set.schema)
            context = caller_context(group[0][0].done) if alone else None
            if context is None:
                answers = await select
            else:
                answers = await InContext(self._tasks.leave(context), select)
            sample = kind, len(wanted), perf_counter() - started, in_flight
        finally:
            admission.leave(sample)
        return answers

    def _end_wait(self, target: SharedLoad, admission: Admission[Waiter], late: list[Waiter]) -> None:
        """Fails lookups that have waited for the database too long, or sends their statement all the same."""
        entry_set = target[0]
        refusal = self.overloads.refusal(admission, entry_set.schema.name, entry_set.counters, len(late))
        if refusal is None:
            self._tasks.start(self._load_source(target, late, forced=True))
            return
        for run, _ in late:
            self._advance(run, None, DatabaseOverloaded(refusal))

    async def select(
        self,
        entry_set: Any,
        wanted: Mapping[bytes, Values],
        client: BaseDBAsyncClient,
        operations: tuple[Lookup, ...],
        *,
        only_pks: bool,
    ) -> dict[bytes, Any]:
        """Sends the statements for these values on a connection, whatever is in flight there."""
        observers, observe = self._guarded.observers, None
        if observers is not None and operations:
            note_database(operations)
            observe = partial(observe_statement, observers, entry_set.schema, client, operations)
        stats, size, started = self._guarded.stats, self._config.batch_size, perf_counter()
        try:
            return await load(
                entry_set, wanted, client, stats, size, self._deadline, only_pks=only_pks, observe=observe
            )
        finally:
            entry_set.counters.seconds += perf_counter() - started
