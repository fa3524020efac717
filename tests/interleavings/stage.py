"""Where scenarios are played: a database, a store, the caches of two processes, and what must be true afterwards."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tortoise.context import TortoiseContext
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, link, reader, session
from aiomodelcache.queries import CacheQuery
from tests.interleavings.database import Pool, PooledClient
from tests.interleavings.models import ALLOWTIME, Artist, DatedArtist, RankedArtist, Ranking, RefilledArtist
from tests.interleavings.schedule import Actor, Choose, Fail, Mishap, Run, Scheduler
from tests.interleavings.store import ScheduledBackend

Row = tuple[int, str, int | None, int]
COLUMNS = ("id", "name", "rank", "followers")
Rows = tuple[Row, ...]
AnyArtist = type[Artist] | type[DatedArtist] | type[RefilledArtist] | type[RankedArtist]


@dataclass(frozen=True)
class LookUp:
    """The artists with this value. Answered by the database at any moment, or by a cache."""

    field: str
    value: Any

    def of(self, rows: Rows) -> Rows:
        at = COLUMNS.index("rank" if self.field == "ranking" else self.field)
        return tuple(row for row in rows if row[at] == self.value)

    def query(self, cache: ModelCache, model: AnyArtist) -> CacheQuery[Any]:
        if self.field == "ranking":
            ranking: CacheQuery[Any] = Ranking(self.value)
            ranking._chosen = cache.session
            return ranking
        artists: Any = cache.manager(model)
        found = {self.field: self.value}
        query: CacheQuery[Any] = artists.filter(**found) if self.field == "rank" else artists.get_or_none(**found)
        return query


EVERYTHING = [
    *(LookUp("id", value) for value in (1, 2, 3)),
    *(LookUp("name", value) for value in ("a", "b", "c")),
    *(LookUp("rank", value) for value in (1, 2)),
]
RANKINGS = [LookUp("ranking", value) for value in (1, 2)]


def as_rows(found: Any) -> Rows:
    artists: list[Any] = found if isinstance(found, list) else [] if found is None else [found]
    values = [each if isinstance(each, tuple | list) else map(vars(each).get, COLUMNS) for each in artists]
    return tuple(sorted(tuple(each) for each in values))


class Stage:
    """One scenario after the other is played here; ``play`` begins afresh each time."""

    def __init__(self, model: AnyArtist, scheduler: Scheduler, pool: Pool, store: ScheduledBackend) -> None:
        self.model: Any = model
        self.allowance = ALLOWTIME if model is DatedArtist else 0
        """How old an answer may be, in seconds."""
        self.scheduler = scheduler
        self.pool = pool
        self.store = store
        self.clock = scheduler.clock
        self.history: list[Rows] = []
        """What was committed, from the beginning on."""
        self.times: list[float] = []
        """And when."""
        self.near: ModelCache
        self.far: ModelCache
        """Of another process: it reads from the same store, and is not told what is written here."""
        self._watching = pool.connect()
        pool.committed = self._note

    # What actors do -------------------------------------------------------------------------------------

    async def look_up(self, look_up: LookUp, cache: ModelCache, *, since: int | None = None) -> None:
        """Looks up, and checks that the answer was true at some moment since then."""
        began = self.now() if since is None else since
        answer = as_rows(await look_up.query(cache, self.model))
        if cache is self.near or not self.store.missed:  # others cannot know of what was never sent
            self.check(look_up, answer, began)

    def now(self) -> int:
        """The oldest that a look-up which begins now may be answered from, as a place in the history."""
        began = len(self.history) - 1
        while began and self.times[began] > self.clock.now - self.allowance:
            began -= 1
        return began if self.allowance else len(self.history) - 1

    def check(self, look_up: LookUp, answer: Rows, began: int) -> None:
        true = [look_up.of(rows) for rows in self.history[began:]]
        assert answer in true, f"stale: {look_up} is {answer}; since it began the answer was {true}"

    def artist(self, pk: int, **changes: Any) -> Any:
        """An instance of the row as it is committed now (or was at first, if it is gone), changed; without I/O."""
        pk, name, rank, followers = next(row for row in [*self.history[-1], *self.history[0]] if row[0] == pk)
        artist = self.model(id=pk, name=name, rank=rank, followers=followers)
        artist._saved_in_db = True
        return artist.update_from_dict(changes)

    # Playing ----------------------------------------------------------------------------------------------

    async def play(
        self,
        rows: Rows,
        actors: Mapping[str, Actor],
        choose: Choose,
        mishap: Mishap = None,
        *,
        warm: Iterable[ModelCache] = (),
        may_leave: str = "",
    ) -> Run:
        """``may_leave``: the states of entries that may be left, to expire."""
        await self._begin(rows)
        for cache in warm:
            await self._look_everything_up(cache)
        unknown = self.near.stats.unknown_outcomes
        run = await self.scheduler.run(actors, choose, mishap)
        try:
            may_leave += "W" if self.near.stats.unknown_outcomes > unknown else ""
            may_leave += "S" if self.allowance else ""
            if isinstance(mishap, Fail):
                may_leave += "LW"
                await self._deliver()
            await self._check(may_leave)
        except AssertionError as error:
            error.add_note(str(run))
            raise
        return run

    async def _begin(self, rows: Rows) -> None:
        table = self.model.describe()["table"]
        self._watching.execute(f"DELETE FROM {table}")
        self._watching.execute("DELETE FROM sqlite_sequence")
        self._watching.executemany(f"INSERT INTO {table} (id, name, rank, followers) VALUES (?, ?, ?, ?)", rows)
        self.history, self.times = [], []
        self._note()
        self.store.forget()
        for cache in (self.near, self.far):
            cache.session.guesses.clear()
            cache.session.reader.forget_attempts()

    def _note(self) -> None:
        table = self.model.describe()["table"]
        rows = self._watching.execute(f"SELECT id, name, rank, followers FROM {table} ORDER BY id").fetchall()
        self.history.append(tuple([tuple(row) for row in rows]))
        self.times.append(self.clock.now)

    async def _deliver(self) -> None:
        """Lets the time pass that it takes until the store is used again, and knows what it was not told."""
        await self.scheduler.settle()
        while any(cache.session.tasks._running for cache in (self.near, self.far)):
            assert self.scheduler.pass_time(), "a task will not end"
            await self.scheduler.settle()
        self.clock.now += self.near.config.breaker_cooldown
        for cache in (self.near, self.far):
            await LookUp("id", 1).query(cache, self.model)
        await self.scheduler.settle()

    # What must be true when all have ended -----------------------------------------------------------------

    async def _check(self, may_leave: str) -> None:
        assert not self.pool.open, "a transaction was left open"
        for cache in (self.near, self.far):
            reading, writing = cache.session.reader, cache.session.writer
            assert not reading.busy, "a look-up is still on its way"
            assert not reading._flights, "somebody is said to be filling"
            assert not cache.session.tasks._running, "a task is still running"
            assert not writing._kept, "an invalidation is kept"
            assert not writing._gathering, "a transaction is said to be under way"
        left = self.store.states()
        assert set(left) <= set(may_leave), f"left in the store: {left}"
        await self._check_answers()
        if left or self.allowance:
            self.clock.now += self.near.config.intent_ttl + self.allowance + 1
            assert not self.store.states(), "it does not expire"
            await self._check_answers()
        await self._check_connection()

    async def _check_answers(self) -> None:
        for cache in (self.near, self.far):  # the one finds what the other has filled
            await self._look_everything_up(cache)

    async def _look_everything_up(self, cache: ModelCache) -> None:
        look_ups = EVERYTHING + (RANKINGS if self.model is RankedArtist else [])
        found = await asyncio.gather(*[each.query(cache, self.model) for each in look_ups])
        await self.scheduler.settle()
        for look_up, answer in zip(look_ups, found, strict=True):
            self.check(look_up, as_rows(answer), self.now())

    async def _check_connection(self) -> None:
        """A transaction after all this is committed, and seen."""
        async with in_transaction():
            await self.model.create(id=9, name="after", rank=9)
        await self.look_up(LookUp("name", "after"), self.near)
        assert any(row[0] == 9 for row in self.history[-1]), "what was committed is not there"


@asynccontextmanager
async def stage(folder: Path, model: AnyArtist = Artist) -> AsyncIterator[Stage]:
    """Opens everything, once for many runs."""
    scheduler = Pool.scheduler = Scheduler()
    async with TortoiseContext() as context:
        connection = {"engine": "tests.interleavings.database", "credentials": {"file_path": str(folder / "app.db")}}
        await context.init(
            config={
                "connections": {"scheduled": connection},
                "apps": {"app": {"models": ["tests.interleavings.models"], "default_connection": "scheduled"}},
            }
        )
        await context.generate_schemas(safe=False)
        client: Any = context.connections.get("scheduled")
        assert isinstance(client, PooledClient)
        store = ScheduledBackend(scheduler, model.describe()["table"])
        made = Stage(model, scheduler, client.pool, store)
        clock = scheduler.clock
        with patch.object(reader, "time", clock), patch.object(link, "time", clock):
            async with (
                ModelCache(store, bulk_limit=1, lease_wait=0.0, lease_ttl=2.0) as made.near,
                ModelCache(store, bulk_limit=1, lease_wait=0.0, lease_ttl=2.0) as made.far,
            ):
                session.open_sessions.remove(made.far.session)
                with patch.object(asyncio.get_running_loop(), "time", clock.monotonic):
                    yield made
        made._watching.close()
