"""Writes of every kind in every order, by a state machine; after each one the caches say what the database says.

The oracle is the database, read past the cache. ``HYPOTHESIS_PROFILE=long`` explores at random and for long.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connections
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import Backend, MemoryBackend, ModelCache, RedisBackend, local_cache
from aiomodelcache import session as sessions
from aiomodelcache.local import context_without_scope
from tests.databases import DatabaseUrl, tortoise_on
from tests.stateful_models import HasItems, Item, Label, LabelledLikewise, LabelsOf, Places, TeamSize

IDS = range(1, 4)
TEAMS = (1, 2)
SECONDS = (61.0, 1_000_000.0)
"""Longer than what is absent is cached, and than anything is."""

ids = st.sampled_from(IDS)
numbers = st.sampled_from([None, *IDS])
teams = st.sampled_from(TEAMS)
places = st.integers(0, 2)
values = st.fixed_dictionaries({"number": numbers, "team": teams, "place": places})
some_values = st.fixed_dictionaries({}, optional={"number": numbers, "team": teams, "place": places}).filter(bool)
some_ids = st.sets(ids, min_size=1)


class Rollback(Exception):
    """Ends a transaction that is not to be committed."""


class World:
    """An event loop in which Tortoise is open, and the store."""

    def __init__(
        self,
        runner: asyncio.Runner,
        connection: BaseDBAsyncClient,
        backend_url: str,
        flush_redis: Callable[[], object],
    ) -> None:
        self.run = runner.run
        self.connection_name = connection.connection_name
        self.flush_redis = flush_redis
        self.seconds = 0.0
        self.memory = MemoryBackend(clock=lambda: self.seconds) if backend_url == "memory://" else None
        self.store: Backend = self.memory or RedisBackend(backend_url)

    async def execute(self, sql: str) -> list[Any]:
        """Raw SQL, in the transaction that is open, if one is."""
        return list((await get_connections().get(self.connection_name).execute_query(sql))[1])

    def flush(self) -> None:
        """Empties the store."""
        if self.memory is not None:
            self.memory.__init__(clock=lambda: self.seconds)  # type: ignore[misc]
        else:
            self.flush_redis()


async def in_database(world: World) -> dict[str, Any]:
    """What the caches have to say."""
    items = {item.id: shown(item) for item in await Item.all()}
    labels = {label.id: shown(label) for label in await Label.all()}
    links = {(row["item_id"], row["label_id"]) for row in await world.execute("SELECT * FROM item_label")}
    of_item = {pk: [each for each in labels if (pk, each) in links] for pk in items}
    of_label = {pk: [each for each in items if (each, pk) in links] for pk in labels}
    answers: dict[str, Any] = {}
    for pk in IDS:
        answers[f"item {pk}"] = items.get(pk)
        answers[f"label {pk}"] = labels.get(pk)
        answers[f"number {pk}"] = next((item for item in items.values() if item["number"] == pk), None)
    for pk in items:
        likewise = dict.fromkeys(each for label in of_item[pk] for each in of_label[label])
        answers[f"labels of {pk}"] = answers[f"walk to labels of {pk}"] = [labels[each] for each in of_item[pk]]
        answers[f"walk to items like {pk}"] = [items[each] for each in likewise]
    for pk in labels:
        answers[f"items of {pk}"] = [items[each] for each in of_label[pk]]
    for team in TEAMS:
        members = [item for item in items.values() if item["team"] == team]
        answers[f"team {team}"] = members
        answers[f"size of {team}"] = [len(members), len(members), bool(members), bool(members)]
        answers[f"places of {team}"] = [[item["id"], item["place"]] for item in members]
    answers["many"] = [items[pk] for pk in IDS if pk in items]
    return answers


async def in_cache(answers: dict[str, Any]) -> dict[str, Any]:
    """What the default cache says, asked for everything at once."""
    asked: dict[str, Any] = {}
    for pk in IDS:
        asked[f"item {pk}"] = Item.cache.get_or_none(id=pk)
        asked[f"label {pk}"] = Label.cache.get_or_none(id=pk)
        asked[f"number {pk}"] = Item.cache.get_or_none(number=pk)
        if f"labels of {pk}" in answers:
            asked[f"labels of {pk}"] = known(Item, pk).labels
            asked[f"walk to labels of {pk}"] = LabelsOf(pk)
            asked[f"walk to items like {pk}"] = LabelledLikewise(pk)
        if f"items of {pk}" in answers:
            asked[f"items of {pk}"] = known(Label, pk).items
    for team in TEAMS:
        asked[f"team {team}"] = Item.cache.filter(team=team)
        asked[f"size of {team}"] = asyncio.gather(
            Item.cache.count(team=team), TeamSize(team), Item.cache.exists(team=team), HasItems(team)
        )
        asked[f"places of {team}"] = Places(team)
    asked["many"] = Item.cache.get_many(list(IDS))

    async def ask(query: Any) -> Any:
        return shown(await query)

    return dict(zip(asked, await asyncio.gather(*map(ask, asked.values())), strict=True))


def known(model: Any, pk: int) -> Any:
    """An instance of a row that is there, whose relations were never loaded."""
    instance = model(id=pk)
    instance._saved_in_db = True
    return instance


def shown(answer: Any) -> Any:
    if isinstance(answer, Item | Label):
        return {name: getattr(answer, name) for name in answer._meta.fields_db_projection}
    return [shown(each) for each in answer] if isinstance(answer, list) else answer


@contextmanager
def asking(cache: ModelCache) -> Iterator[None]:
    """A block in which ``Item.cache`` is this cache's."""
    default = sessions._default
    sessions._default = cache.session
    try:
        yield
    finally:
        sessions._default = default


class Machine(RuleBasedStateMachine):
    """Writes through one cache; another one on the same store hears of nothing, as in a second process, and reads."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.transactions: list[AbstractAsyncContextManager[Any]] = []
        self.scopes: list[local_cache] = []
        self.caches: list[ModelCache] = []
        world.run(self.begin())

    async def begin(self) -> None:
        for table in ("item_label", "item", "label"):
            await self.world.execute(f"DELETE FROM {table}")
        self.world.flush()
        self.caches = [await ModelCache(self.world.store, bulk_limit=2).open() for _ in range(2)]
        sessions.open_sessions.remove(self.caches[1].session)
        labels = [await Label.create(id=pk) for pk in IDS]
        for pk in IDS[:2]:
            item = await Item.create(id=pk, number=pk)
            await item.labels.add(*labels[:pk])

    def teardown(self) -> None:
        while self.transactions:
            self.end(commit=False)
        self.world.run(self.close())

    async def close(self) -> None:
        while self.scopes:
            self.scopes.pop().__exit__(None, None, None)
        for cache in self.caches:
            await cache.close()

    @invariant()
    def caches_agree_with_the_database(self) -> None:
        self.world.run(self.check())

    async def check(self) -> None:
        expected = await in_database(self.world)
        first, second = self.caches
        for _ in range(2):
            assert differing(expected, await in_cache(expected)) == {}
        if not self.transactions:
            with asking(second):
                task = asyncio.create_task(in_cache(expected), context=context_without_scope())
                assert differing(expected, await task) == {}
        assert first.session is sessions._default

    def do(self, work: Callable[[], Awaitable[Any]]) -> None:
        async def wait() -> None:
            await work()

        self.world.run(wait())

    @rule(pk=ids, values=values)
    def create(self, pk: int, values: dict[str, Any]) -> None:
        async def work() -> None:
            if await Item.get_or_none(id=pk) is None and await is_free(values):
                await Item.create(id=pk, **values)

        self.do(work)

    @rule(pk=ids, values=some_values, way=st.sampled_from(["save", "fields", "update", "queryset", "bulk"]))
    def change(self, pk: int, values: dict[str, Any], way: str) -> None:
        async def work() -> None:
            item = await Item.get_or_none(id=pk)
            if item is None or not await is_free(values):
                return
            if way == "update":
                return await Item.cache.update(item, **values)
            if way == "queryset":
                await Item.filter(id=pk).update(**values)
                return
            item.update_from_dict(values)
            if way == "bulk":
                await Item.bulk_update([item], fields=list(values))
            else:
                await item.save(update_fields=list(values) if way == "fields" else None)

        self.do(work)

    @rule(old=teams, new=teams)
    def move_all(self, old: int, new: int) -> None:
        self.do(lambda: Item.filter(team=old).update(team=new, place=F("place") + 1))

    @rule(pk=ids, swap=ids)
    def swap_numbers(self, pk: int, swap: int) -> None:
        async def work() -> None:
            one, two = await Item.get_or_none(id=pk), await Item.get_or_none(id=swap)
            if one and two and pk != swap:
                async with in_transaction():
                    one.number, two.number, number = two.number, None, one.number
                    await two.save()
                    await one.save()
                    await Item.filter(id=swap).update(number=number)

        self.do(work)

    @rule(pk=ids, instance=st.booleans())
    def delete(self, pk: int, instance: bool) -> None:
        async def work() -> None:
            item = await Item.get_or_none(id=pk)
            await (item.delete() if instance and item else Item.filter(id=pk).delete())

        self.do(work)

    @rule(team=teams)
    def delete_all(self, team: int) -> None:
        self.do(lambda: Item.filter(team=team).delete())

    @rule(pks=some_ids, team=teams, place=places)
    def bulk_create(self, pks: set[int], team: int, place: int) -> None:
        async def work() -> None:
            taken = {item.id for item in await Item.all()}
            await Item.bulk_create([Item(id=pk, team=team, place=place) for pk in sorted(pks - taken)])

        self.do(work)

    @rule(team=teams, place=places)
    def bulk_update(self, team: int, place: int) -> None:
        async def work() -> None:
            items = await Item.all()
            for item in items:
                item.team, item.place = team, place
            if items:
                await Item.bulk_update(items, fields=["team", "place"])

        self.do(work)

    @rule(pk=ids, place=places)
    def save_label(self, pk: int, place: int) -> None:
        async def work() -> None:
            label = await Label.get_or_none(id=pk) or Label(id=pk)
            label.place = place
            await label.save()

        self.do(work)

    @rule(pk=ids)
    def delete_label(self, pk: int) -> None:
        self.do(lambda: Label.filter(id=pk).delete())

    @rule(pk=ids, others=some_ids, forward=st.booleans(), way=st.sampled_from(["add", "add", "remove", "clear"]))
    def link(self, pk: int, others: set[int], forward: bool, way: str) -> None:
        async def work() -> None:
            own, other = (Item, Label) if forward else (Label, Item)
            instance = await own.get_or_none(id=pk)
            if instance is None:
                return
            relation: Any = getattr(instance, "labels" if forward else "items")
            rows = await other.filter(id__in=others)
            if way == "clear":
                await relation.clear()
            elif rows:
                await getattr(relation, way)(*rows)

        self.do(work)

    @rule(pk=ids, team=teams, place=places, by_row=st.booleans())
    def write_behind_its_back(self, pk: int, team: int, place: int, by_row: bool) -> None:
        async def work() -> None:
            if by_row:
                await self.world.execute(f"UPDATE item SET place = {place} WHERE id = {pk}")
                await Item.cache.invalidate(pk)
            else:
                await self.world.execute(f"UPDATE item SET place = {place}, team = {team} WHERE id = {pk}")
                await Item.cache.clear()

        self.do(work)

    @rule(model=st.sampled_from([Item, Label, None]))
    def clear(self, model: Any) -> None:
        cache = self.caches[0]
        self.do(lambda: cache.clear(model) if model else cache.clear_all())

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @precondition(lambda self: self.world.memory is not None)
    @rule(seconds=st.sampled_from(SECONDS))
    def expire(self, seconds: float) -> None:
        self.world.seconds += seconds

    @precondition(lambda self: len(self.scopes) < 2)
    @rule()
    def enter_scope(self) -> None:
        async def work() -> None:
            self.scopes.append(local_cache())
            self.scopes[-1].__enter__()

        self.do(work)

    @precondition(lambda self: self.scopes)
    @rule()
    def leave_scope(self) -> None:
        async def work() -> None:
            self.scopes.pop().__exit__(None, None, None)

        self.do(work)

    @precondition(lambda self: len(self.transactions) < 3)
    @rule()
    def start_transaction(self) -> None:
        async def work() -> None:
            self.transactions.append(in_transaction())
            await self.transactions[-1].__aenter__()

        self.do(work)

    @precondition(lambda self: self.transactions)
    @rule(commit=st.booleans())
    def end_transaction(self, commit: bool) -> None:
        self.end(commit=commit)

    def end(self, *, commit: bool) -> None:
        error = None if commit else Rollback()
        self.do(lambda: self.transactions.pop().__aexit__(type(error) if error else None, error, None))


async def is_free(values: dict[str, Any]) -> bool:
    """Whether no row has the number."""
    number = values.get("number")
    return number is None or not await Item.exists(number=number)


def differing(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}


def test_the_caches_say_what_the_database_says(
    db_url: DatabaseUrl, backend_url: str, request: pytest.FixtureRequest
) -> None:
    cheap = db_url.dialect == "sqlite" and backend_url == "memory://"
    long = os.environ.get("HYPOTHESIS_PROFILE") == "long"
    with asyncio.Runner() as runner:
        opened = tortoise_on(db_url, "tests.stateful_models")
        connection = runner.run(opened.__aenter__())
        world = World(runner, connection, backend_url, lambda: request.getfixturevalue("redis_server").flush())
        try:
            runner.run(world.store.open())
            run_state_machine_as_test(
                lambda: Machine(world),
                settings=settings(
                    max_examples=3000 if long else 60 if cheap else 4,
                    stateful_step_count=100 if long else 20,
                    deadline=None,
                    derandomize=not long,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(world.store.close())
            runner.run(opened.__aexit__(None, None, None))
