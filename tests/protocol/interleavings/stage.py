"""Where scenarios are played: a database, a store, the caches of two processes, and what must be true afterwards."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tortoise.connection import get_connections
from tortoise.context import TortoiseContext
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.backends import breaker
from aiomodelcache.engine import background, lease_extensions, leases
from aiomodelcache.entries import base, policy
from aiomodelcache.open_cache import open_caches
from aiomodelcache.relay import relay
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.source import TriggerSource
from aiomodelcache.relay.triggers.installation import install
from tests.protocol.interleavings.database import CONNECTION, Pool, PooledClient, Replica
from tests.protocol.interleavings.questions import ARTISTS, Question, State, World, columns_of
from tests.protocol.interleavings.schedule import Actor, Choose, Fail, Mishap, Run, Scheduler
from tests.protocol.interleavings.store import ScheduledBackend

MODELS = [
    "tests.protocol.interleavings.models",
    "tests.protocol.interleavings.linked_models",
    "tests.protocol.interleavings.values_models",
]

SETTINGS = {"bulk_limit": 1, "lease_wait": 0.0, "lease_ttl": 2.0, "compute_ttl": 2.0, "ttl_jitter": 0.0}


class Stage:
    """One scenario after the other is played here; ``play`` begins afresh each time."""

    def __init__(self, world: World, scheduler: Scheduler, pool: Pool, store: ScheduledBackend) -> None:
        self.world = world
        self.model: Any = world.models[0]
        self.scheduler = scheduler
        self.pool = pool
        self.store = store
        self.clock = scheduler.clock
        self.history: list[State] = []
        """What was committed, from the beginning on."""
        self.times: list[float] = []
        """And when."""
        self.told: list[tuple[int, float]] = []
        """Of which place in the history caches were told by hand, and when."""
        self.near: ModelCache
        self.far: ModelCache
        """The cache of another process: it reads from the same store, and does not hear of writes here."""
        self.replica: Replica | None = None
        self.relays: list[relay.Drain] = []
        """The relays, if other programs write. Each actor that drains takes another one."""
        self._outside: set[int] = set()
        """The places in the history of writes by other programs."""
        self._strict = False
        """True if all of them must be seen, because a relay has drained them."""
        self._watching = pool.connect()
        self._watching.execute("PRAGMA foreign_keys=OFF")
        pool.committed = self._note

    # What actors do -------------------------------------------------------------------------------------

    async def look_up(self, question: Question, cache: ModelCache, *, since: int | None = None) -> None:
        """Looks up, and checks that the answer was true at some moment since then."""
        began = self.now(question) if since is None else since
        answer = await question.ask(cache, self.model, self.history[-1])
        if cache is self.near or not self.store.missed:  # others cannot know of what was never sent
            self.check(question, answer, began)

    def now(self, question: Question | None = None) -> int:
        """The oldest that a lookup which begins now may be answered from, as a place in the history."""
        known = list(enumerate(self.times)) if question is None or not question.by_hand else self.told
        return max([place for place, time in known if time <= self.clock.now - self._allowance(place)], default=0)

    def _allowance(self, place: int) -> float:
        """The time after which a commit must be seen."""
        if place in self._outside and not self._strict:
            return self.near.config.relay_lag
        return self.world.allowance

    def tell(self, place: int) -> None:
        """Says that caches were told of what had been committed at that place in the history."""
        self.told.append((place, self.clock.now))

    def check(self, question: Question, answer: Any, began: int) -> None:
        true = question.true(self.history[began:])
        assert answer in true, f"stale: {question} is {answer}; since it began the answer was {true}"

    def instance(self, model: type[Any], pk: int, **changes: Any) -> Any:
        """An instance of the row as it is committed now (or was at first, if it is gone), changed; without I/O."""
        table = self.world.models.index(model)
        row = next(row for row in [*self.history[-1][table], *self.history[0][table]] if row[0] == pk)
        instance = model(**dict(zip(columns_of(model), row, strict=True)))
        instance._saved_in_db = True
        return instance.update_from_dict(changes)

    def artist(self, pk: int, **changes: Any) -> Any:
        """The same of the first model."""
        return self.instance(self.model, pk, **changes)

    async def write_outside(self, sql: str) -> None:
        """Another program's write, on a connection of its own."""

        async def write() -> None:
            if self._watching.execute(sql).rowcount:
                self._note()
                self._outside.add(len(self.history) - 1)

        await self.scheduler.step(f"another program: {sql.split(maxsplit=1)[0]}", write, lambda: not self.pool.writing)

    async def drain(self, number: int = 0) -> bool:
        """Lets a relay drain once, and claim."""
        self.relays[number].claim_at_once()
        return await self.relays[number].drain()

    async def trim(self) -> None:
        """Lets another process replace the lines that wait."""
        source = self.relays[-1].source
        assert isinstance(source, TriggerSource)
        await source.trim()

    async def ask(self) -> None:
        """Lets both processes ask how long a relay lives."""
        for cache in (self.near, self.far):
            watch = cache._views.relays
            assert watch is not None
            await watch.ask()

    async def _catch_up_with_others(self) -> None:
        while not await self.drain():
            pass
        await self.ask()

    def replicate(self) -> None:
        """All that is committed arrives at the replica."""
        assert self.replica is not None
        self.replica.reach(self._by_table(), len(self.history) - 1)

    def _catch_up(self) -> None:
        assert self.replica is not None
        self.replica.catch_up(self._by_table(), self.times, self.clock.now)

    def _by_table(self) -> list[dict[str, Any]]:
        names = [name for name, _ in self.world.tables()]
        return [dict(zip(names, state, strict=True)) for state in self.history]

    # Playing ----------------------------------------------------------------------------------------------

    async def play(
        self,
        state: State,
        actors: Mapping[str, Actor],
        choose: Choose,
        mishap: Mishap = None,
        *,
        warm: Iterable[ModelCache] = (),
        may_leave: str = "",
        age: float = 0,
    ) -> Run:
        """``may_leave``: the states of entries that may be left, to expire; ``age``: how old they are at first."""
        await self._begin(state)
        for cache in warm:
            await self._look_everything_up(cache)
        self.clock.now += age
        run = await self.scheduler.run(actors, choose, mishap)
        try:
            may_leave += "S" if self.world.allowance else ""
            may_leave += "W" if self.replica is not None else ""
            if isinstance(mishap, Fail):
                may_leave += "LW"
                await self._deliver()
            await self._check(may_leave)
        except AssertionError as error:
            error.add_note(str(run))
            raise
        return run

    async def _begin(self, state: State) -> None:
        tables = list(zip(self.world.tables(), state, strict=True))
        for (table, _), _ in reversed(tables):
            self._watching.execute(f"DELETE FROM {table}")
        self._watching.execute("DELETE FROM sqlite_sequence")
        for (table, columns), rows in tables:
            places = ", ".join("?" for _ in columns)
            self._watching.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
        self.history, self.times, self.told = [], [], []
        self._note()
        self._outside, self._strict = set(), False
        self.store.forget()
        if self.relays:
            await self._catch_up_with_others()
            await self.drain(1)  # which notices that the numbers of lines have begun anew
        if self.replica is not None:
            self.replica.forget()
        for cache in (self.near, self.far):
            cache.open_cache.predictions.clear()
            cache.open_cache.reader.background.clear_attempts()

    def _note(self) -> None:
        state = tuple([self._rows_of(*table) for table in self.world.tables()])
        if self.relays and self.history and state == self.history[-1]:  # a relay has deleted lines
            return
        self.history.append(state)
        self.times.append(self.clock.now)

    def _rows_of(self, table: str, columns: tuple[str, ...]) -> tuple[tuple[Any, ...], ...]:
        found = self._watching.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2").fetchall()
        return tuple([tuple(row) for row in found])

    async def _deliver(self) -> None:
        """Lets the time pass that it takes until the store is used again, and knows what it was not told."""
        await self.scheduler.settle()
        while any(cache.open_cache.tasks._running for cache in (self.near, self.far)):
            assert self.scheduler.pass_time(), "a task will not end"
            await self.scheduler.settle()
        self.clock.now += self.near.config.breaker_cooldown
        for cache in (self.near, self.far):
            await self.world.everything[0].ask(cache, self.model, self.history[-1])
        await self.scheduler.settle()

    # What must be true when all have ended -----------------------------------------------------------------

    async def _check(self, may_leave: str) -> None:
        assert not self.pool.open, "a transaction was left open"
        assert not self.pool.taken, "a connection was not given back"
        assert not self.pool.half_done, "a connection was given back in the middle of a transaction"
        for cache in (self.near, self.far):
            reading, writing = cache.open_cache.reader, cache.open_cache.writer
            assert not reading.busy, "a lookup is still on its way"
            assert not reading._leases._flights, "a fill is said to be in flight"
            assert not cache.open_cache.tasks._running, "a task is still running"
            assert not writing._undelivered, "an invalidation is kept"
            assert not writing._open_intents, "a transaction is said to be under way"
        left = self.store.states()
        assert set(left) <= set(may_leave), f"left in the store: {left}"
        await self._check_answers()
        if self.relays:
            self._strict = True
            await self._catch_up_with_others()
            await self._check_answers()
        if left or self.world.allowance:
            config = self.near.config
            expiry = config.intent_ttl + config.lease_ttl + (config.replica_lag or 0)
            self.clock.now += expiry + self.world.allowance + 1
            assert not self.store.states(), "it does not expire"
            await self._check_answers()
        await self._check_connection()

    async def _check_answers(self) -> None:
        for cache in (self.near, self.far):  # the one finds what the other has filled
            await self._look_everything_up(cache)

    async def _look_everything_up(self, cache: ModelCache) -> None:
        asked = self.world.everything
        found = await asyncio.gather(*[each.ask(cache, self.model, self.history[-1]) for each in asked])
        await self.scheduler.settle()
        for question, answer in zip(asked, found, strict=True):
            self.check(question, answer, self.now(question))

    async def _check_connection(self) -> None:
        """A transaction after all this is committed, and seen."""
        async with in_transaction(CONNECTION):
            await self.model.create(id=9, name="after")
        found = await self.near.manager(self.model).get(name="after")
        assert found.id == 9, "what was committed is not found"
        assert any(row[0] == 9 for row in self.history[-1][0]), "what was committed is not there"


class Router:
    """Reads from the replica, as Tortoise is to be told."""

    def db_for_read(self, model: type) -> str:
        return "replica"

    def db_for_write(self, model: type) -> str:
        return CONNECTION


async def _relay(made: Stage) -> None:
    """Installs triggers, makes two relays, and lets processes ask for their lives only when a scenario says so."""
    for cache in (made.near, made.far):
        watch = cache._views.relays
        assert watch is not None
        await watch.close()
        watch.relayed.clock = made.clock.monotonic
    [(connection, tables)] = captured_tables(made.far.open_cache).items()
    await install(get_connections().get(connection), tables)
    made.relays = [relay.Relay(made.far).drains[0] for _ in range(2)]


def _connection(path: Path) -> dict[str, Any]:
    return {"engine": "tests.protocol.interleavings.database", "credentials": {"file_path": str(path)}}


@asynccontextmanager
async def stage(folder: Path, world: World = ARTISTS) -> AsyncIterator[Stage]:
    """Opens everything, once for many runs."""
    scheduler = Pool.scheduler = Scheduler()
    async with TortoiseContext() as context:
        lag = world.settings.get("replica_lag")
        names = [CONNECTION, "replica"] if lag else [CONNECTION]
        await context.init(
            config={
                "connections": {name: _connection(folder / f"{name}.db") for name in names},
                "apps": {"app": {"models": [*MODELS, *world.modules], "default_connection": CONNECTION}},
                "routers": [Router] if lag else [],
            }
        )
        await context.generate_schemas(safe=False)
        client: Any = context.connections.get(CONNECTION)
        assert isinstance(client, PooledClient)
        store = ScheduledBackend(scheduler)
        store.at_once = world.at_once
        made = Stage(world, scheduler, client.pool, store)
        if lag:
            replica: Any = context.connections.get("replica")
            made.replica = Replica(made._watching, replica.pool, lag)
            replica.pool.catch_up = made._catch_up
        clock = scheduler.clock
        settings: dict[str, Any] = {
            "bulk_limit": 1,
            "lease_wait": 0.0,
            "lease_ttl": 2.0,
            "compute_ttl": 2.0,
            "ttl_jitter": 0.0,
        }
        settings.update(world.settings)
        with ExitStack() as patches:
            for module in (background, leases, lease_extensions, breaker, base, policy):
                patches.enter_context(patch.object(module, "time", clock))
            async with ModelCache(store, **settings) as made.near, ModelCache(store, **settings) as made.far:
                open_caches.remove(made.far.open_cache)
                if any(entries.rows.relayed for entries in made.near.open_cache.models.values()):
                    await _relay(made)
                    patches.enter_context(patch.object(relay, "LINES_PER_DRAIN", 2))
                with patch.object(asyncio.get_running_loop(), "time", clock.monotonic):
                    yield made
        made._watching.close()
        if made.replica is not None:
            made.replica.close()
