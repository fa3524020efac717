"""Entries with a valid header and checksum whose content is hostile: a lookup answers as the database does."""

import asyncio
import copy
import math
import os
import random
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from operator import eq
from typing import Any

import msgspec
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned, OperationalError

from aiomodelcache import MemoryBackend, ModelCache, local_cache
from aiomodelcache.encoding.layout import ABSENT, GUARD, STALE, VALUE, new_token, pack_entry, unpack_entry
from aiomodelcache.encoding.values import MAX_NESTING
from aiomodelcache.engine.loader import ComputedValue, LoadedRow
from aiomodelcache.entries.base import NoValue, now_ms
from aiomodelcache.entries.many_to_many import OWNER
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.requests import Answer, ComputeValue, Load, PlanRequest, Read, Spawn
from aiomodelcache.plans.steps import answer_without_store
from aiomodelcache.query.many_to_many import ManyToManyQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.effort import SHARE, share
from tests.support.models.field_models import Colour, Point
from tests.support.models.poisoned_models import (
    Cheapest,
    Greeting,
    Nested,
    NestedCodec,
    Place,
    Tariff,
    TariffOfTicket,
    Ticket,
    TicketCount,
    TicketWithAll,
)

pytestmark = [
    pytest.mark.models("tests.support.models.poisoned_models"),
    pytest.mark.only_on("sqlite", because="the poison is in the bytes of a store"),
]

Plant = Callable[[bytes, bytes], Awaitable[None]]


def nested(depth: int, kind: int = 0x91) -> bytes:
    """A document of lists in lists, or of maps in maps (0x81), this deep."""
    return (b"\x91" if kind == 0x91 else b"\x81\xa1k") * depth + b"\xc0"


def extension(code: int, data: bytes) -> bytes:
    return b"\xc9" + struct.pack(">Ib", len(data), code) + data


def listing(*items: bytes) -> bytes:
    return bytes([0x90 | len(items)]) + b"".join(items)


def text(value: str) -> bytes:
    return msgspec.msgpack.encode(value)


REFERENCE = 12
SIGNALLING = text("sNaN")
ITEMS = {
    "nothing": b"\xc0",
    "a list": b"\x91\x01",
    "a map": b"\x81\x01\x02",
    "a huge number": b"\xcf" + b"\xff" * 8,
    "a negative number": b"\xd3\x80" + bytes(7),
    "not a number": b"\xcb\x7f\xf8" + bytes(6),
    "signalling": SIGNALLING,
    "a decimal that signals": extension(2, b"sNaN"),
    "an infinite decimal": text("Infinity"),
    "an enormous exponent": text("1E+999999999"),
    "an unending integer": extension(1, b"9" * 5000),
    "text with NUL": text("a\0b"),
    "half a point": text("7"),
    "a point that is too far away": text("5000;1"),
    "an unknown extension": extension(99, b"?"),
    "a set of lists": extension(9, b"\x91\x91\x01"),
    "a reference to nothing": extension(REFERENCE, b"\x92\xa1x\xc4\x00"),
    "a reference that is a list": extension(REFERENCE, b"\x92\x91\x01\xc4\x00"),
    "a reference without a key": extension(REFERENCE, b"\x92\xaaapp.Tariff\xc4\x01\x90"),
    "a reference with two keys": extension(REFERENCE, b"\x92\xaaapp.Tariff\xc4\x05\x92\xa11\xa12"),
    "a reference with a signalling key": extension(REFERENCE, b"\x92\xaaapp.Tariff\xc4\x06\x91\xa4sNaN"),
    "a reference with a huge key": extension(REFERENCE, b"\x92\xaaapp.Ticket\xc4\x0a\x91\xcf" + b"\xff" * 8),
    "a reference whose key is no key": extension(REFERENCE, b"\x92\xaaapp.Tariff\x07"),
    "many lists": nested(300),
    "too many lists": nested(5_000),
    "too many maps": nested(5_000, 0x81),
}


class Subject:
    """A lookup, and the answer that the database gives."""

    def __init__(self, name: str, query: Callable[[], Any], expected: Any) -> None:
        self.name = name
        self.query = query
        self.expected = expected
        self.is_query = name not in ("relations", "links", "scope")
        self.believes = name in ("count", "result", "value", "path", "relations")
        """True if another value of the right type changes the answer. No reader can tell it from a true one."""


async def fill_tables() -> None:
    places = [await Place.create(point=Point(n, -n), name=f"place {n}", kind=1) for n in (1, 2)]
    tariff = await Tariff.create(price=Decimal("12.50"), name="full", kind=1, document={"a": [1, {"b": None}]})
    await tariff.places.add(*places)
    await Ticket.create(id=1, code="one", tariff=tariff, place=places[0])


async def subjects() -> list[Subject]:
    tariff, place, ticket = await Tariff.get(), await Place.get(name="place 1"), await Ticket.get()
    places = await Place.all().order_by("name")

    def sorted_places(found: Iterable[Any]) -> list[Any]:
        return sorted(found, key=lambda place: place.name)

    async def relations() -> Any:
        found = await TicketWithAll(1)
        return found, found.tariff, found.place

    async def linked() -> Any:
        return sorted_places(await tariff.places)

    async def in_scope() -> Any:
        async with local_cache():
            await Cheapest(1)
            return await Tariff.cache.get(name="full"), await Tariff.cache.filter(kind=1)

    return [
        Subject("row by decimal", lambda: Tariff.cache.get(price=Decimal("12.50")), tariff),
        Subject("row by custom field", lambda: Place.cache.get(point=Point(1, -1)), place),
        Subject("row by number", lambda: Ticket.cache.get(id=1), ticket),
        Subject("row by name", lambda: Tariff.cache.get(name="full"), tariff),
        Subject("place by name", lambda: Place.cache.get(name="place 1"), place),
        Subject("list by number", lambda: Tariff.cache.filter(kind=1), [tariff]),
        Subject("list by decimal", lambda: Tariff.cache.filter(rate=Decimal(1), kind=1), [tariff]),
        Subject("list by enum", lambda: Place.cache.filter(colour=Colour.RED), places),
        Subject("list by relation", lambda: Ticket.cache.filter(tariff=tariff), [ticket]),
        Subject("many", lambda: Tariff.cache.get_many(["full"], key="name"), [tariff]),
        Subject("many by key", lambda: Place.cache.get_many([Point(1, -1), Point(2, -2)]), places),
        Subject("count", lambda: TicketCount(tariff), 1),
        Subject(
            "result",
            lambda: Cheapest(1),
            {"kind": 1, "tariffs": [tariff], "places": tuple(places), "tickets": [ticket]},
        ),
        Subject("value", lambda: Greeting("kim"), ["hello", "kim"]),
        Subject("path", lambda: TariffOfTicket("one"), tariff),
        Subject("relations", relations, (ticket, tariff, place)),
        Subject("links", linked, places),
        Subject("scope", in_scope, (tariff, [tariff])),
    ]


class RecordingBackend(CountingBackend):
    """A store that remembers which entries were read, and where a test may plant others."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.read_entries: dict[bytes, bytes] = {}

    async def read(self, keys: Any) -> Any:
        values = await super().read(keys)
        self.read_entries.update({key: value for key, value in zip(keys, values, strict=True) if value is not None})
        return values

    async def plant(self, key: bytes, value: bytes) -> None:
        store: Any = self.backend
        if isinstance(store, MemoryBackend):
            store._put(key, value, math.inf, store._now())
        else:
            await store._send([(b"SET", key, value)])


def poisons(entry: bytes) -> Iterator[tuple[str, bytes]]:
    """Entries with the header of ``entry`` and content that a lookup cannot use, whatever kind it is of."""
    guard, payload = entry[GUARD], unpack_entry(entry)
    for name, item in ITEMS.items():
        for shape, content in {"": item, " in a list": listing(item), " in two": listing(item, item)}.items():
            yield f"{name}{shape}", pack_entry(VALUE, new_token(), guard, now_ms(), content)
    for at in range(len(payload)):  # one item of a row
        for name in ("a list", "signalling", "a huge number", "too many lists", "a point that is too far away"):
            yield f"{name} at {at}", pack_entry(VALUE, new_token(), guard, now_ms(), payload[:at] + ITEMS[name])
    yield "a stale copy", pack_entry(STALE, new_token(), guard, 0, b"V" + listing(SIGNALLING))


@pytest.fixture
async def recording(backend: CountingBackend) -> RecordingBackend:
    return RecordingBackend(backend.backend)


@pytest.mark.exhaustive(because="thousands of entries, each planted and looked up twice")
async def test_no_content_of_an_entry_raises_and_every_entry_is_repaired(
    database: BaseDBAsyncClient, recording: RecordingBackend
) -> None:
    await fill_tables()
    tried = 0
    async with ModelCache(recording) as cache:
        for subject in await subjects():
            for _ in range(2):
                assert await subject.query() == subject.expected, subject.name
            recording.read_entries.clear()
            assert await subject.query() == subject.expected
            entries = {key: value for key, value in recording.read_entries.items() if value[:1] == VALUE}
            assert entries, subject.name
            for key, entry in entries.items():
                for name, poison in share(poisons(entry)):
                    await recording.plant(key, poison)
                    tried += 1
                    with suppress(*[DoesNotExist] if subject.believes else []):
                        found = await subject.query()
                        assert subject.believes or found == subject.expected, (subject.name, key, name)
                    await recording.backend.delete([key])
                    assert await subject.query() == subject.expected, (subject.name, key, name)
        assert cache.stats.backend_errors == 0
    assert tried > 2_000 // SHARE


@pytest.mark.parametrize("items", [["a list"], ["signalling"], ["a huge number"], ["half a point"]], ids=str)
async def test_a_process_remembers_nothing_of_a_hostile_index(
    database: BaseDBAsyncClient, recording: RecordingBackend, items: list[str]
) -> None:
    await fill_tables()
    async with ModelCache(recording) as cache:
        predict = cache.open_cache.predictions.predict
        for subject in await subjects():
            for _ in range(2):
                recording.read_entries.clear()
                await subject.query()
            entries = {key: value for key, value in recording.read_entries.items() if value[:1] == VALUE}
            predicted = {key: predict(key).keys for key in entries}
            poison = listing(*[ITEMS[item] for item in items])
            for key, entry in entries.items():
                await recording.plant(key, pack_entry(VALUE, new_token(), entry[GUARD], now_ms(), poison))
            for _ in range(3):
                with suppress(*[DoesNotExist] if subject.believes else []):
                    await subject.query()
            await recording.backend.delete(list(entries))
            assert await subject.query() == subject.expected, subject.name
            assert {key: predict(key).keys for key in entries} == predicted


@pytest.mark.parametrize("depth", [MAX_NESTING - 1, MAX_NESTING, 500, 900])
async def test_json_of_any_depth_is_read_by_many_at_once(
    cache: ModelCache, backend: CountingBackend, depth: int
) -> None:
    document: Any = None
    for level in range(depth):
        document = {"next": document} if level % 2 else [document]
    await Tariff.create(price=Decimal(1), name="deep", document=document)
    stored = await Tariff.get(name="deep")
    for _ in range(2):
        found = await asyncio.gather(*[Tariff.cache.get(name="deep") for _ in range(3)])
        assert [deepest(tariff.document) for tariff in found] == [depth] * 3
        assert len({id(innermost(tariff.document)) for tariff in found}) == 3
    async with assert_ops(backend, sql=0 if depth <= MAX_NESTING else 1):
        assert deepest((await Tariff.cache.get(name="deep")).document) == deepest(stored.document)
    async with local_cache():
        assert deepest((await Tariff.cache.get(name="deep")).document) == depth


def outcome(found: Any) -> Any:
    """Returns what came of a lookup, as far as documents that are too deep to compare allow."""
    return type(found).__name__ if isinstance(found, Exception) else deepest(found.document)


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("depth", [500, 990, 2_000, 10_000])
async def test_json_of_any_depth_in_the_database_is_answered_as_by_tortoise(
    cache: ModelCache, database: BaseDBAsyncClient, depth: int, together: int
) -> None:
    await Tariff.create(price=Decimal(1), name="deep", document=[])
    await Tariff.create(price=Decimal(2), name="flat", document=[None])
    await database.execute_query(
        "UPDATE tariff SET document = ? WHERE name = 'deep'", ["[" * depth + "null" + "]" * depth]
    )

    async def ask(query: Any) -> Any:
        return outcome((await asyncio.gather(query, return_exceptions=True))[0])

    expected = await ask(Tariff.get(name="deep"))
    assert expected in (depth, "FieldError")  # Tortoise cannot parse it
    for _ in range(3):
        lookups = [ask(Tariff.cache.get(name="deep")) for _ in range(together)]
        assert await asyncio.gather(*lookups, ask(Tariff.cache.get(name="flat"))) == [expected] * together + [1]
    async with local_cache():
        assert [await ask(Tariff.cache.get(name="deep")) for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("depth", [500, 990, 2_000, 10_000])
@pytest.mark.parametrize("kind", [0x91, 0x81], ids=["lists", "maps"])
async def test_a_hostile_document_of_any_depth_raises_nothing(
    database: BaseDBAsyncClient, recording: RecordingBackend, kind: int, depth: int, together: int
) -> None:
    await fill_tables()
    async with ModelCache(recording):
        for _ in range(3):
            recording.read_entries.clear()
            tariff = await Tariff.cache.get(price=Decimal("12.50"))
        [(key, entry)] = [(key, value) for key, value in recording.read_entries.items() if value[:1] == VALUE]
        parts: list[bytes] = list(map(bytes, msgspec.msgpack.decode(unpack_entry(entry), type=list[msgspec.Raw])))
        at = parts.index(msgspec.msgpack.encode({"a": [1, {"b": None}]}))
        payload = listing(*parts[:at], nested(depth, kind), *parts[at + 1 :])
        await recording.plant(key, pack_entry(VALUE, new_token(), entry[GUARD], now_ms(), payload))
        found = await asyncio.gather(*[Tariff.cache.get(price=Decimal("12.50")) for _ in range(together)])
        assert found == [tariff] * together
        async with local_cache():
            for _ in range(2):
                assert await Tariff.cache.get(price=Decimal("12.50")) == tariff


@pytest.mark.parametrize(("depth", "cached"), [(MAX_NESTING - 1, True), (MAX_NESTING, False), (5_000, False)])
async def test_a_value_of_any_depth_is_returned(cache: ModelCache, depth: int, cached: bool) -> None:
    for _ in range(3):
        assert NestedCodec().encode(await Nested(depth)) == b"%d" % depth
    async with local_cache():
        assert NestedCodec().encode(await Nested(depth)) == b"%d" % depth
    assert cache.stats.of("Nested").hits == (3 if cached else 0)


def deepest(document: Any) -> int:
    """Returns the number of levels of nested lists and dicts."""
    depth = 0
    while document is not None:
        document = document["next"] if isinstance(document, dict) else document[0]
        depth += 1
    return depth


def innermost(document: Any) -> Any:
    while (inner := document["next"] if isinstance(document, dict) else document[0]) is not None:
        document = inner
    return document


FUZZED = int(os.environ.get("AIOMODELCACHE_FUZZ", 100_000 // SHARE))
"""Number of hostile entries that the fuzz test judges. 100,000 take half a minute."""


class Database:
    """The tables as a plan sees them: answers to its requests, without a server and without a store."""

    def __init__(self, rows: Iterable[Any], computed: dict[bytes, Any]) -> None:
        self._rows = list(rows)
        self._computed = computed

    def answer(self, request: PlanRequest) -> Any:
        if isinstance(request, ComputeValue):
            return ComputedValue(self._computed[request.key])
        if isinstance(request, Load):
            return {values: self._select(request.entry_set, values) for values in request.wanted}
        if isinstance(request, Spawn):
            request.plan.close()
        return answer_without_store(request)

    def _select(self, entry_set: Any, values: tuple[Any, ...]) -> Answer:
        schema, names = entry_set.schema, entry_set.attributes
        rows = [row for row in self._rows if type(row) is schema.model]
        if names != (OWNER,):
            if any(type(value) is int and value.bit_length() > 63 for value in values):
                raise OperationalError("the number is out of range")
            try:
                rows = [row for row in rows if all(map(eq, [getattr(row, name) for name in names], values))]
            except Exception as error:
                raise OperationalError("the database refuses the value") from error
        return Answer([LoadedRow(schema, copy.copy(row)) for row in rows], True)


def ask(cache: OpenCache, query: Any, entries: Mapping[bytes, bytes], database: Database) -> Any:
    """Answers a lookup from these entries as the reader would, and from the database if they do not suffice."""
    lookup = query.fast_lookup(cache)
    if lookup is not None:
        keys: dict[bytes, None] = {}
        lookup.collect_keys(cache, keys)
        found = lookup.try_hit(cache, {key: entries.get(key) for key in keys})
        if found is not NoValue.MISS:
            return found
    plan = query.plan(cache, None)
    step = partial(plan.send, None)
    while True:
        try:
            request = step()
        except StopIteration as stop:
            return stop.value
        try:
            answer = [entries.get(key) for key in request.keys] if type(request) is Read else database.answer(request)
        except OperationalError as error:
            step = partial(plan.throw, error)
        else:
            step = partial(plan.send, answer)


KINDS = (
    "a few bytes changed, added or removed",
    "an odd value put in anywhere",
    "the beginning of one, the end of another",
    "a list of odd values",
    "a value made at random",
    "one column or item replaced",
)
"""The kinds of content that ``hostile`` makes."""


def hostile(chance: random.Random, payloads: Sequence[bytes], kind: int) -> bytes:
    """Returns the content of an entry: parts of others, changed bytes, and values that are hard on a reader."""
    payload = bytearray(chance.choice(payloads))
    if kind == 0:  # a few bytes changed, removed or added
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(payload) + 1)
            payload[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
    elif kind == 1:  # a value put in anywhere
        at = chance.randrange(len(payload) + 1)
        payload[at : at + chance.randrange(8)] = chance.choice(list(ITEMS.values()))
    elif kind == 2:  # the beginning of one, the end of another
        payload = payload[: chance.randrange(len(payload) + 1)] + chance.choice(payloads)[chance.randrange(20) :]
    elif kind == 3:
        payload = bytearray(listing(*chance.choices(list(ITEMS.values()), k=chance.randrange(12))))
    elif kind == 4:
        payload = bytearray(made(chance, 6))
    else:  # one column of a row, or one row of a list
        with suppress(msgspec.DecodeError):
            parts: list[bytes] = list(map(bytes, msgspec.msgpack.decode(payload, type=list[msgspec.Raw])))
            parts[chance.randrange(len(parts))] = chance.choice(list(ITEMS.values()))
            payload = bytearray(listing(*parts))
    return bytes(payload)


def made(chance: random.Random, levels: int) -> bytes:
    """Returns a value of msgpack that was made at random."""
    kind = chance.randrange(8 if levels else 5)
    if kind < 2:
        return chance.choice(list(ITEMS.values()))
    if kind == 2:
        return bytes([chance.randrange(128)])
    if kind == 3:
        return text(chance.choice(["12.50", "1;-1", "full", "one", "red", "", "1e5", "0"]))
    if kind == 4:
        return extension(chance.randrange(1, 13), chance.randbytes(chance.randrange(5)))
    parts = [made(chance, levels - 1) for _ in range(chance.randrange(6))]
    if kind == 5:
        return listing(*parts)
    if kind == 6:
        return bytes([0x80 | len(parts) // 2]) + b"".join(parts[: len(parts) // 2 * 2])
    return extension(chance.randrange(8, 13), listing(*parts))


@pytest.mark.exhaustive(because="it is about the number of entries")
@pytest.mark.only_on("memory", because="no lookup is sent to the store")
async def test_no_made_up_entry_with_a_valid_header_raises_or_is_remembered(
    database: BaseDBAsyncClient, recording: RecordingBackend
) -> None:
    await fill_tables()
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    async with ModelCache(recording) as cache:
        opened = cache.open_cache
        for subject in await subjects():
            for _ in range(2):
                await subject.query()
        tariff = await Tariff.get()
        through = opened.list_of(Tariff, "places")
        assert through is not None
        queries: list[Any] = [
            *[subject.query() for subject in await subjects() if subject.is_query],
            TicketWithAll(1),
            ManyToManyQuery(through, tariff.pk, opened),
        ]
        rows = [*await Tariff.all(), *await Place.all().order_by("name"), *await Ticket.all()]
        computed = {
            opened.classes[Cheapest].key((1,)): await Cheapest(1),
            opened.classes[TicketCount].key((tariff.pk,)): 1,
            Greeting("kim").locate(opened)[1]: ["hello", "kim"],
        }
        tables = Database(rows, computed)
        sound = recording.read_entries
        used: list[tuple[Any, Any, list[bytes]]] = []
        for query in queries:
            seen = Seen(sound)
            expected = ask(opened, query, seen, tables)
            used.append((query, expected, [key for key in seen.keys_read if sound.get(key, b"")[:1] == VALUE]))
        payloads = [unpack_entry(entry) for entry in sound.values() if entry[:1] == VALUE]
        tried: Counter[str] = Counter()
        for number in range(FUZZED):
            query, expected, keys = chance.choice(used)
            entries = dict(sound)
            for key in chance.sample(keys, min(len(keys), chance.choice([1, 1, 2, 9]))):
                state = chance.choice([VALUE] * 6 + [ABSENT, STALE])
                kind = chance.randrange(len(KINDS))
                tried[KINDS[kind]] += 1
                entries[key] = pack_entry(
                    state, new_token(), sound[key][GUARD], now_ms(), hostile(chance, payloads, kind)
                )
            try:
                with suppress(
                    DoesNotExist, MultipleObjectsReturned
                ):  # a false answer, which is not told from a true one
                    ask(opened, query, entries, tables)
                assert ask(opened, query, sound, tables) == expected
            except Exception as error:
                raise AssertionError(f"{query!r} failed with seed {seed} at {number}") from error
            if number % 1_000 == 0:
                await asyncio.sleep(0)
    print(f"{FUZZED:,} lookups, {tried.total():,} entries:", *[f"{count:,} {kind}" for kind, count in tried.items()])


class Seen(dict[bytes, bytes]):
    """Entries that know which of them were read."""

    def __init__(self, entries: Mapping[bytes, bytes]) -> None:
        super().__init__(entries)
        self.keys_read: dict[bytes, None] = {}

    def get(self, key: bytes, default: Any = None) -> Any:
        self.keys_read[key] = None
        return super().get(key, default)
