"""``python -m benchmarks.triggers``: the time of a write by a bare driver, without and with the triggers of a relay.

Two tables of the same columns are written in turn, one of them captured. Each statement commits by itself. The servers
wait for no disk, which makes the share of a trigger appear larger than it is where a COMMIT does. With ``--database
pgoutput``, the table is not captured by triggers, but published with REPLICA IDENTITY FULL, and PostgreSQL decodes it.
"""

import argparse
import asyncio
import gc
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CachedModel, ModelCache
from aiomodelcache.relay.captured import CapturedTable, captured_tables
from aiomodelcache.relay.source import Source, StreamSource, TriggerSource
from aiomodelcache.relay.stream.publication import PUBLICATION
from aiomodelcache.relay.triggers.installation import install
from benchmarks.samples import ratios
from tests.relay.outside import other_program
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.servers import PostgresServer, ServerMissing, mysql

DATABASES: Final = ("postgres", "mariadb", "sqlite", "pgoutput")
SINGLE: Final = 100
"""Number of statements of one sample that write one row each."""
WRITERS: Final = 16
"""Number of writers at once. SQLite has one at a time."""

Run = Callable[[str], Awaitable[Any]]


class Shipment(CachedModel):
    """A row of the captured table."""

    id = fields.IntField(primary_key=True, generated=False)
    code = fields.CharField(max_length=40, unique=True)
    owner = fields.IntField()
    state = fields.IntField(default=0)
    text = fields.TextField()

    class CacheMeta:
        get_key_fields_list = [("code",)]
        filter_key_fields_list = [("owner",)]
        relay = True


class PlainShipment(CachedModel):
    """The same row in a table that is not captured."""

    id = fields.IntField(primary_key=True, generated=False)
    code = fields.CharField(max_length=40, unique=True)
    owner = fields.IntField()
    state = fields.IntField(default=0)
    text = fields.TextField()


BARE: Final = "plainshipment"
CAPTURED: Final = "shipment"


def insert_of(table: str, first: int, count: int) -> str:
    """Returns the statement that inserts rows."""
    rows = ", ".join(
        f"({number}, 'c{number}', {number % 50}, 0, '{'x' * 200}')" for number in range(first, first + count)
    )
    return f"INSERT INTO {table} (id, code, owner, state, text) VALUES {rows}"


def statements(table: str, many: int) -> Iterator[tuple[str, list[str]]]:
    """Yields the kinds of writes and the statements of a sample, which leave the table empty."""
    single = range(SINGLE)
    yield "`INSERT` of a row", [insert_of(table, number, 1) for number in single]
    yield "`UPDATE` of a row", [f"UPDATE {table} SET state = state + 1 WHERE id = {number}" for number in single]
    yield "`DELETE` of a row", [f"DELETE FROM {table} WHERE id = {number}" for number in single]
    yield f"`INSERT` of {many:,} rows", [insert_of(table, 0, many)]
    yield f"`UPDATE` of {many:,} rows", [f"UPDATE {table} SET state = state + 1"]
    yield f"`DELETE` of {many:,} rows", [f"DELETE FROM {table}"]


@asynccontextmanager
async def writer(url: DatabaseUrl) -> AsyncIterator[Run]:
    """Connects a bare driver. That of SQLite works in this thread, as changing threads takes longer than a write."""
    if url.dialect != "sqlite":
        async with other_program(url) as run:
            yield run
        return
    connection = sqlite3.connect(url.removeprefix("sqlite://").partition("?")[0], isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")

    async def execute(statement: str) -> None:
        connection.execute(statement)

    try:
        yield execute
    finally:
        connection.close()


async def sampled(run: Run, many: int, *, captured_first: bool) -> dict[str, tuple[float, float]]:
    """Returns the seconds of each kind of write without and with triggers: the medians of statements sent in turn."""
    found: dict[str, tuple[float, float]] = {}
    for (kind, bare), (_, captured) in zip(statements(BARE, many), statements(CAPTURED, many), strict=True):
        times: tuple[list[float], list[float]] = ([], [])
        for pair in zip(bare, captured, strict=True):
            for at in (1, 0) if captured_first else (0, 1):
                began = time.perf_counter()
                await run(pair[at])
                times[at].append(time.perf_counter() - began)
        found[kind] = statistics.median(times[0]), statistics.median(times[1])
    return found


async def sampled_at_once(runs: Sequence[Run], *, captured_first: bool) -> tuple[float, float]:
    """Returns the seconds for each write of writers at once, each of its own row, without and with triggers."""
    times = [0.0, 0.0]
    for at in (1, 0) if captured_first else (0, 1):
        table = (BARE, CAPTURED)[at]
        await runs[0](insert_of(table, 0, len(runs)))

        async def write(number: int, run: Run, table: str = table) -> None:
            for _ in range(SINGLE):
                await run(f"UPDATE {table} SET state = state + 1 WHERE id = {number}")

        began = time.perf_counter()
        await asyncio.gather(*[write(number, run) for number, run in enumerate(runs)])
        times[at] = (time.perf_counter() - began) / SINGLE / len(runs)
        await runs[0](f"DELETE FROM {table}")
    return times[0], times[1]


async def captured_by(client: BaseDBAsyncClient, tables: Sequence[CapturedTable], *, decoded: bool) -> Source:
    """Installs what captures the writes, and returns what reads them."""
    if not decoded:
        await install(client, tables)
        return TriggerSource(client, tables)
    await client.execute_script(f"ALTER TABLE {CAPTURED} REPLICA IDENTITY FULL")
    await install(client, tables, PUBLICATION)
    source = StreamSource(client, tables, 1024**3)
    await source.check()
    return source


async def measured(url: DatabaseUrl, rounds: int, many: int, *, decoded: bool) -> dict[str, list[tuple[float, float]]]:
    """Returns the seconds without and with triggers, of each kind of write and round."""
    found: dict[str, list[tuple[float, float]]] = {}
    async with tortoise_on(url, "benchmarks.triggers") as client, ModelCache("memory://") as cache:
        [tables] = captured_tables(cache.open_cache).values()
        source = await captured_by(client, tables, decoded=decoded)
        async with AsyncExitStack() as stack:
            run, *others = [
                await stack.enter_async_context(writer(url)) for _ in range(1 if url.dialect == "sqlite" else WRITERS)
            ]
            for number in range(rounds + 1):  # the first one warms up
                gc.collect()
                times = await sampled(run, many, captured_first=bool(number % 2))
                if others:
                    at_once = await sampled_at_once([run, *others], captured_first=bool(number % 2))
                    times[f"`UPDATE` by each of {WRITERS} writers"] = at_once
                await source.begin()
                while changes := await source.changes(1_000):  # a relay keeps the table small
                    await source.delete([change.id for change in changes])
                if number:
                    for kind, seconds in times.items():
                        found.setdefault(kind, []).append(seconds)
        await source.close()
    return found


@contextmanager
def database(name: str) -> Iterator[DatabaseUrl]:
    """Starts a server. Raises ``ServerMissing``."""
    with ExitStack() as stack:
        if name == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            yield DatabaseUrl(f"sqlite://{folder}/shipments.sqlite3?synchronous=OFF", name)
            return
        server = mysql.mariadb_or_mysql() if name == "mariadb" else PostgresServer()
        server.start()
        stack.callback(server.close)
        yield DatabaseUrl(stack.enter_context(server.database()), server.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each database."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triggers", description=__doc__)
    parser.add_argument("--database", action="append", choices=DATABASES, help="may be repeated; default: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=1_000, help="rows of a statement that writes many")
    options = parser.parse_args(arguments)
    for name in options.database or DATABASES:
        try:
            with database(name) as url:
                found = asyncio.run(measured(url, options.rounds, options.rows, decoded=name == "pgoutput"))
        except ServerMissing as error:
            print(f"skipped: {name}: {error}", file=sys.stderr)
            continue
        print(f"| {name} | bare, µs | with triggers, µs | times |\n|---|---:|---:|---:|")
        for kind, pairs in found.items():
            bare, captured = zip(*pairs, strict=True)
            ratio = ratios(captured, bare)
            middle = statistics.median(bare) * 1e6, statistics.median(captured) * 1e6
            print(f"| {kind} | {middle[0]:,.0f} | {middle[1]:,.0f} | {ratio.median:.2f} |")
        print(flush=True)


if __name__ == "__main__":
    main()
