"""``python -m benchmarks.saves``: ``save()`` of a cached row, against that of the same row by Tortoise alone.

The floor is Tortoise's ``save()`` between two round trips to Redis, sent by hand on a stream of asyncio: one to mark
the row's key, one to delete it. Each round saves with all of them, in turn, so that other load on the machine affects
all. asyncpg resets a connection whenever its pool takes it back, which is a round trip, so PostgreSQL is measured with
and without that.
"""

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tortoise.connection import get_connection

from benchmarks import data
from benchmarks.cases import HUNDRED
from benchmarks.contestants import Own, TortoiseAlone
from benchmarks.places import DATABASES, LOOPS, Place, open_place


class SaveSample(NamedTuple):
    """Times of one save, in microseconds."""

    typical: float
    """Median of the saves of one round."""
    least: float
    """The time that a twentieth of the saves did not exceed."""
    cpu: float
    """Mean of the CPU time of this process."""


class Floor(TortoiseAlone):
    """Tortoise's own ``save()`` between two round trips to Redis, which do nothing that a cache needs beyond them."""

    name = "the floor"

    async def open(self, place: Place) -> None:
        await super().open(place)
        address = urlsplit(place.redis.url)
        self._replies, self._commands = await asyncio.open_connection(address.hostname, address.port)

    async def close(self) -> None:
        self._commands.close()
        await super().close()

    def draft(self, pk: int) -> Any:
        return _Framed(super().draft(pk), self._ask)

    async def _ask(self, command: bytes) -> None:
        self._commands.write(command)
        assert (await self._replies.readline())[:1] in b"+:"


class _Framed:
    """An instance whose ``save()`` has a request before it and after it."""

    def __init__(self, instance: Any, ask: Callable[[bytes], Awaitable[None]]) -> None:
        self._instance, self._ask, self.stock = instance, ask, instance.stock

    async def save(self) -> None:
        self._instance.stock = self.stock
        await self._ask(b"SET floor:row intent PX 30000\r\n")
        await self._instance.save()
        await self._ask(b"DEL floor:row\r\n")


@asynccontextmanager
async def _catalogue(place: Place, *, resets: bool) -> AsyncIterator[None]:
    async with place.catalogue():
        if not resets:
            import asyncpg

            class Unreset(asyncpg.Connection):  # type: ignore[type-arg]
                def get_reset_query(self) -> str:
                    return ""

            client: Any = get_connection(place.database)
            await client.close()
            client.connection_class = Unreset  # of the pool that the next statement makes
        yield


async def _sample(contestant: Any, saves: int) -> SaveSample:
    draft, taken = contestant.draft(HUNDRED[0]), list[float]()
    gc.collect()
    worked = time.process_time()
    for _ in range(saves):
        draft.stock += 1
        began = time.perf_counter()
        await draft.save()
        taken.append((time.perf_counter() - began) * 1e6)
    cpu = (time.process_time() - worked) * 1e6 / saves
    taken.sort()
    return SaveSample(taken[saves // 2], taken[saves // 20], cpu)


async def measure(place: Place, rounds: int, saves: int, *, resets: bool) -> list[list[SaveSample]]:
    """Returns the samples with the cache, those without it, and those of the floor."""
    async with _catalogue(place, resets=resets):
        own, bare, floor = Own(), TortoiseAlone(), Floor()
        await own.open(place)
        await floor.open(place)
        samples: dict[Any, list[SaveSample]] = {own: [], bare: [], floor: []}
        gc.collect()
        gc.freeze()
        for number in range(rounds + 1):  # the first one warms up
            for contestant in list(samples)[:: 1 if number % 2 else -1]:
                sample = await _sample(contestant, saves)
                samples[contestant] += [sample] if number else []
        gc.unfreeze()
        found = await own.get(HUNDRED[0])
        assert found.stock == own.draft(HUNDRED[0]).stock != data.product(HUNDRED[0])["stock"]
        await own.close()
        await floor.close()
    return list(samples.values())


def report(name: str, own: Sequence[SaveSample], bare: Sequence[SaveSample], floor: Sequence[SaveSample]) -> str:
    """Returns a line with the least times of all rounds and their ratios, and the median of the ratios of CPU time."""
    least, without, lowest = (min(sample.least for sample in samples) for samples in (own, bare, floor))
    cpu = statistics.median(mine.cpu / theirs.cpu for mine, theirs in zip(own, bare, strict=True))
    return (
        f"{name:34} {least:7.0f} µs, bare {without:5.0f} µs: {least / without:5.2f} times; "
        f"floor {lowest:5.0f} µs: {least / lowest:5.2f} times; CPU {cpu:5.2f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saves", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--saves", type=int, default=80, help="in each round, by each of both")
    parser.add_argument("--database", choices=DATABASES)
    parser.add_argument("--loop", choices=LOOPS)
    options = parser.parse_args()
    for database in [options.database] if options.database else DATABASES:
        for loop in [options.loop] if options.loop else LOOPS:
            for resets in (True, False) if database == "postgres" else (True,):
                with open_place(loop, database) as place, asyncio.Runner(loop_factory=place.new_loop) as runner:
                    samples = runner.run(measure(place, options.rounds, options.saves, resets=resets))
                print(report(f"{place}{'' if resets else ', without resets'}", *samples), flush=True)


if __name__ == "__main__":
    main()
