"""Hits of derived entries, and lookups of a tracked computation, without a plan: they record and check all the same."""

import asyncio
from typing import Any, cast

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached, writes_without_cache
from aiomodelcache.encoding.layout import HEADER
from aiomodelcache.encoding.together import KnownKeys, ReadTogether
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.derived import DerivedEntries, KnownDependencies
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.results import result_hit
from aiomodelcache.plans.tracking import TrackedHits, TrackedLookup
from aiomodelcache.query.dependencies import table_key_of
from aiomodelcache.scopes.tracking import CHANGED
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Happening, Organizer

pytestmark = [
    pytest.mark.models("tests.support.models.derived_models"),
    pytest.mark.only_on("memory", because="what a process remembers of entries depends on no server"),
]


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    with writes_without_cache():
        await Organizer.bulk_create([Organizer(id=1, name="kim")])
        await Happening.bulk_create(
            [Happening(id=number, slug=f"h{number}", level=number, organizer_id=1) for number in range(1, 4)]
        )


async def hit_of(query: Any, cache: OpenCache) -> Any:
    """Returns the answer of the path without a plan."""
    result, key = query.locate(cache)
    known = cache.predictions.predict(key)
    keys = [result.partitions.epochs[0], key, *known.keys]
    read = await cache.guarded.backend.read(keys)
    found = dict(zip(keys, read, strict=True))
    answer = result_hit(result, result.epoch_of(key), key, known, found)
    together = known.collect_keys(result.epoch_of(key), key, {})
    if together:
        assert together == keys
        assert result_hit(result, result.epoch_of(key), key, known, ReadTogether(together, read)) == answer
    return answer


async def test_each_caller_gets_a_value_of_its_own(cache: ModelCache) -> None:
    @cached
    async def page() -> list[dict[str, str]]:
        return [{"slug": row.slug} for row in await Happening.cache.get_many([1, 2])]

    pages = [await page() for _ in range(6)]
    assert cache.stats.decoded.hits >= 2
    for each in pages:
        assert each == [{"slug": "h1"}, {"slug": "h2"}]
        each[0]["slug"] = "changed"
        each.pop()


async def test_a_value_that_cannot_be_copied_is_not_tried_again(cache: ModelCache) -> None:
    @cached
    async def levels() -> set[str]:
        return {row.slug for row in await Happening.cache.get_many([1, 2])}

    for _ in range(6):
        assert await levels() == {"h1", "h2"}
    query, opened = levels.query(), cache.open_cache
    known = opened.predictions.predict(query.locate(opened)[1])
    assert isinstance(known, KnownDependencies)
    assert not known.shared
    assert cache.stats.decoded.kept == 0


async def test_lookups_of_one_tick_share_a_read_with_a_result(cache: ModelCache, backend: CountingBackend) -> None:
    """The keys of the result are known together. The read has all others, too, and those among them once."""

    @cached
    async def slugs() -> list[str]:
        return [row.slug for row in await Happening.cache.get_many([1, 2])]

    for _ in range(3):
        await slugs()
    await Happening.cache.get(id=3)
    for others in ([], [1], [3], [1, 3]):
        async with assert_ops(backend, sql=0, redis=1):
            lookups = [Happening.cache.get(id=pk) for pk in others]
            found = await asyncio.gather(slugs(), slugs(), *lookups)
        assert found[:2] == [["h1", "h2"]] * 2
        assert [row.id for row in found[2:]] == others


async def test_a_function_that_calls_itself_depends_on_its_own_epoch(
    cache: ModelCache, backend: CountingBackend
) -> None:
    """Its keys name the epoch twice, so they are not read as they are."""

    @cached
    async def total(number: int) -> int:
        row = await Happening.cache.get(id=number)
        return row.level + (await total(number - 1) if number > 1 else 0)

    for _ in range(4):
        assert await total(3) == 6
    query, opened = total.query(3), cache.open_cache
    result, key = query.locate(opened)
    known = opened.predictions.predict(key)
    assert result.epoch_of(key) in known.keys
    assert not known.together
    async with assert_ops(backend, sql=0, redis=1):
        assert await total(3) == 6
    await Happening.filter(id=1).update(level=11)
    assert await total(3) == 16


async def test_a_value_that_looks_nested_is_walked_once_and_then_needs_no_plan(cache: ModelCache) -> None:
    """Text beyond ASCII holds bytes with which lists begin, too. More than 100 of them might be a deep value."""

    @cached
    async def names() -> list[str]:
        return [(await Happening.cache.get(id=1)).slug + "Ü" * 150]

    query, opened = names.query(), cache.open_cache
    first = await query
    assert await hit_of(query, opened) is NoValue.MISS
    assert await query == first
    assert await hit_of(query, opened) == first
    await Happening.filter(id=1).update(slug="other")
    assert await query == ["other" + "Ü" * 150]


async def test_dependencies_of_former_results_are_not_read_any_more(cache: ModelCache) -> None:
    @cached
    async def newest() -> list[int]:
        return [row.level for row in await Happening.cache.get_many([row.id for row in await Happening.all()])]

    query, opened = newest.query(), cache.open_cache
    for number in range(4, 14):
        await query
        await Happening.all().delete()
        await Happening.create(id=number, slug=f"h{number}", level=number, organizer_id=1)
        assert await query == [number]
        assert await query == [number]
    _, key = query.locate(opened)
    assert len(opened.predictions.predict(key).keys) == 3, "the row, its epoch and the version of its table"


async def test_an_entry_with_other_dependencies_than_the_known_ones_takes_the_plan(
    cache: ModelCache, backend: CountingBackend
) -> None:
    """Another process has computed it, and has read other rows, or the same ones in another order."""

    @cached
    async def level() -> int:
        return (await Happening.cache.get(id=1)).level

    assert await level() == 1
    query, opened = level.query(), cache.open_cache
    _, key = query.locate(opened)
    for other in ([], list(reversed(opened.predictions.predict(key).keys))):
        opened.predictions.learn_keys(key, KnownDependencies(other))
        assert await hit_of(query, opened) is NoValue.MISS
        async with assert_ops(backend, sql=0):
            assert await level() == 1
        assert await hit_of(query, opened) == 1
    opened.predictions.learn_keys(key, KnownDependencies([*opened.predictions.predict(key).keys, b"more"]))
    assert await hit_of(query, opened) == 1


async def test_a_damaged_entry_with_a_known_header_is_not_used(cache: ModelCache) -> None:
    @cached
    async def level() -> str:
        return (await Happening.cache.get(id=1)).slug

    assert [await level(), await level()] == ["h1", "h1"]
    query, opened = level.query(), cache.open_cache
    result, key = query.locate(opened)
    [entry] = await opened.guarded.backend.read([key])
    assert entry is not None
    known = opened.predictions.predict(key)
    assert isinstance(known, KnownDependencies)
    assert known.header == entry[HEADER]
    keys = [result.partitions.epochs[0], *known.keys]
    found = dict(zip(keys, await opened.guarded.backend.read(keys), strict=True))
    assert result_hit(result, result.epoch_of(key), key, known, found | {key: entry}) == "h1"
    assert result_hit(result, result.epoch_of(key), key, known, found | {key: entry[:-1] + b"x"}) is NoValue.MISS
    assert result_hit(result, result.epoch_of(key), key, known, found | {key: entry[:-1]}) is NoValue.MISS


async def test_a_damaged_entry_of_instances_is_not_taken_for_the_one_that_is_kept(cache: ModelCache) -> None:
    """All bytes are compared, not only the header with its token and checksum."""
    query, opened = Happening.cache.query(Happening.all().order_by("id")), cache.open_cache
    for _ in range(4):
        answer = await query
    assert cache.stats.decoded.hits == 1
    result, key = query.locate(opened)
    known = opened.predictions.predict(key)
    keys = [result.partitions.epochs[0], key, *known.keys]
    found = dict(zip(keys, await opened.guarded.backend.read(keys), strict=True))
    assert [row.slug for row in result_hit(result, result.epoch_of(key), key, known, found)] == [
        row.slug for row in answer
    ]
    entry = found[key]
    assert entry is not None
    for changed in (entry[:-1] + bytes([entry[-1] ^ 1]), entry[:-1], entry + b"?"):
        assert result_hit(result, result.epoch_of(key), key, known, {**found, key: changed}) is NoValue.MISS
    assert cache.stats.decoded.hits == 2


async def test_what_was_read_with_a_kept_value_answers_again_only_as_a_whole(cache: ModelCache) -> None:
    """Each value of the read is compared with the one under the same key, whatever the order of the keys."""

    @cached
    async def page() -> list[dict[str, str]]:
        return [{"slug": row.slug} for row in await Happening.cache.get_many([1, 2])]

    for _ in range(6):
        await page()
    query, opened = page.query(), cache.open_cache
    result, key = query.locate(opened)
    known = opened.predictions.predict(key)
    together = known.together
    assert isinstance(result, DerivedEntries)
    assert together
    values = await opened.guarded.backend.read(together)
    read = ReadTogether(together, values)
    assert result.find_unchanged(read, known) is not None
    for at, value in enumerate(values):
        assert value is not None
        for other in (None, b"", value[:-1] + bytes([value[-1] ^ 1]), b"W" + bytes(29)):
            changed = ReadTogether(together, [*values[:at], other, *values[at + 1 :]])
            assert result.find_unchanged(changed, known) is None
    moved = ReadTogether(KnownKeys([*together[:-2], together[-1], together[-2]]), values)
    assert result.find_unchanged(moved, known) is None
    await Happening.filter(id=2).update(slug="new")
    assert await page() == [{"slug": "h1"}, {"slug": "new"}]


@pytest.mark.parametrize("kind", ["get", "filter", "get_many"])
async def test_a_tracked_hit_depends_on_the_rows_that_answered_although_others_were_predicted(
    cache: ModelCache, kind: str
) -> None:
    """Another lookup has read the row in the same request, and this lookup learnt of it while it waited."""
    queries: dict[str, Any] = {
        "get": Happening.cache.get(slug="h1"),
        "filter": Happening.cache.filter(organizer=1),
        "get_many": Happening.cache.get_many(["h1"], "slug"),
    }
    query, opened = queries[kind], cache.open_cache
    expected = await query
    answering: dict[bytes, None] = {}
    query.fast_lookup(opened).collect_keys(opened, answering)
    found = dict(zip(answering, await opened.guarded.backend.read(list(answering)), strict=True))
    learnt = dict(opened.predictions)
    opened.predictions.clear()
    tracker = opened.derivations.tracker()
    lookup = TrackedLookup(query.fast_lookup(opened), tracker, opened.versions)
    asked: dict[bytes, None] = {}
    lookup.collect_keys(opened, asked)
    assert len(asked) == 2
    opened.predictions.update(learnt)
    assert lookup.try_hit(opened, found) == expected
    assert tracker.dependencies == {key: entry[:17] for key, entry in found.items() if entry is not None}
    assert len(tracker.dependencies) == (5 if kind == "filter" else 3)


async def test_a_lookup_that_is_interrupted_raises_the_interruption(cache: ModelCache) -> None:
    class Interrupted:
        lookup_event = None

        def collect_keys(self, context: Any, wanted: dict[bytes, None], /) -> None:
            pass

        def try_hit(self, context: Any, found: Any, /) -> Any:
            raise KeyboardInterrupt

    opened: Any = cache.open_cache
    tracker, interrupted = opened.derivations.tracker(), cast("Any", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        TrackedLookup(interrupted, tracker, opened.versions).try_hit(opened, {})


@pytest.mark.parametrize("hits", [True, False])
async def test_a_table_version_that_is_learnt_while_a_read_is_in_flight_does_not_stand_for_its_rows(
    cache: ModelCache, hits: bool
) -> None:
    query, opened = Happening.cache.get(id=1), cache.open_cache
    await query
    tracker = opened.derivations.tracker()
    lookup = TrackedLookup(query.fast_lookup(opened), tracker, opened.versions)
    keys: dict[bytes, None] = {}
    lookup.collect_keys(opened, keys)
    found = dict(zip(keys, await opened.guarded.backend.read(list(keys)), strict=True))
    await opened.derivations.depend_on(tracker, [table_key_of(opened, Happening)])
    if hits:
        assert (await query) == lookup.try_hit(opened, found)
        assert found.keys() < tracker.dependencies.keys()
    else:
        before = dict(tracker.dependencies)
        assert lookup.try_hit(opened, dict.fromkeys(keys)) is NoValue.MISS
        assert tracker.dependencies == before
    assert tracker.late == {table_key_of(opened, Happening)}


async def test_lookups_that_end_in_any_order_are_all_recorded(cache: ModelCache) -> None:
    """The first one began before a table version was learnt, and its answer comes last. Two reads answer in turn."""
    queries, opened = [Happening.cache.get(id=number) for number in (1, 2, 3, 1)], cache.open_cache
    for query in queries:
        await query
    tracker = opened.derivations.tracker()
    early, late = queries[:2], queries[2:]
    lookups = [TrackedLookup(query.fast_lookup(opened), tracker, opened.versions) for query in early]
    await opened.derivations.depend_on(tracker, [table_key_of(opened, Organizer)])
    lookups += [TrackedLookup(query.fast_lookup(opened), tracker, opened.versions) for query in late]
    keys: dict[bytes, None] = {}
    for lookup in lookups:
        lookup.collect_keys(opened, keys)
    reads = [dict(zip(keys, await opened.guarded.backend.read(list(keys)), strict=True)) for _ in range(2)]
    for at, read in ((2, 0), (0, 1), (3, 1), (1, 0)):
        assert (await queries[at]) == lookups[at].try_hit(opened, reads[read])
    expected = {key: entry[:17] for key, entry in reads[0].items() if entry is not None}
    assert tracker.dependencies.items() > expected.items()
    assert len(expected) == 4
    assert (tracker.refusal, tracker.unfinished, len(tracker.late)) == (None, 0, 1)


async def test_two_reads_with_other_tokens_of_one_entry_refuse_the_result(cache: ModelCache) -> None:
    query, opened = Happening.cache.get(id=1), cache.open_cache
    await query
    tracker = opened.derivations.tracker()
    lookups = [TrackedLookup(query.fast_lookup(opened), tracker, opened.versions) for _ in range(2)]
    keys: dict[bytes, None] = {}
    lookups[0].collect_keys(opened, keys)
    for lookup in lookups:
        found = dict(zip(keys, await opened.guarded.backend.read(list(keys)), strict=True))
        assert lookup.try_hit(opened, found).slug in ("h1", "other")
        await Happening.filter(id=1).update(slug="other")
        await query
    assert tracker.dependencies
    assert tracker.refusal == CHANGED


async def test_a_table_version_stands_for_rows_of_lookups_that_begin_after_it_was_learnt(cache: ModelCache) -> None:
    opened = cache.open_cache
    tracker = opened.derivations.tracker()
    TrackedLookup(Organizer.cache.get(id=1).fast_lookup(opened), tracker, opened.versions)
    await opened.derivations.depend_on(tracker, [table_key_of(opened, Happening)])
    query = Happening.cache.get(id=1)
    await query
    lookup = TrackedLookup(query.fast_lookup(opened), tracker, opened.versions)
    keys: dict[bytes, None] = {}
    lookup.collect_keys(opened, keys)
    lookup.try_hit(opened, dict(zip(keys, await opened.guarded.backend.read(list(keys)), strict=True)))
    assert keys.keys() < tracker.dependencies.keys()
    assert not tracker.late


async def test_only_tokens_become_dependencies(cache: ModelCache) -> None:
    """Nor does what a key held that another reader was filling, or that a writer had marked."""
    opened = cache.open_cache
    tracker = opened.derivations.tracker()
    hits = TrackedHits(tracker, opened.versions)
    value, lease, intent = b"V" + bytes(60), b"L" + bytes(16), b"W" + bytes(29)
    for entries in ({b"a": value, b"b": lease}, {b"c": None, b"d": intent, b"e": value}, {b"b": value}):
        hits.turn_to(entries)
        hits.keys.update(dict.fromkeys([*entries, b"f"] if b"c" in entries else entries))
    assert tracker.dependencies == dict.fromkeys((b"a", b"b", b"e"), value[:17])
    assert tracker.refusal is None
