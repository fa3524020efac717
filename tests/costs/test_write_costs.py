"""The additional cost of each kind of write, which must equal the table in docs/writes.md.

Each row of the table is measured by the function that is registered under the row's first cell.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tortoise.exceptions import IntegrityError
from tortoise.expressions import F
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models.cost_models import Badge, Event, Guest, Mark, Part, Reply, Scrap, User, Wearer

pytestmark = pytest.mark.models("tests.support.models.cost_models")

MODELS: list[type[Model]] = [Badge, Wearer, Part, Scrap, Guest, Reply, Mark, Event, User]
"""The models in an order in which their tables can be emptied."""
LIMIT = 5
"""The ``bulk_limit`` of the measured cache, in rows."""
ADA = 1001
"""The primary key of the user whose events are written."""


class Cost(NamedTuple):
    """The cost of a write with the cache beyond its cost without."""

    round_trips: int
    statements: int
    transactions: int


class Meter:
    """Counts the cost of each ``counting`` block. All blocks of one function must cost the same."""

    def __init__(self, backend: CountingBackend, cache: ModelCache | None = None) -> None:
        self.cache = cache
        """The open cache, or None while the cost without a cache is measured."""
        self.counts: list[Cost] = []
        self._backend = backend

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        async with assert_ops(self._backend) as ops:
            yield
        self.counts.append(Cost(len(ops.operations), len(ops.statements), ops.transactions))


Write = Callable[[Meter], Awaitable[None]]
MEASURED: dict[str, Write] = {}


def costs(row: str) -> Callable[[Write], Write]:
    """Registers the function that makes the writes of the table row with this text."""

    def register(write: Write) -> Write:
        assert MEASURED.setdefault(row, write) is write, f"measured twice: {row}"
        return write

    return register


# One row at a time ---------------------------------------------------------------------------------------


@costs("`create()`")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.create(slug="new", organizer_id=ADA)


@costs("`save()`")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    event.slug = "renamed"
    async with meter.counting():
        await event.save()


@costs("`save()` that changes no key, of a row that another writer has moved since it was loaded")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    await QuerySet(Event).filter(slug="e1").update(day=7)
    event.title = "new"
    async with meter.counting():
        await event.save()


@costs("`save(update_fields=[…])`, of whole keys or of none")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    event.slug, event.title = "renamed", "new"
    async with meter.counting():
        await event.save(update_fields=["slug", "title"])


@costs("`save(update_fields=[…])`, of a part of a key")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    event.day = 7
    async with meter.counting():
        await event.save(update_fields=["day"])


@costs("`save()` of an expression in a key")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    event.day = F("day") + 1  # type: ignore[assignment]
    async with meter.counting():
        await event.save()


@costs("`Event.cache.update(event, …)`, compared with `save(update_fields=[…])`")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    async with meter.counting():
        if meter.cache:
            await Event.cache.update(event, slug="renamed", title="new")
        else:
            event.slug, event.title = "renamed", "new"
            await event.save(update_fields=["slug", "title"])


@costs("`Event.cache.update(event, …)` of an expression, compared with the same")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    async with meter.counting():
        if meter.cache:
            await Event.cache.update(event, day=F("day") + 1)
        else:
            event.day = F("day") + 1  # type: ignore[assignment]
            await event.save(update_fields=["day"])


@costs("`delete()`")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    async with meter.counting():
        await event.delete()


@costs("`delete()` that the database cascades")
async def _(meter: Meter) -> None:
    user = await User.get(id=ADA)
    async with meter.counting():
        await user.delete()


@costs("`get_or_create()` that finds")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.get_or_create(slug="e1")


@costs("`get_or_create()` that creates")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.get_or_create({"organizer_id": ADA}, slug="new")


@costs("`update_or_create()` that updates")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.update_or_create({"title": "new"}, slug="e1")


@costs("`update_or_create()` that creates")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.update_or_create({"organizer_id": ADA}, slug="new")


@costs("a write that the database refuses")
async def _(meter: Meter) -> None:
    async with meter.counting():
        with suppress(IntegrityError):
            await Event.create(slug="e1", organizer_id=ADA)


# Transactions --------------------------------------------------------------------------------------------


@costs("a transaction of any number of `create()`, `save()` and `delete()`")
async def _(meter: Meter) -> None:
    first, second, *_ = await Event.all()
    first.title = "changed"
    async with meter.counting(), in_transaction():
        await Event.create(slug="new", organizer_id=ADA)
        async with in_transaction():
            await first.save()
        await second.delete()
        await Mark.create(text="new")


@costs("a transaction that is rolled back")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    event.title = "changed"
    async with meter.counting():
        with suppress(ZeroDivisionError):
            async with in_transaction():
                await event.save()
                raise ZeroDivisionError


@costs("a transaction that only reads")
async def _(meter: Meter) -> None:
    async with meter.counting(), in_transaction():
        await Event.get(slug="e1")


# Many rows -----------------------------------------------------------------------------------------------


@costs("`QuerySet.update()` of columns that are no key")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.filter(organizer__username="ada", day__lt=2).update(title="new")


@costs("`QuerySet.update()` of columns of keys")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.filter(organizer__username="ada", day__lt=2).update(day=F("day") + 1)


@costs("`QuerySet.update()` of more than `bulk_limit` rows")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.all().update(day=F("day") + 1)


@costs("`QuerySet.delete()`")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.filter(organizer__username="ada", day__lt=2).delete()


@costs("`QuerySet.delete()` that the database cascades")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await User.filter(id__lt=ADA + 2).delete()


@costs("`QuerySet.delete()` of more than `bulk_limit` rows")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.all().delete()


@costs("`bulk_create()`, primary keys given")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.bulk_create([Event(id=2000 + n, slug=f"new{n}", organizer_id=ADA) for n in range(3)])


@costs("`bulk_create()`, primary keys made by the database")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.bulk_create([Event(slug=f"new{n}", organizer_id=ADA) for n in range(3)])


@costs("`bulk_create()`, primary keys made by the database, of a model without keys")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Mark.bulk_create([Mark(text=f"new{n}") for n in range(3)])


@costs("`bulk_create(ignore_conflicts=True)`")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.bulk_create([Event(slug=f"e{n}", organizer_id=ADA) for n in range(3, 9)], ignore_conflicts=True)


@costs("`bulk_create(on_conflict=[…], update_fields=[…])`")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Event.bulk_create(
            [Event(slug=f"e{n}", organizer_id=ADA) for n in range(2, 6)], on_conflict=["slug"], update_fields=["title"]
        )


@costs("`bulk_update()` of columns that are no key")
async def _(meter: Meter) -> None:
    events = await Event.filter(organizer_id=ADA)
    async with meter.counting():
        await Event.bulk_update(events, fields=["title"])


@costs("`bulk_update()` of columns of keys")
async def _(meter: Meter) -> None:
    events = await Event.filter(organizer_id=ADA)
    for event in events:
        event.day += 10
    async with meter.counting():
        await Event.bulk_update(events, fields=["day"])


@costs("`QuerySet.update()` inside a transaction, which has its own two round trips")
async def _(meter: Meter) -> None:
    async with in_transaction(), meter.counting():
        await Event.filter(slug="e1").update(title="new")


# Computed results -----------------------------------------------------------------------------------------


@costs("`create()` of a model with computed results")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Guest.create(table_number=1)


@costs("`save()` and `delete()` of a model with computed results")
async def _(meter: Meter) -> None:
    first, second, *_ = await Guest.all()
    first.table_number = 7
    async with meter.counting():
        await first.save()
    async with meter.counting():
        await second.delete()


@costs("`QuerySet.update()` of columns that computed results go by")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Guest.filter(table_number=1).update(table_number=7)


@costs("`bulk_update()` of columns that computed results go by")
async def _(meter: Meter) -> None:
    guests = await Guest.all()
    async with meter.counting():
        await Guest.bulk_update(guests, fields=["table_number"])


@costs("`QuerySet.delete()` of a model with computed results")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Guest.filter(table_number=1).delete()


# Many-to-many ---------------------------------------------------------------------------------------------


@costs("`create()` of a model with paged lists, and `save()` that leaves the row in its lists")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Reply.create(thread=1)
    reply = await Reply.get(id=1000)
    reply.text = "new"
    async with meter.counting():
        await reply.save()
    async with meter.counting():
        await reply.save(update_fields=["text"])


@costs("`save()` that moves a row between paged lists, and `delete()` of a row in one")
async def _(meter: Meter) -> None:
    first, second, third, *_ = await Reply.all()
    first.thread = second.thread = 7
    async with meter.counting():
        await first.save()
    async with meter.counting():
        await second.save(update_fields=["thread"])
    async with meter.counting():
        await third.delete()


@costs("`QuerySet.update()` that moves rows between paged lists")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Reply.filter(thread=1).update(thread=7)


@costs("`QuerySet.delete()` of rows in paged lists")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await Reply.filter(thread=1).delete()


@costs("`add()` and `remove()` of a many-to-many relation")
async def _(meter: Meter) -> None:
    (badge, _), wearers = await Badge.all(), await Wearer.all()
    for write in (badge.wearers.add, badge.wearers.remove, badge.makers.add, badge.makers.remove):
        async with meter.counting():
            await write(*wearers)
    for write in (wearers[0].badges.add, wearers[0].badges.remove):  # type: ignore[attr-defined]
        async with meter.counting():
            await write(badge)


@costs("`clear()` of one, with lists cached from its own side")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await (await Badge.all())[0].makers.clear()


@costs("`clear()` of one, with lists cached from the other side")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await (await Badge.all())[0].wearers.clear()
    async with meter.counting():
        await (await Wearer.all())[0].badges.clear()  # type: ignore[attr-defined]


@costs("`delete()` of a row that many-to-many lists may hold")
async def _(meter: Meter) -> None:
    async with meter.counting():
        await (await Badge.all())[0].delete()


# By hand -------------------------------------------------------------------------------------------------


@costs("`Event.cache.invalidate(…)`: an instance, a primary key, a list of them, a queryset, the values of a key")
async def _(meter: Meter) -> None:
    event = await Event.get(slug="e1")
    if meter.cache:
        for rows in (event, event.id, [event, 1005], Event.filter(day=1)):
            async with meter.counting():
                await Event.cache.invalidate(rows)
        for key in ({"slug": "e1"}, {"organizer": ADA, "day": 1}, {"pk": 1005}):
            async with meter.counting():
                await Event.cache.invalidate(**key)


@costs("`Event.filter(…).invalidate_cache()`")
async def _(meter: Meter) -> None:
    rows: Any = Event.filter(day__lt=3)
    if meter.cache:
        async with meter.counting():
            await rows.invalidate_cache()


@costs("`Event.cache.clear()`, `cache.clear(Event, User)`, `cache.clear_all()`")
async def _(meter: Meter) -> None:
    if meter.cache:
        async with meter.counting():
            await Event.cache.clear()
        async with meter.counting():
            await meter.cache.clear(Event, User)
        async with meter.counting():
            await meter.cache.clear_all()


@costs("`Event.cache.clear()` inside a transaction, which has its own two round trips")
async def _(meter: Meter) -> None:
    if meter.cache:
        async with in_transaction(), meter.counting():
            await Event.cache.clear()


# No cost at all ------------------------------------------------------------------------------------------


@costs("any of these, of a model without a cache on which no cached model depends")
async def _(meter: Meter) -> None:
    async with meter.counting():
        scrap = await Scrap.create(number=10)
    async with meter.counting():
        await scrap.save()
    async with meter.counting():
        await Scrap.get_or_create(number=11)
    async with meter.counting():
        await Scrap.update_or_create({"number": 12}, number=11)
    async with meter.counting():
        await Scrap.bulk_create([Scrap(number=20 + n) for n in range(2 * LIMIT)])
    async with meter.counting():
        await Scrap.bulk_update([scrap], fields=["number"])
    async with meter.counting():
        await Part.filter(scrap__number=1).update(scrap_id=scrap.id)
    async with meter.counting():
        await Scrap.filter(number__gt=22).delete()
    async with meter.counting():
        await (await Badge.all())[0].scraps.add(scrap)
    async with meter.counting():
        await scrap.badges.clear()  # type: ignore[attr-defined]
    async with meter.counting(), in_transaction():
        await Part.all().delete()
        await scrap.delete()


@costs("any of these, while no cache is open")
async def _(meter: Meter) -> None:
    """Compares with Tortoise's own classes."""
    if meter.cache:
        await meter.cache.close()
    rows: Any = Event.all() if meter.cache else QuerySet(Event)
    users: Any = User.all() if meter.cache else QuerySet(User)
    save, delete = (Event.save, Event.delete) if meter.cache else (Model.save, Model.delete)
    event = await rows.get(slug="e1")
    async with meter.counting():
        await save(event)
    async with meter.counting():
        await delete(event)
    async with meter.counting():
        await rows.filter(organizer__username="ada").update(day=F("day") + 1)
    async with meter.counting():
        await rows.bulk_create([Event(slug=f"new{n}", organizer_id=ADA) for n in range(2 * LIMIT)])
    async with meter.counting():
        await rows.bulk_create([Event(slug="e3", organizer_id=ADA)], ignore_conflicts=True)
    async with meter.counting():
        await rows.bulk_update(await rows.filter(organizer_id=ADA), fields=["day"])
    async with meter.counting():
        await rows.filter(day=1).delete()
    async with meter.counting():
        await users.filter(username="ada").delete()


# The table -----------------------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "writes.md"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "mariadb": "MySQL"}
FIGURE = re.compile(r"(\d+)|(SQLite|PostgreSQL|MySQL): (\d+|—)")


def figure(cell: str, dialect: str) -> int | None:
    """Returns the number for a dialect in a cell such as ``1; MySQL: 2``, or None if the cell has none."""
    found = {name or "": number or of_name for number, name, of_name in FIGURE.findall(cell)}
    number = found.get(NAMES[dialect], found.get("", "—"))
    return None if number == "—" else int(number)


def table(dialect: str) -> dict[str, Cost | None]:
    """Returns the costs in the document by kind of write. A write that the database cannot make has None."""
    rows: dict[str, Cost | None] = {}
    for line in DOCUMENT.read_text("utf-8").split("## What it costs")[1].splitlines():
        if line.startswith("|") and not line.startswith(("|--", "| write")):
            name, *cells = [cell.strip() for cell in line.strip("|").split(" |")]
            assert name not in rows, f"in the table twice: {name}"
            figures = [figure(cell, dialect) for cell in cells]
            rows[name] = None if None in figures else Cost(*[each for each in figures if each is not None])
    return rows


def test_every_row_of_the_documented_table_is_measured() -> None:
    for dialect in NAMES:
        assert set(table(dialect)) == set(MEASURED)


async def populate() -> None:
    """Writes three users, five events of the first and three of the second, unnoticed by the cache."""
    for model in MODELS:
        await QuerySet(model).delete()
    await QuerySet(User).bulk_create([User(id=ADA + n, username=name) for n, name in enumerate(("ada", "kim", "lee"))])
    await QuerySet(Event).bulk_create(
        [Event(id=1001 + n, slug=f"e{n}", day=n, organizer_id=ADA + (n >= LIMIT)) for n in range(LIMIT + 3)]
    )
    await QuerySet(Guest).bulk_create([Guest(id=1000 + n, table_number=n % 2) for n in range(4)])
    await QuerySet(Reply).bulk_create([Reply(id=1000 + n, thread=n % 2) for n in range(4)])
    await QuerySet(Badge).bulk_create([Badge(id=1000 + n) for n in range(2)])
    await QuerySet(Wearer).bulk_create([Wearer(id=1000 + n) for n in range(2)])
    await QuerySet(Scrap).bulk_create([Scrap(id=1000 + n, number=n) for n in range(1, 4)])
    await QuerySet(Part).bulk_create([Part(id=1000 + n, scrap_id=1000 + n) for n in range(1, 4)])


async def added_cost(write: Write, backend: CountingBackend) -> set[Cost]:
    """Returns the costs of a write with a cache beyond those without one."""
    without = Meter(backend)
    await populate()
    await write(without)
    async with ModelCache(backend, bulk_limit=LIMIT) as cache:
        with_cache = Meter(backend, cache)
        await populate()
        await write(with_cache)
    before = without.counts or [Cost(0, 0, 0)] * len(with_cache.counts)
    return {
        Cost(*[now - then for now, then in zip(each, uncached, strict=True)])
        for each, uncached in zip(with_cache.counts, before, strict=True)
    }


@pytest.mark.slow(because="makes every kind of write")
@pytest.mark.usefixtures("database")
async def test_each_write_costs_as_much_as_documented(backend: CountingBackend, db_url: DatabaseUrl) -> None:
    wrong: list[str] = []
    for name, cost in table(db_url.dialect).items():
        if cost is None:
            continue
        measured = await added_cost(MEASURED[name], backend)
        if measured != {cost}:
            wrong.append(f"{name}: {cost} in the table, measured {measured}")
    assert not wrong, "\n".join(wrong)
