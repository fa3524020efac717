"""A tour of aiomodelcache: ``make demo``, or ``python examples/quickstart.py``.

Fills a SQLite database and starts a private Redis, both in a temporary folder. Shows the cost of lookups:
round trips to Redis, SQL statements, milliseconds. Every line is a claim that is checked; the exit status
is 1 if one of them does not hold.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import redis.asyncio
from private_redis import private_redis
from quickstart_board import Board
from quickstart_models import Event, User, Venue, create_rows
from tortoise import Tortoise
from tortoise.exceptions import DoesNotExist

from aiomodelcache import Backend, BatchCacheQuery, MemoryBackend, ModelCache, RedisBackend, writes_without_cache

# The tour ------------------------------------------------------------------------------------------------


async def tour(board: Board, backend: Backend) -> None:
    async with ModelCache(backend) as cache:
        board.counts = cache.stats
        await one_event(board)
        await a_hundred_rows(board)
        await a_batch(board)
        await a_write(board)


async def one_event(board: Board) -> None:
    with board.step("get(slug=...), cold", redis=3, sql=1) as step:
        cold = await Event.cache.get(slug="python-meetup-lisbon-2026")
        step.show(cold.title, right=cold.slug == "python-meetup-lisbon-2026")
    with board.step("get(slug=...), warm", redis=1, sql=0) as step:
        warm = await Event.cache.get(slug="python-meetup-lisbon-2026")
        step.show(warm.title, right=dict(warm) == dict(cold))


async def a_hundred_rows(board: Board) -> None:
    slugs = [event.slug for event in await Event.all().limit(40)]
    names = [user.username for user in await User.all().limit(30)]
    by_tortoise = [
        *(Event.get(slug=slug) for slug in slugs),
        *(User.get(username=name) for name in names),
        *(Venue.get(id=number) for number in range(1, 21)),
        *(Event.filter(organizer=number) for number in range(1, 11)),
    ]
    by_cache = [
        *(Event.cache.get(slug=slug) for slug in slugs),
        *(User.cache.get(username=name) for name in names),
        *(Venue.cache.get(id=number) for number in range(1, 21)),
        *(Event.cache.filter(organizer=number) for number in range(1, 11)),
    ]
    with board.step("gather of 100, by Tortoise alone", redis=0, sql=100) as step:
        expected = await asyncio.gather(*by_tortoise)
        step.show("40 events, 30 users, 20 venues, 10 lists of events")
    with board.step("gather of 100, by the cache, cold", redis=None, sql=4) as step:
        step.show("the same, one SQL for each kind", right=await asyncio.gather(*by_cache) == expected)
    with board.step("gather of 100, by the cache, warm", redis=1, sql=0) as step:
        step.show("the same", right=await asyncio.gather(*by_cache) == expected)


async def a_batch(board: Board) -> None:
    event = await Event.get(slug="rust-sprint-berlin-2026")
    await asyncio.gather(Event.cache.clear(), User.cache.clear())  # all entries of both models, in all processes
    batch = BatchCacheQuery(
        organizer=User.cache.get(id=event.organizer_id),
        venue=Venue.cache.get(city="Berlin", name="City Hall"),
        others=Event.cache.filter(organizer=event.organizer_id),
        missing=Event.cache.get(slug="no-such-event"),
    )
    for when, trips, statements in (("cold", None, 4), ("warm", 1, 0)):
        with board.step(f"a batch of four, {when}", redis=trips, sql=statements) as step:
            found = await batch.get(none_on_exception=True)
            right = found["missing"] is None and event in found["others"] and found["venue"].city == "Berlin"
            step.show(f"missing: {found['missing']}, others: {len(found['others'])} events, ...", right=right)
    with board.step("await event.organizer, warm", redis=1, sql=0) as step:
        organizer = await event.organizer
        step.show(organizer.name, right=organizer == found["organizer"])


async def a_write(board: Board) -> None:
    event = await Event.cache.get(slug="python-meetup-lisbon-2026")
    event.title, event.slug = "PyCon Lisbon 2026", "pycon-lisbon-2026"
    with board.step("save() with a new title and slug", redis=2, sql=1) as step:
        await event.save()
        step.show("marked before the write, cleared after it")
    with board.step("get(slug=...) by the new slug", redis=4, sql=1) as step:
        found = await Event.cache.get(slug="pycon-lisbon-2026")
        step.show(found.title, right=found.title == "PyCon Lisbon 2026")
    with board.step("get(slug=...) by the old slug", redis=3, sql=1) as step:
        try:
            step.show((await Event.cache.get(slug="python-meetup-lisbon-2026")).title, right=False)
        except DoesNotExist:
            step.show("DoesNotExist")


# The race ------------------------------------------------------------------------------------------------


class Gate:
    """A gate that stops callers until it is opened."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


Call = Callable[[], Coroutine[Any, Any, Any]]


async def race(gate: Gate, read: Call, write: Call) -> Any:
    """Runs the worst interleaving of a reader and a writer, and returns the result of a read after it.

    The reader misses and reads the row from the database. Before it fills the cache, the writer saves and
    invalidates. Then the reader fills the cache with a row that is old by now.
    """
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await gate.reached.wait()
            await write()
            gate.opened.set()
    return await read()


class LookAside:
    """A cache written by hand: GET, else SQL and SET; DEL after a save."""

    def __init__(self, store: Any, gate: Gate) -> None:
        self.store, self.gate, self.round_trips = store, gate, 0

    async def title(self, pk: int) -> str:
        self.round_trips += 1
        if (cached := await self.store.get(f"title:{pk}")) is not None:
            return cached.decode()
        title = (await Event.get(id=pk)).title
        await self.gate.pass_through()
        self.round_trips += 1
        await self.store.set(f"title:{pk}", title.encode())
        return title

    async def save(self, event: Event) -> None:
        with writes_without_cache():
            await event.save()
        self.round_trips += 1
        await self.store.delete(f"title:{event.id}")


class MemoryStore(dict[str, bytes]):
    """The commands of Redis that a ``LookAside`` needs, for machines without Redis."""

    async def get(self, key: str) -> bytes | None:
        return super().get(key)

    async def set(self, key: str, value: bytes) -> None:
        self[key] = value

    async def delete(self, key: str) -> None:
        self.pop(key, None)


class GatedBackend:
    """A backend whose fills have to pass a gate."""

    def __init__(self, backend: Backend, gate: Gate) -> None:
        self.backend, self.gate = backend, gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    async def fill(self, *args: Any) -> list[bool]:
        await self.gate.pass_through()
        return await self.backend.fill(*args)


async def race_by_hand(board: Board, store: Any) -> None:
    event = await Event.get(slug="rust-sprint-oslo-2026")
    old, event.title = event.title, "Rust Sprint Oslo, moved to May"
    board.counts = cache = LookAside(store, gate := Gate())
    with board.step("a race of read and save, cached by hand", redis=4, sql=2) as step:
        served = await race(gate, lambda: cache.title(event.id), lambda: cache.save(event))
        step.show(f"{served}  <- STALE", right=served == old)


async def race_by_cache(board: Board, backend: Backend) -> None:
    event = await Event.get(slug="rust-sprint-oslo-2026")
    event.title = "Rust Sprint Oslo, moved to June"
    async with ModelCache(GatedBackend(backend, gate := Gate())) as cache:
        board.counts = cache.stats
        with board.step("the same race, aiomodelcache", redis=8, sql=3) as step:
            served = await race(gate, Event.cache.get(id=event.id).resolve, event.save)
            step.show(served.title, right=served.title == event.title)


# The whole demo ------------------------------------------------------------------------------------------


async def show(folder: Path) -> Board:
    """Shows the tour and the race, on a private Redis or, without one, in memory."""
    async with private_redis(folder) as url:
        return await show_on(url, folder)


async def show_on(url: str | None, folder: Path) -> Board:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(Tortoise.close_connections)  # also after Ctrl-C: a connection to SQLite is a thread
        await Tortoise.init(db_url=f"sqlite://{folder}/app.sqlite3", modules={"app": ["quickstart_models"]})
        await Tortoise.generate_schemas()
        rows = await create_rows()
        print(f"SQLite with {rows}; {'a private Redis' if url else 'memory://, as no Redis could be started'}\n")
        backend = RedisBackend(url) if url else MemoryBackend()
        stack.push_async_callback(backend.close)
        store = await stack.enter_async_context(redis.asyncio.Redis.from_url(url)) if url else MemoryStore()
        board = Board()
        await tour(board, backend)
        await race_by_hand(board, store)
        await race_by_cache(board, backend)
        return board


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        board = asyncio.run(show(Path(name)))
    for failure in board.failures:
        print(f"FAILED  {failure}", file=sys.stderr)
    if not board.failures:
        print(f"\nAll {board.claims} claims hold.")
    return 1 if board.failures else 0


if __name__ == "__main__":
    sys.exit(main())
