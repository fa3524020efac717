"""Entries of models with ``relay = True`` answer only while a relay lives.

The tests are the relay: they claim to live, and other programs' writes are SQL on the test's own connection, which
nothing notices. Time passes by a clock of the test.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, cast

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    MemoryBackend,
    ModelCache,
    RedisBackend,
    local_cache,
)
from aiomodelcache.backends.protocol import SupportsClaims
from aiomodelcache.engine.relayed import Relayed
from aiomodelcache.inspection.health import relay_findings
from aiomodelcache.observe import Lookup, Observer, Operation
from aiomodelcache.observe.stats import Stats
from aiomodelcache.relay import Relay
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.triggers.installation import install
from aiomodelcache.relay.watch import RelayWatch
from aiomodelcache.testing import assert_ops, count_ops
from tests.support.gates import GatedBackend, until
from tests.support.models.bound_models import (
    Author,
    AuthorOfBook,
    AuthorsOfTeam,
    Book,
    NamesOfTeam,
    NumberOfAuthors,
    Stock,
    Tag,
    author_and_tag,
    name_by_cache,
    name_by_sql,
    nested_name,
    tag_by_sql,
)

pytestmark = pytest.mark.models("tests.support.models.bound_models")

LAG = 600.0
"""The ``relay_lag`` of the tests, in seconds of their clock."""
ON_SQLITE = pytest.mark.only_on("sqlite", because="the database plays no part in it")


class Clock:
    """The clock of the countdown."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Bound:
    """An open cache, its store, and the relay that the test is."""

    def __init__(self, cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient) -> None:
        self.cache = cache
        self.store = store
        self.database = database
        self.clock = Clock()
        self.relayed.clock = self.clock

    @property
    def watch(self) -> RelayWatch:
        watch = self.cache._views.relays
        assert watch is not None
        return watch

    @property
    def relayed(self) -> Relayed:
        return self.watch.relayed

    async def live(self) -> None:
        """Claims that everything is invalidated by now, and lets the cache learn of it."""
        store = cast("SupportsClaims", self.store)
        now = await store.clock()
        for key in self.watch.keys.values():
            await store.claim(key, now + int(LAG * 1000))
        await self.watch.ask()

    def die(self) -> None:
        """Lets the time pass until no relay lives any more."""
        self.clock.now += LAG + 1

    async def write(self, sql: str) -> None:
        """Another program's write."""
        await self.database.execute_query(sql)

    async def come_back(self) -> None:
        """Invalidates what other programs have written, and lives."""
        await self.cache.clear(Author, Stock)
        await self.live()


@asynccontextmanager
async def opened(database: BaseDBAsyncClient, url: str, **settings: Any) -> AsyncIterator[Bound]:
    store = GatedBackend(MemoryBackend() if url == "memory://" else RedisBackend(url))
    await store.open()
    try:
        async with ModelCache(store, **{"relay_lag": LAG} | settings) as cache:
            bound = Bound(cache, store, database)
            await create_rows()
            await bound.live()
            await bound.watch.close()  # from here on the store is asked by the test alone
            yield bound
    finally:
        await store.close()


@pytest.fixture
async def bound(database: BaseDBAsyncClient, backend_url: str) -> AsyncIterator[Bound]:
    async with opened(database, backend_url) as found:
        yield found


async def create_rows() -> None:
    tag = await Tag.create(id=1)
    author = await Author.create(id=1, slug="kim")
    await author.tags.add(tag)
    await Book.create(id=1, author=author)
    await Stock.create(id=1)


def names(authors: list[Author]) -> list[str]:
    return [author.name for author in authors]


async def by_pk() -> Any:
    return (await Author.cache.get(id=1)).name


async def by_slug() -> Any:
    return (await Author.cache.get(slug="kim")).name


async def by_team() -> Any:
    return names(await Author.cache.filter(team=1))


async def by_ordered_list() -> Any:
    return names(await AuthorsOfTeam(team=1))


async def all_rows() -> Any:
    return names(await Author.cache.all())


async def slice_of_list() -> Any:
    return names(await Author.cache.filter(team=1)[0:1])


async def page_of_list() -> Any:
    return names((await Author.cache.filter(team=1).page(1, size=5)).items)


async def by_many() -> Any:
    return names(await Author.cache.get_many([1]))


async def by_batch() -> Any:
    batch = await BatchCacheQuery({"author": Author.cache.get(id=1), "tag": Tag.cache.get(id=1)})
    return batch["author"].name


async def by_foreign_key() -> Any:
    return (await (await Book.cache.get(id=1)).author).name


async def by_relation() -> Any:
    return (await AuthorOfBook(id=1)).name


async def by_prefetch() -> Any:
    book = await Book.cache.get(id=1)
    await Book.cache.prefetch([book], "author")
    return book.author.name


async def by_query() -> Any:
    return names(await Author.cache.query(Author.filter(name__not="none")))


async def by_query_of_group() -> Any:
    return names(await Author.cache.query(Author.filter(team=1)))


async def by_values() -> Any:
    return await Author.cache.query(Author.all().values_list("name", flat=True))


async def names_of_team() -> Any:
    return await NamesOfTeam(team=1)


async def by_instances() -> Any:
    return (await author_and_tag(1))[0].name


KINDS: list[Callable[[], Awaitable[Any]]] = [
    by_pk, by_slug, by_team, by_ordered_list, all_rows, slice_of_list, page_of_list, by_many, by_batch, by_foreign_key,
    by_relation, by_prefetch, by_query, by_query_of_group, by_values, names_of_team, by_instances,
    lambda: name_by_sql(1), lambda: name_by_cache(1), lambda: nested_name(1),
]  # fmt: skip
"""Lookups that show the name of an author."""


async def answered_by_cache(look_up: Callable[[], Awaitable[Any]]) -> Any:
    """Looks up until the store answers, and returns the answer."""
    for _ in range(2):
        await look_up()
    async with assert_ops(sql=0):
        return await look_up()


def renewed(answer: Any) -> Any:
    """Returns the answer of one of these lookups after the author was renamed."""
    return [renewed(each) for each in answer] if isinstance(answer, list) else answer.replace("old", "new", 1)


# All kinds of lookups ------------------------------------------------------------------------------------


async def test_each_lookup_reads_the_database_once_the_relay_is_lost_and_the_store_once_it_is_back(
    bound: Bound,
) -> None:
    before = [await answered_by_cache(look_up) for look_up in KINDS]
    await bound.write("UPDATE author SET name = 'new'")
    assert [await look_up() for look_up in KINDS] == before, "within the bound, entries answer"

    bound.die()
    for number, look_up in enumerate(KINDS):
        with count_ops() as ops:
            answer = await look_up()
        assert answer == renewed(before[number]), number
        assert ops.statements, number
    async with assert_ops(sql=0, redis=["read"]):
        await Tag.cache.get(id=1)
    await tag_by_sql(1)
    async with assert_ops(sql=0, redis=["read"]):
        await tag_by_sql(1)

    await bound.come_back()
    assert [await answered_by_cache(look_up) for look_up in KINDS] == [renewed(answer) for answer in before]


async def test_counts_and_lists_over_relations_read_the_database_once_the_relay_is_lost(bound: Bound) -> None:
    author = await Author.get(id=1)

    async def tags() -> int:
        return len(list(await author.tags))

    lookups: list[Callable[[], Awaitable[Any]]] = [
        tags,
        lambda: NumberOfAuthors(team=1),
        lambda: Author.cache.count(team=1),
        lambda: Author.cache.exists(id=2),
    ]
    before = [await answered_by_cache(look_up) for look_up in lookups]
    assert before == [1, 1, 1, False]
    await bound.write("INSERT INTO author (id, name, slug, team) VALUES (2, 'new', 'lee', 1)")
    await bound.write("DELETE FROM author_tag")
    assert [await look_up() for look_up in lookups] == before
    bound.die()
    assert [await look_up() for look_up in lookups] == [0, 2, 2, True]


@ON_SQLITE
async def test_a_lookup_without_a_relay_costs_its_statement_alone(bound: Bound) -> None:
    bound.die()
    for _ in range(2):
        async with assert_ops(sql=1, redis=0):
            await asyncio.gather(by_pk(), by_pk(), by_batch_of_authors())
    async with assert_ops(sql=1, redis=0):
        await asyncio.gather(by_slug(), by_slug())
    async with assert_ops(sql=1, redis=["read", "lease", "fill"]):  # the tag is missing, the author has no relay
        await Book.cache.get(id=1)
    async with assert_ops(sql=1, redis=["read"]):
        await asyncio.gather(by_pk(), Book.cache.get(id=1))


async def by_batch_of_authors() -> Any:
    return await BatchCacheQuery({"author": Author.cache.get(id=1)})


@ON_SQLITE
async def test_a_lookup_with_a_relay_costs_what_it_costs_without(bound: Bound) -> None:
    await by_pk()
    async with assert_ops(sql=0, redis=["read"]):
        await asyncio.gather(by_pk(), by_pk(), by_batch_of_authors(), Author.cache.get_or_none(id=1))


@ON_SQLITE
async def test_lookups_inside_a_computation_judge_by_themselves(bound: Bound) -> None:
    await answered_by_cache(lambda: nested_name(1))
    bound.die()
    async with assert_ops(sql=1, redis=["read"]):  # the author's row, and the tag from the store
        await nested_name(1)


@ON_SQLITE
async def test_lookups_that_may_use_the_cache_alone_are_left_out(bound: Bound) -> None:
    await by_pk()
    await Tag.cache.get(id=1)
    bound.die()
    batch = BatchCacheQuery({"author": Author.cache.get(id=1), "tag": Tag.cache.get(id=1)})
    assert [*await batch.get(only_cache=True)] == ["tag"]


@ON_SQLITE
async def test_a_request_scope_holds_what_it_holds(bound: Bound) -> None:
    with local_cache():
        await by_pk()
        bound.die()
        await bound.write("UPDATE author SET name = 'new'")
        assert await by_pk() == "old"
    with local_cache():
        assert await by_pk() == "new"


@ON_SQLITE
async def test_stale_copies_answer_only_while_a_relay_lives(bound: Bound) -> None:
    async def stock() -> str:
        return (await Stock.cache.get(id=1)).name

    await answered_by_cache(stock)
    await bound.write("UPDATE stock SET name = 'new'")
    await (await Stock.get(id=1)).save()
    assert await stock() == "old", "the copy that the write has left"
    bound.die()
    assert await stock() == "new"


@ON_SQLITE
async def test_lookups_with_watched_or_sampled_callers_read_the_database_too(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with opened(database, backend_url, verify=1.0) as bound:
        bound.cache.open_cache.reader.compare_callers(lambda context, request: None)
        for look_up in KINDS:
            await look_up()
        before = [await look_up() for look_up in KINDS]
        await bound.write("UPDATE author SET name = 'new'")
        bound.die()
        assert [await look_up() for look_up in KINDS] == [renewed(answer) for answer in before]


@ON_SQLITE
async def test_entries_of_other_connections_never_answer(bound: Bound, again: BaseDBAsyncClient) -> None:
    """No relay watches a connection that `using` names."""
    for _ in range(2):
        async with assert_ops(sql=1, redis=0):
            await Author.cache.using(again).get(id=1)
    await Tag.cache.using(again).get(id=1)
    async with assert_ops(sql=0, redis=["read"]):
        await Tag.cache.using(again).get(id=1)
    own = Author.cache.using(bound.database)
    await own.get(id=1)
    async with assert_ops(sql=0, redis=["read"]):
        await own.get(id=1)
    bound.die()
    async with assert_ops(sql=1, redis=0):
        await own.get(id=1)


@ON_SQLITE
async def test_tenants_share_the_relay(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with opened(database, backend_url, tenant=lambda: "acme") as bound:
        before = [await answered_by_cache(look_up) for look_up in KINDS]
        author = await Author.get(id=1)
        assert len(list(await author.tags)) == 1
        await bound.write("UPDATE author SET name = 'new'")
        await bound.write("DELETE FROM author_tag")
        bound.die()
        assert [await look_up() for look_up in KINDS] == [renewed(answer) for answer in before]
        assert len(list(await author.tags)) == 0


# A relay of its own --------------------------------------------------------------------------------------


@pytest.mark.slow(because="waits for the end of the bound")
async def test_no_answer_is_older_than_the_bound_when_the_relay_has_ended(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    """The real relay, and the real time: no lookup that begins later than the bound is answered by the old entry."""
    lag = 6.0  # much longer than the lookups take on a busy machine
    async with ModelCache(backend_url, relay_lag=lag, socket_timeout=30) as cache:
        [(_, tables)] = captured_tables(cache.open_cache).items()
        await install(database, tables)
        await create_rows()
        relay, watch = Relay(cache), cache._views.relays
        assert watch is not None
        lives = asyncio.create_task(relay.run())  # for as long as the lookups take
        await until(lambda: not watch.relayed.lost_connections())
        kinds = [by_pk, by_slug, by_query, names_of_team]
        before = [await answered_by_cache(look_up) for look_up in kinds]
        relay.stop()
        await lives
        await watch.ask()
        await database.execute_query("UPDATE author SET name = 'new'")
        committed, kept, late = monotonic(), 0, set(kinds)
        while late:
            for look_up, old in zip(kinds, before, strict=True):
                began = monotonic()
                if await look_up() != old:
                    late.discard(look_up)
                else:
                    kept += 1
                    assert began <= committed + lag
            await asyncio.sleep(0.01)
        assert kept, "nothing was cached, so that the test shows nothing"

        await relay.drain()  # which comes back
        await watch.ask()
        assert [await answered_by_cache(look_up) for look_up in kinds] == [renewed(answer) for answer in before]


# Late replies --------------------------------------------------------------------------------------------


@ON_SQLITE
@pytest.mark.parametrize("look_up", [by_pk, lambda: name_by_sql(1), slice_of_list])
async def test_a_reply_is_not_believed_if_the_relay_was_lost_before_it_came(
    bound: Bound, look_up: Callable[[], Awaitable[Any]]
) -> None:
    before = await answered_by_cache(look_up)
    gate = bound.store.hold("read", "after")
    lookup = asyncio.ensure_future(look_up())
    await gate.reached()
    await bound.write("UPDATE author SET name = 'new'")
    bound.die()  # as when the event loop is blocked for that long
    gate.open()
    assert await lookup == renewed(before)


@ON_SQLITE
@pytest.mark.parametrize("look_up", [by_pk, lambda: name_by_sql(1), slice_of_list])
async def test_a_reply_from_before_the_relay_came_back_is_not_believed(
    bound: Bound, look_up: Callable[[], Awaitable[Any]]
) -> None:
    before = await answered_by_cache(look_up)
    gate = bound.store.hold("read", "after")
    lookup = asyncio.ensure_future(look_up())
    await gate.reached()  # the store has executed the read
    await bound.write("UPDATE author SET name = 'new'")
    bound.die()
    await bound.come_back()
    gate.open()
    assert await lookup == renewed(before)


def test_a_life_is_counted_from_before_the_question() -> None:
    clock = Clock()
    relayed = Relayed(["default"], {b"epoch": frozenset({"default"})}, [], Stats(), clock=clock)
    assert relayed.is_lost([b"epoch"], relayed.claims)
    asked, clock.now = clock.now, clock.now + 4
    relayed.learn(asked, {"default": 10_000})
    assert relayed.claims.until == asked + 9.999, "a store may have cut off a part of a millisecond"
    known = relayed.claims
    clock.now = asked + 9.998
    assert not relayed.is_lost([b"epoch"], known)
    clock.now = asked + 10
    assert relayed.is_lost([b"epoch"], known)
    assert not relayed.is_lost([b"other"], known)
    relayed.learn(clock.now, {"default": 10_000})
    assert relayed.is_lost([b"epoch"], known), "it was known before the relay came back"
    assert not relayed.is_lost([b"epoch"], relayed.claims)
    relayed.learn(clock.now, {"default": 0})
    assert relayed.is_lost([b"epoch"], relayed.claims), "a claim that the store has lost"


def test_connections_have_relays_of_their_own() -> None:
    clock = Clock()
    keys = {b"a": frozenset({"one"}), b"b": frozenset({"two"}), b"c": frozenset({"one", "two"})}
    relayed = Relayed(["one", "two"], keys, [(b"list:", "two")], Stats(), clock=clock)
    relayed.learn(clock.now, {"one": 5_000, "two": 9_000})
    clock.now += 6
    lost = [key for key in (b"a", b"b", b"c", b"list:1", b"d") if relayed.is_lost([key], relayed.claims)]
    assert lost == [b"a", b"c"]


# Near entries --------------------------------------------------------------------------------------------


@ON_SQLITE
@pytest.mark.only_on("redis", because="near entries need a server that reports changes")
async def test_near_entries_answer_only_while_a_relay_lives_and_are_dropped_when_it_returns(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with opened(database, backend_url, near=True, near_lag=600, socket_timeout=30) as bound:
        kinds = [by_pk, by_slug, by_team, names_of_team, by_query]
        before = [await answered_by_cache(look_up) for look_up in kinds]
        await answered_by_cache(lambda: Tag.cache.get(id=1))
        async with assert_ops(sql=0, redis=0):
            await by_pk()
            await Tag.cache.get(id=1)
        await bound.write("UPDATE author SET name = 'new'")
        bound.die()
        assert [await look_up() for look_up in kinds] == [renewed(answer) for answer in before]
        async with assert_ops(sql=0, redis=0):
            await Tag.cache.get(id=1)

        dropped = bound.cache.stats.near.dropped
        await bound.live()  # messages about what the relay has invalidated may be on their way
        assert bound.cache.stats.near.dropped == dropped + 1
        async with assert_ops(sql=0, redis=["read"]):
            await by_pk()


# Settings, counts and reports ----------------------------------------------------------------------------


class Lookups(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str | None]] = []

    def end(self, operation: Operation) -> None:
        if isinstance(operation, Lookup):
            self.seen.append((operation.cache, operation.outcome, operation.reason))


@ON_SQLITE
async def test_a_loss_is_logged_and_counted_once_and_observers_are_told(
    database: BaseDBAsyncClient, backend_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiomodelcache")
    observer = Lookups()
    async with opened(database, backend_url, observers=[observer]) as bound:
        opening = "no relay lives for the models with relay = True on sqlite, so their lookups read the database"
        assert [opening in record.message for record in caplog.records] == [True, False]
        caplog.clear()
        await by_pk()
        bound.die()
        observer.seen.clear()
        await by_pk()
        await by_slug()
        bound.relayed.report()
        assert observer.seen == [("Author", "bypass", "relay lost"), ("Author(slug)", "bypass", "relay lost")]
        assert (bound.cache.stats.relay_bypassed, bound.cache.stats.bypassed) == (2, 0)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await bound.live()
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        await by_pk()
        assert bound.cache.stats.relay_bypassed == 2


@ON_SQLITE
async def test_entries_go_on_to_answer_by_the_setting(
    database: BaseDBAsyncClient, backend_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database, backend_url, on_relay_loss="serve") as bound:
        before = [await answered_by_cache(look_up) for look_up in KINDS]
        await bound.write("UPDATE author SET name = 'new'")
        bound.die()
        caplog.clear()
        assert [await look_up() for look_up in KINDS] == before
        stats = bound.cache.stats
        assert (stats.relay_bypassed, stats.bypassed) == (0, 0)
        assert stats.relay_served >= len(KINDS)
        served = stats.relay_served
        await asyncio.gather(by_pk(), Tag.cache.get(id=1))
        assert stats.relay_served == served + 1
        assert [record.message for record in caplog.records if "answer all the same" in record.message]
        assert len(caplog.records) == 1


@ON_SQLITE
async def test_an_explanation_names_the_lost_relay(bound: Bound) -> None:
    await by_slug()
    await name_by_sql(1)
    assert (await Author.cache.explain(slug="kim")).reason == "hit"
    bound.die()
    explanation = await Author.cache.explain(slug="kim")
    assert (explanation.source, explanation.reason) == ("database", "relay lost")
    assert explanation.entry is not None
    assert explanation.entry.state == "hit"
    assert (await name_by_sql.explain(1)).reason == "relay lost"
    assert (await Tag.cache.explain(id=1)).reason == "missing"


@ON_SQLITE
async def test_doctor_names_the_lost_relay(bound: Bound) -> None:
    cache = bound.cache.open_cache
    assert [(each.level, each.text) for each in relay_findings(cache)] == [("ok", "one lives for sqlite")]
    bound.die()
    [finding] = relay_findings(cache)
    text = "none lives for sqlite, so that models with relay = True are read from the database"
    assert (finding.level, finding.subject, finding.text) == ("error", "relay", text)


@ON_SQLITE
async def test_an_old_entry_is_stale_for_verification_only_after_the_bound(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with opened(database, backend_url, verify=1.0, relay_lag=0.3) as bound:
        await by_pk()
        await by_pk()
        stats = bound.cache.stats.verified
        await until(lambda: stats.compared > 0)
        await bound.write("UPDATE author SET name = 'new'")
        compared, started = stats.compared, monotonic()
        gate = bound.store.hold("read", skip=2)  # after the lookup, and the verifier's first look
        assert await by_pk() == "old"
        await gate.reached()
        assert monotonic() - started > 0.29, "a relay may still invalidate it"
        gate.open()
        await until(lambda: stats.compared > compared)
        assert stats.stale == 1
        assert await by_pk() == "new"


@ON_SQLITE
async def test_a_snapshot_of_relayed_models_is_read_in_a_transaction(bound: Bound) -> None:
    """A token does not tell of another program's write before a relay has seen it."""
    authors, tags = Author.cache.get(id=1), Tag.cache.get(id=1)
    await BatchCacheQuery({"author": authors, "tag": tags})
    await bound.write("UPDATE author SET name = 'new'")
    assert (await BatchCacheQuery({"author": authors, "tag": tags}).get(snapshot=True))["author"].name == "new"
    async with assert_ops(sql=0):
        await BatchCacheQuery({"tag": tags}).get(snapshot=True)
    bound.die()
    assert (await BatchCacheQuery({"author": authors, "tag": tags}).get(snapshot=True))["author"].name == "new"


@ON_SQLITE
async def test_a_backend_without_claims_is_refused(database: BaseDBAsyncClient, backend_url: str) -> None:
    class Plain:
        """A backend with the six operations alone."""

        def __init__(self) -> None:
            inner = MemoryBackend()
            for name in ("open", "close", "read", "lease", "fill", "mark", "clear", "delete"):
                setattr(self, name, getattr(inner, name))

        def __repr__(self) -> str:
            return "<Plain>"

    message = (
        "CacheMeta.relay of Author, Stock needs a backend with clock, claim and remaining, which <Plain> has not: "
        "add them, or remove relay."
    )
    with pytest.raises(CacheConfigurationError) as caught:
        await ModelCache(cast("Any", Plain())).open()
    assert str(caught.value) == message


@ON_SQLITE
async def test_relays_are_asked_for_now_and_then_while_the_cache_is_open(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with opened(database, backend_url, relay_lag=0.2) as bound:
        watch, first = bound.watch, bound.relayed.claims
        await watch.start()  # which asks once itself
        second = watch.relayed.claims
        assert second is not first
        await until(lambda: watch.relayed.claims is not second)
    assert watch._task is None
