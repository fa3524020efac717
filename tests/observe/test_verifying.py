"""``ModelCache(verify=...)``: stale entries are found in the background, and nothing else is."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import CacheConfig, CacheConfigurationError, ModelCache, no_invalidation
from aiomodelcache.engine.sampling import Sampler
from aiomodelcache.observe import Verification
from aiomodelcache.observe.stats import VerifiedCounters
from aiomodelcache.testing import CountingBackend
from aiomodelcache.verifier import MAX_COMPARISONS
from tests.observe.recorder import Recorder
from tests.observe.test_observers import profile
from tests.support.gates import PATIENCE, gated_sql
from tests.support.models.models import Event, State, User

Hit = Callable[[], Awaitable[object]]


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend: CountingBackend, recorder: Recorder) -> AsyncIterator[ModelCache]:
    """An open cache that compares every entry that is read."""
    async with ModelCache(backend, observers=[recorder], verify=1.0) as opened:
        yield opened


async def settled(cache: ModelCache) -> VerifiedCounters:
    """Waits for the comparisons in flight. Returns the counters."""
    async with asyncio.timeout(PATIENCE):
        while cache.open_cache.busy:
            await asyncio.sleep(0.001)
    return cache.stats.verified


async def hit_until(cache: ModelCache, hit: Hit, found: Callable[[VerifiedCounters], bool]) -> VerifiedCounters:
    """Looks up until the counters are as expected."""
    async with asyncio.timeout(PATIENCE):
        while not found(await settled(cache)):
            await hit()
    return cache.stats.verified


async def test_entries_that_agree_are_compared_and_kept(cache: ModelCache, event: Event, recorder: Recorder) -> None:
    for _ in range(5):
        await Event.cache.get(slug="pycon")
        await Event.cache.filter(organizer=event.organizer_id)  # type: ignore[attr-defined]
        await Event.cache.get_or_none(slug="none")
        await event.organizer
        await settled(cache)
    verified = cache.stats.verified
    assert verified.compared >= 4
    assert (verified.stale, verified.changed, verified.failed) == (0, 0, 0)
    notes = recorder.noted(Verification)
    assert {note.outcome for note in notes} == {"same"}
    assert {note.cache for note in notes} >= {"Event", "Event(slug)", "Event(organizer)"}


@pytest.mark.parametrize(
    ("change", "cached", "differs"),
    [
        ({"title": "behind"}, {"Event"}, ("title",)),
        ({"slug": "moved"}, {"Event"}, ("slug",)),
        (None, {"Event", "Event(slug)"}, ("the rows exist no longer",)),
    ],
)
async def test_a_stale_row_is_counted_logged_told_and_invalidated(
    cache: ModelCache,
    event: Event,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any] | None,
    cached: set[str],
    differs: tuple[str, ...],
) -> None:
    def hit() -> Awaitable[object]:
        by_id = Event.cache.get_or_none(id=event.id)
        return Event.cache.get_or_none(slug="pycon") if "Event(slug)" in cached else by_id

    await Event.cache.get(slug="pycon")
    for _ in range(2):
        await hit()
    assert (await settled(cache)).stale == 0
    recorder.clear()
    with no_invalidation():
        rows = Event.filter(id=event.id)
        await (rows.delete() if change is None else rows.update(**change))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "aiomodelcache"):
        verified = await hit_until(cache, hit, lambda found: found.stale > 0)
    assert verified.failed == 0
    stale = [note for note in recorder.noted(Verification) if note.outcome == "stale"]
    assert {note.cache for note in stale} <= cached
    assert {note.differs for note in stale} == {differs}
    assert f"an entry of {stale[0].cache} differs from the database ({', '.join(differs)})" in caplog.text
    assert "pycon" not in caplog.text + repr(stale)
    now = await Event.cache.get_or_none(slug="pycon")
    assert now is None or now.title == "behind"
    await settled(cache)
    before = verified.stale
    await hit()
    assert (await settled(cache)).stale == before


async def test_a_stale_absence_and_a_stale_list_are_found(cache: ModelCache, event: Event) -> None:
    organizer: int = event.organizer_id  # type: ignore[attr-defined]
    for _ in range(2):
        assert await Event.cache.get_or_none(id=99) is None
        assert len(await Event.cache.filter(organizer=organizer)) == 1
        await settled(cache)
    with no_invalidation():
        await Event.create(id=99, slug="behind", title="behind", organizer_id=organizer, state=State.DRAFT)
    await hit_until(cache, lambda: Event.cache.get_or_none(id=99), lambda found: found.stale == 1)
    assert await Event.cache.get_or_none(id=99) is not None
    await hit_until(cache, lambda: Event.cache.filter(organizer=organizer), lambda found: found.stale == 2)
    assert len(await Event.cache.filter(organizer=organizer)) == 2


async def test_random_writes_and_reads_raise_no_false_alarm(cache: ModelCache, event: Event) -> None:
    organizer: int = event.organizer_id  # type: ignore[attr-defined]
    slugs = [f"s{number}" for number in range(4)]
    for number, slug in enumerate(slugs):
        await Event.create(slug=slug, title=slug, organizer_id=organizer, position=number)
    chosen, running = random.Random(7), True

    async def write(seed: int) -> None:
        own = random.Random(seed)
        for step in range(40):
            row = await Event.filter(title=own.choice(slugs)).first()
            assert row is not None
            async with in_transaction() if own.random() < 0.3 else nullcontext():
                await Event.filter(id=row.id).update(position=own.randrange(9), slug=f"{row.title}-{seed}-{step}")
                await Event.filter(id=row.id).update(slug=row.title + own.choice(["", "x"]))

    async def read() -> None:
        while running:
            slug = chosen.choice(slugs) + chosen.choice(["", "x"])
            await asyncio.gather(
                Event.cache.get_or_none(slug=slug).resolve(), Event.cache.filter(organizer=organizer).resolve()
            )
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await write(1)
    running = False
    await asyncio.gather(*readers)
    verified = await settled(cache)
    assert (verified.stale, verified.failed) == (0, 0)
    assert verified.compared > 50


async def test_a_write_between_both_reads_is_no_false_alarm(
    cache: ModelCache, database: BaseDBAsyncClient, event: Event
) -> None:
    await Event.cache.get(id=event.id)
    await settled(cache)
    with gated_sql(database) as gates:
        gate = gates.hold("SELECT")
        await Event.cache.get(id=event.id)
        await gate.reached()
        await Event.filter(id=event.id).update(title="new")
        gate.open()
        verified = await settled(cache)
    assert (verified.compared, verified.changed, verified.stale) == (1, 1, 0)


async def test_a_database_that_fails_is_counted_and_harms_no_lookup(
    cache: ModelCache, database: BaseDBAsyncClient, event: Event, recorder: Recorder
) -> None:
    await Event.cache.get(id=event.id)
    await settled(cache)
    with gated_sql(database) as gates:
        gate = gates.hold("SELECT")
        await Event.cache.get(id=event.id)
        await gate.reached()
        await database.execute_script("ALTER TABLE event RENAME TO gone")
        gate.open()
        verified = await settled(cache)
        await database.execute_script("ALTER TABLE gone RENAME TO event")
    assert (verified.failed, verified.stale, verified.compared) == (1, 0, 0)
    assert [note.outcome for note in recorder.noted(Verification)] == ["failed"]
    assert (await Event.cache.get(id=event.id)).id == event.id


async def test_close_cancels_comparisons(
    database: BaseDBAsyncClient, backend: CountingBackend, recorder: Recorder
) -> None:
    cache = await ModelCache(backend, verify=1.0, lease_ttl=60).open()
    kim = await User.create(username="kim")
    await User.cache.get(id=kim.id)
    await settled(cache)
    with gated_sql(database) as gates:
        gate = gates.hold("SELECT")
        await User.cache.get(id=kim.id)
        await gate.reached()
        stats = cache.stats
        async with asyncio.timeout(PATIENCE / 2):
            await cache.close()
    assert (stats.verified.compared, stats.verified.failed) == (0, 0)


async def test_comparisons_at_once_are_bounded(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    users = [await User.create(username=f"u{number}") for number in range(2 * MAX_COMPARISONS)]
    pks = [user.id for user in users]
    await User.cache.get_many(pks)
    await settled(cache)
    with gated_sql(database) as gates:
        held = [gates.hold("SELECT") for _ in range(MAX_COMPARISONS)]
        await User.cache.get_many(pks)
        for gate in held:
            await gate.reached()
        for gate in held:
            gate.open()
        verified = await settled(cache)
    assert (verified.compared, verified.skipped) == (MAX_COMPARISONS, MAX_COMPARISONS)


async def test_comparisons_are_not_the_callers(cache: ModelCache, event: Event, backend: CountingBackend) -> None:
    await Event.cache.get(id=event.id)
    await settled(cache)
    before = cache.stats.round_trips, cache.stats.statements, cache.stats.by_cache["Event"].hits
    async with in_transaction():
        await Event.cache.get(id=event.id)
    assert (await settled(cache)).compared == 0  # the transaction reads no entry
    await Event.cache.get(id=event.id)
    assert (await settled(cache)).compared == 1
    rows = cache.stats.by_cache["Event"]
    assert (cache.stats.round_trips, cache.stats.statements, rows.hits) == (before[0] + 1, before[1] + 1, before[2] + 1)


async def test_only_the_invalidation_of_a_stale_entry_is_counted(
    cache: ModelCache, event: Event, database: BaseDBAsyncClient
) -> None:
    await Event.cache.get(id=event.id)
    await settled(cache)
    with no_invalidation():
        await Event.filter(id=event.id).update(title="behind")
    before = cache.stats.round_trips, cache.stats.statements
    await Event.cache.get(id=event.id)
    assert (await settled(cache)).stale == 1
    assert (cache.stats.round_trips, cache.stats.statements) == (before[0] + 2, before[1])  # the lookup, and a clear


@pytest.mark.only_on("sqlite", because="the setting is above any database")
async def test_without_the_setting_a_hit_makes_the_same_calls(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    async def calls(**settings: Any) -> dict[tuple[str, str], int]:
        async with ModelCache(backend, **settings):
            return await profile(lambda: User.cache.get(id=kim.id))

    async with ModelCache(backend):
        kim = await User.create(username="kim")
        await User.cache.get(id=kim.id)
    off, on = await calls(), await calls(verify=1e-9)
    added = {place: number - off.get(place, 0) for place, number in on.items() if number != off.get(place, 0)}
    assert added == {("engine/sampling.py", "_slices"): 20, ("engine/sampling.py", "add"): 20}


class TestSampling:
    @pytest.mark.parametrize("fraction", [0.01, 0.3])
    def test_the_fraction_is_chosen(self, fraction: float) -> None:
        chosen: list[bytes] = []
        sampler = Sampler(fraction, chosen.append)
        keys = [b"%d" % number for number in range(7)]
        rounds = 20_000
        for _ in range(rounds):
            sampler.add(keys, [b"V"] * 5 + [b"W", None])
        expected = rounds * 5 * fraction
        assert abs(len(chosen) - expected) < 6 * (expected * (1 - fraction)) ** 0.5
        assert set(chosen) == set(keys[:5])

    def test_every_entry_is_chosen_with_1(self) -> None:
        chosen: list[bytes] = []
        Sampler(1.0, chosen.append).add([b"a", b"b"], [b"V", b"N"])
        assert chosen == [b"a", b"b"]


@pytest.mark.parametrize("wrong", [-0.1, 1.5, "0.1", True, float("nan")])
def test_a_wrong_fraction_is_refused(wrong: Any) -> None:
    with pytest.raises(CacheConfigurationError, match=r"CacheConfig.verify is .*: it must be a fraction, from 0 to 1"):
        CacheConfig(verify=wrong)
