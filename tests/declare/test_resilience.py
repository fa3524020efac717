"""Values whose computation fails or takes long: last good values, cached exceptions, timeouts by value."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.transactions import in_transaction

from aiomodelcache import (
    CacheConfigurationError,
    CacheNotOpen,
    InvalidationType,
    MemoryBackend,
    ModelCache,
    StaleInstanceError,
    ValueCache,
    cached,
    local_cache,
)
from aiomodelcache.backends.protocol import Fill
from aiomodelcache.encoding.layout import PREFIX_SIZE
from aiomodelcache.entries.copies import COPY_SUFFIX
from aiomodelcache.open_cache import default_cache, open_caches
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE, GatedBackend, awaited
from tests.support.models.result_models import Club

pytestmark = [
    pytest.mark.models("tests.support.models.result_models"),
    pytest.mark.only_on("sqlite", because="a function that fails depends on no database"),
]

OFF = InvalidationType.OFF
SOON = 0.1
"""Seconds of patience with a computation that ends only when the test lets it."""


class Down(Exception):
    """The error of a source that is away."""


class Answered(Exception):
    """An answer of a framework, with a status."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class Source:
    """A source that functions read: a value, or an error to raise. If ``slow``, reading it waits until ``go``."""

    def __init__(self) -> None:
        self.value: Any = 1
        self.error: Exception | None = None
        self.calls = 0
        self.slow = False
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    async def read(self) -> Any:
        self.calls += 1
        if self.slow:
            self.entered.set()
            async with asyncio.timeout(PATIENCE):
                await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.value


source = Source()


@pytest.fixture(autouse=True)
def new_source() -> None:
    source.__init__()  # type: ignore[misc]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def timed(database: BaseDBAsyncClient, clock: Clock) -> AsyncIterator[ModelCache]:
    """A cache in memory whose entries expire by ``clock``."""
    async with ModelCache(MemoryBackend(clock=clock), ttl_jitter=0, refresh_ahead=0) as cache:
        yield cache


@cached(timeout="10s", stale_if_error="5m", invalidation=OFF)
async def quote(base: str) -> Any:
    return await source.read()


@cached(timeout="1h", stale_if_error="5m", soft_timeout=SOON)
async def clubs() -> Any:
    names = await Club.all().order_by("id").values_list("name", flat=True)
    await source.read()
    return list(names)


@cached(timeout="1h", stale_if_error="5m")
async def first_club() -> Any:
    club = await Club.first()
    await source.read()
    return [club]


def counts(cache: ModelCache, name: str) -> tuple[int, int]:
    [counters] = [each for label, each in cache.stats.by_cache.items() if label.endswith(f".{name}")]
    return counters.stale_if_error, counters.stale_if_slow


class TestStaleIfError:
    @pytest.mark.only_on("memory", because="its entries expire by a clock")
    async def test_the_last_good_value_answers_for_so_long_after_it_expired(
        self, timed: ModelCache, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert await quote("USD") == 1
        source.error = Down("secret")
        for clock.now in (11.0, 100.0, 309.0):
            assert await quote("USD") == 1
        assert (counts(timed, "quote"), source.calls) == ((3, 0), 4)
        assert [record.getMessage() for record in caplog.records] == [
            f"aiomodelcache: {__name__}.quote failed, so its last good value answers: Down"
        ]
        clock.now = 311.0
        with pytest.raises(Down):
            await quote("USD")

    @pytest.mark.only_on("memory", because="its entries expire by a clock")
    async def test_a_last_good_value_is_never_stored_as_fresh(
        self, timed: ModelCache, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        await quote("USD")
        source.error, clock.now = Down(), 11.0
        await quote("USD")
        source.error, source.value = None, 2
        assert await quote("USD") == 2
        source.error, clock.now = Down(), 22.0
        assert await quote("USD") == 2  # the later value has replaced the copy of the former one
        assert len(caplog.records) == 2  # one for each time that it began to fail

    async def test_after_a_write_the_old_result_answers_while_computing_fails(self, cache: ModelCache) -> None:
        await Club.create(name="red")
        assert await clubs() == ["red"]
        await Club.create(name="blue")
        source.error = Down()
        assert [await clubs(), await clubs()] == [["red"], ["red"]]
        source.error = None
        assert await clubs() == ["red", "blue"]

    async def test_without_a_value_the_error_is_raised(self, cache: ModelCache) -> None:
        source.error = Down()
        with pytest.raises(Down):
            await quote("USD")
        source.error = None
        assert await quote("USD") == 1

    async def test_invalidate_leaves_the_last_good_value_and_clear_does_not(self, cache: ModelCache) -> None:
        await quote("USD")
        source.error = Down()
        await quote.invalidate("USD")
        assert await quote("USD") == 1
        await quote.clear()
        with pytest.raises(Down):
            await quote("USD")

    @pytest.mark.parametrize("error", [DoesNotExist(Club), Answered(404)], ids=["no row", "not found"])
    async def test_an_exception_that_is_an_answer_is_raised(self, cache: ModelCache, error: Exception) -> None:
        await quote("USD")
        source.error = error
        await quote.invalidate("USD")
        with pytest.raises(type(error)):
            await quote("USD")

    async def test_a_status_of_500_or_above_is_a_failure(self, cache: ModelCache) -> None:
        await quote("USD")
        source.error = Answered(503)
        await quote.invalidate("USD")
        assert await quote("USD") == 1

    async def test_in_a_transaction_and_in_a_disabled_block_errors_are_raised(self, cache: ModelCache) -> None:
        await Club.create(name="red")
        await clubs()
        source.error = Down()
        async with in_transaction():
            with pytest.raises(Down):
                await clubs()
        with cache.disabled(), pytest.raises(Down):
            await clubs()

    async def test_a_result_of_a_last_good_value_is_not_stored(self, cache: ModelCache) -> None:
        @cached
        async def number() -> int:
            return len(await clubs())

        await Club.create(name="red")
        assert await number() == 1
        await Club.create(name="blue")
        source.error = Down()
        assert await number() == 1
        source.error = None
        assert await number() == 2

    async def test_a_request_does_not_remember_a_last_good_value(self, cache: ModelCache) -> None:
        await quote("USD")
        await quote.invalidate("USD")
        source.error, source.value = Down(), 2
        async with local_cache():
            assert await quote("USD") == 1
            source.error = None
            assert await quote("USD") == 2

    async def test_its_instances_cannot_overwrite_newer_rows(self, cache: ModelCache) -> None:
        club = await Club.create(name="red")
        await first_club()
        await Club.filter(id=club.id).update(name="blue")
        source.error = Down()
        [old] = await first_club()
        assert old.name == "red"
        with pytest.raises(StaleInstanceError, match="stale_if_error"):
            await old.save()
        source.error = None
        [fresh] = await first_club()
        await fresh.save()

    async def test_a_refresh_ahead_keeps_the_copy_alive(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        """Else a value that is always refreshed would have no copy after ``timeout`` and ``stale_if_error``."""

        @cached(timeout="1h", stale_if_error="5m", invalidation=OFF)
        async def rate() -> Any:
            return await source.read()

        async with ModelCache(backend, refresh_ahead=0.9999999):
            await rate()
            source.value = 2
            await asyncio.sleep(0.01)  # older than a ten-millionth of its life
            default_cache().reader.background._refreshed_at = 0.0
            async with asyncio.timeout(PATIENCE):
                while await rate() != 2:
                    await asyncio.sleep(0.001)
            await rate.invalidate()
            source.error = Down()
            assert await rate() == 2

    async def test_copies_are_signed(self, database: BaseDBAsyncClient, backend: CountingBackend) -> None:
        """A program that can write to the store must not make up a last good value either."""
        async with ModelCache(backend, secret=b"s" * 32):
            assert await quote("USD") == 1
            await quote.invalidate("USD")
            source.error = Down()
            assert await quote("USD") == 1
            query = quote.query("USD")
            key = query.locate(default_cache())[1] + COPY_SUFFIX
            [copy] = await backend.read([key])
            assert copy is not None
            forged = copy[:-1] + bytes([copy[-1] ^ 1])
            assert await backend.fill([Fill(key, copy[:PREFIX_SIZE], forged, 60_000)]) == [True]
            with pytest.raises(Down):
                await quote("USD")

    async def test_tenants_have_copies_of_their_own(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        tenant: ContextVar[str] = ContextVar("tenant")
        async with ModelCache(backend, tenant=tenant.get):
            tenant.set("a")
            await quote("USD")
            source.error = Down()
            await quote.invalidate("USD")
            assert await quote("USD") == 1
            tenant.set("b")
            with pytest.raises(Down):
                await quote("USD")

    async def test_damaged_copies_are_no_answers(self, cache: ModelCache, backend: CountingBackend) -> None:
        await quote("USD")
        key = quote.query("USD").locate(default_cache())[1] + COPY_SUFFIX
        [copy] = await backend.read([key])
        assert copy is not None
        source.error = Down()
        for damaged in (copy[:-1], copy[:20], copy[:-1] + b"?", b"S" + copy[1:17]):
            [now] = await backend.read([key])
            assert now is not None
            await backend.fill([Fill(key, now[:PREFIX_SIZE], damaged, 60_000)])
            await quote.invalidate("USD")
            with pytest.raises(Down):
                await quote("USD")
        source.error = None
        assert await quote("USD") == 1

    async def test_a_hit_costs_nothing_more(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, redis=["read", "lease", "fill"]):
            await quote("USD")
        async with assert_ops(backend, redis=1):
            await quote("USD")


class TestSoftTimeout:
    async def slow_after_a_write(self) -> None:
        await Club.create(name="red")
        await clubs()
        await Club.create(name="blue")
        source.slow = True

    async def test_callers_get_the_old_value_while_the_computation_goes_on(self, cache: ModelCache) -> None:
        await self.slow_after_a_write()
        assert await asyncio.gather(clubs(), clubs()) == [["red"], ["red"]]
        assert await clubs() == ["red"]  # waits for the same computation
        assert source.calls == 2
        assert counts(cache, "clubs") == (0, 3)
        source.go.set()
        await settled()
        assert await clubs() == ["red", "blue"]
        assert source.calls == 2

    async def test_without_an_old_value_callers_wait(self, cache: ModelCache) -> None:
        source.slow = True
        task = asyncio.create_task(awaited(clubs()))
        await source.entered.wait()
        await asyncio.sleep(2 * SOON)
        assert not task.done()
        source.go.set()
        assert await task == []

    async def test_cancelling_a_caller_does_not_cancel_the_computation(self, cache: ModelCache) -> None:
        await self.slow_after_a_write()
        task = asyncio.create_task(awaited(clubs()))
        await source.entered.wait()
        task.cancel()
        await asyncio.wait([task])
        assert await clubs() == ["red"]
        source.go.set()
        await settled()
        assert await clubs() == ["red", "blue"]
        assert source.calls == 2

    async def test_a_late_failure_leaves_the_old_value_and_no_lease(self, cache: ModelCache) -> None:
        await self.slow_after_a_write()
        assert await clubs() == ["red"]
        source.error = Down()
        source.go.set()
        await settled()
        source.slow = False
        assert await clubs() == ["red"]
        source.error = None
        await becomes(["red", "blue"])
        assert source.calls == 4  # no call had to wait for a lease that had stayed

    async def test_a_write_during_a_late_computation_is_not_lost(self, cache: ModelCache) -> None:
        await self.slow_after_a_write()
        assert await clubs() == ["red"]
        await Club.create(name="green")
        source.slow = False
        source.go.set()
        await settled()
        await becomes(["red", "blue", "green"])

    async def test_closing_the_cache_ends_a_late_computation(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend, lease_ttl=0.05):
            await self.slow_after_a_write()
            assert await clubs() == ["red"]
        with pytest.raises(CacheNotOpen):
            await clubs()

    @pytest.mark.parametrize("declares", [False, True], ids=["undeclared", "declared"])
    @pytest.mark.parametrize("begun", [False, True], ids=["its own computation", "another's"])
    async def test_a_result_of_an_old_value_is_not_stored(self, begun: bool, declares: bool, cache: ModelCache) -> None:
        @cached(depends_on=Club if declares else ())
        async def number() -> int:
            return len(await clubs())

        await self.slow_after_a_write()
        if begun:
            assert await clubs() == ["red"]
        assert await number() == 1
        source.go.set()
        await settled()
        assert await number() == 2

    @pytest.mark.parametrize("begun", [False, True], ids=["its own computation", "another's"])
    async def test_a_request_does_not_remember_an_old_value(self, begun: bool, cache: ModelCache) -> None:
        await self.slow_after_a_write()
        if begun:
            assert await clubs() == ["red"]
        async with local_cache():
            assert await clubs() == ["red"]
            source.go.set()
            await settled()
            assert await clubs() == ["red", "blue"]

    async def test_another_process_waits_no_longer_either(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        await self.slow_after_a_write()
        assert await clubs() == ["red"]
        async with ModelCache(backend):
            query = clubs.query()
            query.explicit_cache = next(each for each in open_caches if each is not default_cache())
            assert await query == ["red"]
        assert source.calls == 2
        source.go.set()


async def becomes(names: list[str]) -> None:
    """Waits until the names of clubs are these. On a slow machine a computation may be late by itself."""
    async with asyncio.timeout(PATIENCE):
        while await clubs() != names:
            await settled()


async def settled() -> None:
    """Waits until nothing of the cache is in flight."""
    async with asyncio.timeout(PATIENCE):
        while default_cache().busy:
            await asyncio.sleep(0.001)


@cached(timeout="10s", sliding=True, stale_if_error="5s")
async def sliding_clubs() -> Any:
    await source.read()
    return list(await Club.all().order_by("id").values_list("name", flat=True))


def everything_is_due() -> None:
    """Has every hit be one in the last half of a life, until the end of the test."""
    cache = default_cache()
    cache.reader.background._refreshed_at = math.inf
    for _, entries in cache.values.values():
        entries.lifetimes.due = b"\xff" * 8


class TestSliding:
    @pytest.mark.only_on("memory", because="its entries expire by a clock")
    async def test_a_hit_in_the_last_half_of_a_life_extends_it(self, timed: ModelCache, clock: Clock) -> None:
        await sliding_clubs()
        everything_is_due()
        for clock.now in (6.0, 12.0, 21.0):
            assert await sliding_clubs() == []
            await settled()
            default_cache().reader.background.clear_attempts()
        assert source.calls == 1
        [counters] = [each for name, each in timed.stats.by_cache.items() if name.endswith("sliding_clubs")]
        assert counters.extended == 3
        source.error, clock.now = Down(), 35.0
        assert await sliding_clubs() == []  # so is the life of the copy
        clock.now = 37.0
        with pytest.raises(Down):
            await sliding_clubs()

    async def test_a_hit_before_sends_no_more(self, cache: ModelCache, backend: CountingBackend) -> None:
        await sliding_clubs()
        async with assert_ops(backend, redis=["read"]):
            await sliding_clubs()
            await settled()

    async def test_a_value_that_was_invalidated_meanwhile_is_not_put_back(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        @cached(timeout="10s", sliding=True, invalidation=OFF)
        async def rate() -> Any:
            return await source.read()

        store = GatedBackend(backend)
        async with ModelCache(store):
            await rate()
            everything_is_due()
            gate = store.hold("fill")
            await rate()
            await gate.reached()
            await rate.invalidate()
            gate.open()
            await settled()
            source.value = 2
            assert await rate() == 2

    async def test_results_derived_from_it_stay(self, cache: ModelCache) -> None:
        @cached
        async def number() -> int:
            return len(await sliding_clubs())

        await number()
        everything_is_due()
        await sliding_clubs()
        await settled()
        source.error = Down()
        assert await number() == 0
        assert source.calls == 1

    async def test_writes_still_invalidate_it(self, cache: ModelCache) -> None:
        await sliding_clubs()
        everything_is_due()
        await sliding_clubs()
        await settled()
        await Club.create(name="red")
        assert await sliding_clubs() == ["red"]


class TestTimeoutOfResult:
    @pytest.mark.only_on("memory", because="its entries expire by a clock")
    async def test_a_value_says_how_long_it_lives(self, timed: ModelCache, clock: Clock) -> None:
        class Answer(ValueCache[Any]):
            timeout = staticmethod(lambda answer: answer["for"])
            negative_timeout = "1s"
            invalidation = OFF

            async def get_value(self, number: int) -> Any:
                return await source.read()

        source.value = {"for": "30s"}
        await Answer(1)
        source.value = {"for": 50}
        await Answer(2)
        source.value = None
        await Answer(3)
        for now, calls in ((0.5, 3), (2.0, 4), (29.0, 5), (31.0, 7), (49.0, 9), (51.0, 12)):
            clock.now = now
            await asyncio.gather(Answer(1), Answer(2), Answer(3))
            assert source.calls == calls, now

    async def test_zero_is_not_stored_and_none_is_the_default(self, cache: ModelCache) -> None:
        @cached(timeout=lambda value: 0 if value == 1 else None, invalidation=OFF)
        async def rate() -> Any:
            return await source.read()

        await rate()
        source.value = 2
        assert [await rate(), await rate()] == [2, 2]
        assert source.calls == 2

    async def test_a_wrong_timeout_keeps_a_value_out_and_is_logged(
        self, cache: ModelCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        @cached(timeout=lambda value: {}[value], invalidation=OFF)
        async def rate() -> Any:
            return await source.read()

        assert [await rate(), await rate()] == [1, 1]
        assert source.calls == 2
        assert len(caplog.records) == 1
        assert "the timeout of a value of" in caplog.text


class NoSuchClub(Exception):
    """An answer, which has more than arguments."""

    def __init__(self, name: str, *, status_code: int = 404) -> None:
        super().__init__(f"no club {name}")
        self.status_code = status_code


class Unstorable(Exception):
    """An answer that holds something without an encoding."""

    def __init__(self) -> None:
        self.connection = object()


class Slotted(Exception):
    """An answer with more than attributes."""

    __slots__ = ("code",)

    def __str__(self) -> str:
        return str(getattr(self, "code", "lost"))


class OtherClub(NoSuchClub):
    """A subclass, which is not the declared type."""


@cached(cache_errors={NoSuchClub: "30s", DoesNotExist: "30s", Unstorable: "30s", Slotted: "30s"})
async def club_named(name: str) -> str:
    await source.read()
    found = await Club.get_or_none(name=name)
    if found is None:
        raise NoSuchClub(name)
    return found.name


class TestCachedErrors:
    async def test_an_exception_is_raised_again_without_computing(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        with pytest.raises(NoSuchClub):
            await club_named("red")
        async with assert_ops(backend, redis=1, sql=0):
            with pytest.raises(NoSuchClub, match="no club red") as caught:
                await club_named("red")
        assert (caught.value.args, caught.value.status_code) == (("no club red",), 404)
        assert source.calls == 1

    async def test_it_is_invalidated_like_a_value(self, cache: ModelCache) -> None:
        for _ in range(2):
            with pytest.raises(NoSuchClub):
                await club_named("red")
        await Club.create(name="red")
        assert await club_named("red") == "red"

    @pytest.mark.only_on("memory", because="its entries expire by a clock")
    async def test_it_lives_as_long_as_its_type_says(self, timed: ModelCache, clock: Clock) -> None:
        for clock.now, calls in ((0.0, 1), (29.0, 1), (31.0, 2)):
            with pytest.raises(NoSuchClub):
                await club_named("red")
            assert source.calls == calls

    async def test_an_exception_of_a_model_names_it_again(self, cache: ModelCache) -> None:
        source.error = DoesNotExist(Club)
        for _ in range(2):
            with pytest.raises(DoesNotExist) as caught:
                await club_named("red")
        assert caught.value.model is Club
        assert source.calls == 1

    @pytest.mark.parametrize("kind", ["OtherClub", "Down", "Unstorable", "Slotted"])
    async def test_others_are_not_stored(self, cache: ModelCache, kind: str) -> None:
        slotted = Slotted()
        slotted.code = 7
        error = {"OtherClub": OtherClub("red"), "Down": Down(), "Unstorable": Unstorable(), "Slotted": slotted}[kind]
        source.error = error
        for _ in range(2):
            with pytest.raises(type(error)):
                await club_named("red")
        assert source.calls == 2

    async def test_an_error_of_an_inner_value_is_a_dependency(self, cache: ModelCache) -> None:
        @cached
        async def has_club(name: str) -> bool:
            try:
                return bool(await club_named(name))
            except NoSuchClub:
                return False

        assert [await has_club("red"), await has_club("red")] == [False, False]
        assert source.calls == 1
        await Club.create(name="red")
        assert await has_club("red")

    async def test_in_a_transaction_it_is_raised(self, cache: ModelCache) -> None:
        async with in_transaction():
            with pytest.raises(NoSuchClub):
                await club_named("red")

    async def test_callers_of_one_tick_share_it(self, cache: ModelCache) -> None:
        found = await asyncio.gather(club_named("red"), club_named("red"), return_exceptions=True)
        assert [type(each) for each in found] == [NoSuchClub, NoSuchClub]
        assert source.calls == 1

    async def test_it_is_no_last_good_value(self, cache: ModelCache, caplog: pytest.LogCaptureFixture) -> None:
        @cached(stale_if_error="5m", cache_errors={NoSuchClub: "30s"}, invalidation=OFF)
        async def name() -> Any:
            return await source.read()

        assert await name() == 1
        await name.invalidate()
        source.error = NoSuchClub("red")
        with pytest.raises(NoSuchClub):
            await name()
        assert not caplog.records
        await name.invalidate()
        source.error = Down()
        assert await name() == 1

    async def test_explain_shows_a_hit(self, cache: ModelCache) -> None:
        with pytest.raises(NoSuchClub):
            await club_named("red")
        assert (await club_named.explain("red")).reason == "hit"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"stale_if_error": 0}, "stale_if_error is 0: it must be above zero"),
        ({"stale_if_error": "x"}, "write seconds"),
        ({"sliding": 1}, "sliding is 1: use True or False"),
        ({"sliding": True, "timeout": lambda value: 1}, "does not go with a timeout that is a function"),
        ({"soft_timeout": 1}, "set it, too"),
        ({"cache_errors": [KeyError]}, "it must be a dict"),
        ({"cache_errors": {"KeyError": 1}}, "its keys must be types of exceptions"),
        ({"cache_errors": {KeyboardInterrupt: 1}}, "its keys must be types of exceptions"),
        ({"cache_errors": {KeyError: -1}}, r"cache_errors\[KeyError\] is -1"),
        ({"cache_errors": {KeyError: 1}, "near": True}, "near keeps all values"),
        ({"timeout": lambda value: 1, "near": True}, "near keeps all values"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    async def value() -> int:
        return 1

    with pytest.raises(CacheConfigurationError, match=text):
        cached(**settings)(value)
