"""A state machine that makes writes of every kind in any order, and compares the caches with the database.

Two caches on one store take turns as if they were two processes. The oracle is the database, read without the cache.
For lookups that may be stale (``Loose``), the oracle is every state of the database in the last ``ALLOWTIME`` seconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connections
from tortoise.exceptions import DoesNotExist, IntegrityError
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import Backend, MemoryBackend, ModelCache, Page, RedisBackend, local_cache, open_cache
from aiomodelcache.backends.protocol import Clear, Save
from aiomodelcache.scopes.request import context_without_scope
from aiomodelcache.testing import CountingBackend, count_ops
from tests.support.models.stateful_models import (
    ALLOWTIME,
    Eager,
    EagerPlaces,
    HasItems,
    Item,
    Label,
    LabelledLikewise,
    LabelsOf,
    Loose,
    LoosePlaces,
    LooseSetting,
    Numbered,
    OwnerOf,
    Places,
    Setting,
    SettingOf,
    TeamSize,
    members,
    overview,
    report,
    setting,
)
from tests.support.state_machine_queries import KINDS, Question, answer

IDS = range(1, 4)
TEAMS = (1, 2)
SECONDS = (ALLOWTIME * 0.6, ALLOWTIME * 1.1, 61.0, 1_000_000.0)
"""Steps of the clock in seconds.

They are shorter and longer than ``allowtime``, longer than absences are cached, and longer than all lifetimes.
"""

ids = st.sampled_from(IDS)
models = st.sampled_from([Item, Item, Eager, Loose])
numbers = st.sampled_from([None, *IDS])
teams = st.sampled_from(TEAMS)
places = st.integers(0, 2)
values = st.fixed_dictionaries({"number": numbers, "team": teams, "place": places})
some_values = st.fixed_dictionaries({}, optional={"number": numbers, "team": teams, "place": places}).filter(bool)
some_ids = st.sets(ids, min_size=1)


class Rollback(Exception):
    """The error that rolls back a transaction."""


class Store(CountingBackend):
    """A store that can lose the next ``clear``, as if the writer's process was killed after COMMIT."""

    losing = False

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        if self.losing:
            self.losing = False
            return [True for _ in clears]
        return await super().clear(clears, token, stamps)

    @property
    def clear_and_save(self) -> Callable[..., Awaitable[list[bool]]]:
        clear_and_save = super().clear_and_save

        async def clear(saves: Sequence[Save], *arguments: Any) -> list[bool]:
            if self.losing:
                self.losing = False
                return [True for _ in saves]
            return await clear_and_save(saves, *arguments)

        return clear


class World:
    """An event loop with an open Tortoise, and the store."""

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
        store: Backend = self.memory or RedisBackend(backend_url)
        self.store = Store(store)
        self.answered_stale = self.reset = self.written_through = 0
        """The numbers of stale answers, of ``RESET`` refills, and of rows that writers stored, of all caches."""

    def now(self) -> float:
        """Returns the time of the store's clock in seconds."""
        return self.seconds if self.memory is not None else time.monotonic()

    async def execute(self, sql: str) -> list[Any]:
        """Runs raw SQL, in the open transaction if there is one."""
        return list((await get_connections().get(self.connection_name).execute_query(sql))[1])

    def flush(self) -> None:
        """Empties the store."""
        if self.memory is not None:
            self.memory.__init__(clock=lambda: self.seconds)  # type: ignore[misc]
        else:
            self.flush_redis()


async def expected_answers(world: World, questions: dict[str, Question]) -> dict[str, Any]:
    """Returns the answers that the caches must have, by name."""
    items = {item.id: shown(item) for item in await Item.all()}
    labels = {label.id: shown(label) for label in await Label.all()}
    pairs = {(row["item_id"], row["label_id"]) for row in await world.execute("SELECT * FROM item_label")}
    of_item = {pk: [each for each in labels if (pk, each) in pairs] for pk in items}
    of_label = {pk: [each for each in items if (each, pk) in pairs] for pk in labels}
    answers: dict[str, Any] = {}
    for pk in IDS:
        answers[f"item {pk}"] = items.get(pk)
        answers[f"label {pk}"] = labels.get(pk)
        answers[f"number {pk}"] = next((item for item in items.values() if item["number"] == pk), None)
        owner = items.get(labels[pk]["owner_id"]) if pk in labels else None
        answers[f"path to owner of {pk}"] = owner
        if pk in labels:
            answers[f"owner of {pk}"] = answers[f"prefetched owner of {pk}"] = owner
    for pk in items:
        likewise = dict.fromkeys(each for label in of_item[pk] for each in of_label[label])
        answers[f"labels of {pk}"] = answers[f"path to labels of {pk}"] = [labels[each] for each in of_item[pk]]
        answers[f"path to items like {pk}"] = [items[each] for each in likewise]
    for pk in labels:
        answers[f"items of {pk}"] = [items[each] for each in of_label[pk]]
    for team in TEAMS:
        members = [item for item in items.values() if item["team"] == team]
        answers[f"team {team}"] = members
        answers[f"size of {team}"] = [len(members), len(members), bool(members), bool(members)]
        answers[f"places of {team}"] = [[item["id"], item["place"]] for item in members]
        page = [members[1:2], len(members), len(members) > 2]
        answers[f"page of {team}"] = page
        answers[f"pages of {team}"] = [[members[:1], len(members), len(members) > 1], page if members else None]
    answers["many"] = [items[pk] for pk in IDS if pk in items]
    owner_of = {pk: items.get(label["owner_id"]) for pk, label in labels.items()}
    for team in TEAMS:
        answers[f"members of {team}"] = [
            [pk, item["place"], [[each, (owner := owner_of[each]) and owner["place"]] for each in sorted(of_item[pk])]]
            for pk, item in items.items()
            if item["team"] == team
        ]
    answers["overview"] = [
        [pk, item["number"], item["place"], sorted(of_item[pk]), [each for each in IDS if owner_of.get(each) is item]]
        for pk, item in items.items()
    ]
    sizes = [[answers[f"members of {team}"], answers[f"size of {team}"][0]] for team in TEAMS]
    answers["report"] = [*sizes, answers["overview"]]
    answers |= await expected_numbered(Eager)
    return answers | {name: await answer(question.uncached) for name, question in questions.items()}


async def expected_numbered(model: type[Numbered]) -> dict[str, Any]:
    """Returns the answers that the caches must have for a model without relations."""
    rows = {row.id: shown(row) for row in await model.all()}
    answers: dict[str, Any] = {}
    for pk in IDS:
        answers[f"{model.__name__} {pk}"] = rows.get(pk)
        answers[f"{model.__name__} number {pk}"] = next((row for row in rows.values() if row["number"] == pk), None)
    for team in TEAMS:
        members = [row for row in rows.values() if row["team"] == team]
        answers[f"{model.__name__} team {team}"] = members
        answers[f"{model.__name__} places of {team}"] = [[row["id"], row["place"]] for row in members]
    return answers


async def expected_settings() -> dict[str, Any]:
    """Returns the expected values that depend on no model."""
    rows = {row.id: row.value for row in await Setting.all()}
    return {f"setting {pk}": rows.get(pk) for pk in IDS}


async def cached_answers(answers: dict[str, Any], questions: dict[str, Question]) -> dict[str, Any]:
    """Makes all lookups of the default cache in one tick and returns the answers."""
    lookups = numbered_lookups(Eager, EagerPlaces)
    owners = {
        pk: owner and owner["id"]
        for pk in IDS
        if f"label {pk}" in answers
        for owner in [answers[f"path to owner of {pk}"]]
    }
    for pk in IDS:
        lookups[f"item {pk}"] = Item.cache.get_or_none(id=pk)
        lookups[f"label {pk}"] = Label.cache.get_or_none(id=pk)
        lookups[f"number {pk}"] = Item.cache.get_or_none(number=pk)
        if f"labels of {pk}" in answers:
            lookups[f"labels of {pk}"] = saved_instance(Item, pk).labels
            lookups[f"path to labels of {pk}"] = LabelsOf(pk)
            lookups[f"path to items like {pk}"] = LabelledLikewise(pk)
        lookups[f"path to owner of {pk}"] = OwnerOf(pk)
        if f"items of {pk}" in answers:
            lookups[f"items of {pk}"] = saved_instance(Label, pk).items
            lookups[f"owner of {pk}"] = saved_instance(Label, pk, owners[pk]).owner
    for team in TEAMS:
        lookups[f"team {team}"] = Item.cache.filter(team=team)
        lookups[f"size of {team}"] = asyncio.gather(
            Item.cache.count(team=team), TeamSize(team), Item.cache.exists(team=team), HasItems(team)
        )
        lookups[f"places of {team}"] = Places(team)
        lookups[f"page of {team}"] = Item.cache.filter(team=team).page(2, 1)
        lookups[f"pages of {team}"] = first_pages(team)
        lookups[f"members of {team}"] = members(team)
    lookups |= {name: answer(question.cached) for name, question in questions.items()}
    lookups["overview"] = overview()
    lookups["report"] = report()
    lookups["many"] = Item.cache.get_many(list(IDS))
    labels = [saved_instance(Label, pk, owners[pk]) for pk in IDS if f"items of {pk}" in answers]
    found, _ = await asyncio.gather(answers_to(lookups), Label.cache.prefetch(labels, "owner"))
    return found | {f"prefetched owner of {label.id}": shown(label.owner) for label in labels}


async def first_pages(team: int) -> list[Page[Item] | None]:
    """Returns the first page of a team, and the one after its cursor, if it has one."""
    first = await Item.cache.filter(team=team).after(None, 1)
    return [first, None if first.cursor is None else await Item.cache.filter(team=team).after(first.cursor, 1)]


def numbered_lookups(model: Any, places: Any) -> dict[str, Any]:
    """Returns the lookups whose answers are those of ``expected_numbered``."""
    lookups: dict[str, Any] = {}
    for pk in IDS:
        lookups[f"{model.__name__} {pk}"] = model.cache.get_or_none(id=pk)
        lookups[f"{model.__name__} number {pk}"] = model.cache.get_or_none(number=pk)
    for team in TEAMS:
        lookups[f"{model.__name__} team {team}"] = model.cache.filter(team=team)
        lookups[f"{model.__name__} places of {team}"] = places(team)
    return lookups


async def answers_to(lookups: dict[str, Any]) -> dict[str, Any]:
    """Makes lookups in one tick and returns their answers."""

    async def answer(query: Any) -> Any:
        try:
            return shown(await query)
        except DoesNotExist:
            return None

    return dict(zip(lookups, await asyncio.gather(*map(answer, lookups.values())), strict=True))


class Past:
    """The expected answers of lookups that may be stale, with the times of their changes in seconds."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.until: list[float] = []

    def learn(self, answers: dict[str, Any], now: float) -> None:
        """Appends the answers that are expected from now on."""
        if not self.answers or self.answers[-1] != answers:
            self.answers.append(answers)
            self.until.append(now)  # the end of the previous answers, since there is one write in between

    def drop_old(self) -> None:
        """Drops all but the latest answers, which alone are allowed from now on."""
        del self.answers[:-1], self.until[:-1]

    def within(self, seconds: float, now: float) -> list[dict[str, Any]]:
        """Returns the latest answers, and those that were expected within the last seconds."""
        ended = [*self.until[1:], now]
        return [answers for answers, end in zip(self.answers, ended, strict=True) if end >= now - seconds]


def is_allowed(name: str, found: Any, past: Sequence[dict[str, Any]]) -> bool:
    """Returns True if a class with ``allowtime`` may give this answer.

    Each row of a list may have an age of its own, and the order of a list is as old as the list.
    """
    model, _, team = name.partition(" team ")
    if not team:
        return any(found == answers[name] for answers in past)
    listed = {row["id"]: row for row in found}
    if len(listed) < len(found):
        return False
    for pk in IDS:
        seen = [answers[f"{model} {pk}"] for answers in past]
        if pk in listed and not (listed[pk]["team"] == int(team) and listed[pk] in seen):
            return False
        if pk not in listed and all(row is not None and row["team"] == int(team) for row in seen):
            return False
    return True


def saved_instance(model: Any, pk: int, owner: int | None = None) -> Any:
    """Returns an instance of a saved row without loaded relations."""
    instance = model(id=pk, owner_id=owner) if model is Label else model(id=pk)
    instance._saved_in_db = True
    return instance


def shown(answer: Any) -> Any:
    if isinstance(answer, Numbered | Label):
        return {name: getattr(answer, name) for name in answer._meta.fields_db_projection}
    if isinstance(answer, Page):
        return [shown(answer.items), answer.total, answer.has_next]
    return [shown(each) for each in answer] if isinstance(answer, list) else answer


@contextmanager
def as_default(cache: ModelCache) -> Iterator[None]:
    """Makes a cache the default one for the block, so that ``Item.cache`` uses it."""
    default = open_cache._default
    open_cache._default = cache.open_cache
    try:
        yield
    finally:
        open_cache._default = default


class Machine(RuleBasedStateMachine):
    """Writes through one of two caches on one store. The other cache sees no writes, as in a second process."""

    def __init__(self, world: World, kind: str = "") -> None:
        """``kind``: the questions that every example asks. By default each chooses a kind."""
        super().__init__()
        self.world = world
        self.kind = kind
        self.questions: dict[str, Question] = {}
        self.transactions: list[AbstractAsyncContextManager[Any]] = []
        self.scopes: list[local_cache] = []
        self.caches: list[ModelCache] = []
        """Both caches. The first one captures the writes."""
        self.past = Past()
        self.checks_loose = True
        self.cached = True
        """True if everything that was read is cached, since no ``clear`` was lost."""
        world.run(self.begin())

    async def begin(self) -> None:
        for table in ("item_label", "label", "item", "eager", "loose", "setting"):
            await self.world.execute(f"DELETE FROM {table}")
        self.world.flush()
        self.caches = [await ModelCache(self.world.store, bulk_limit=2).open() for _ in range(2)]
        open_cache.open_caches.remove(self.caches[1].open_cache)
        labels = [await Label.create(id=pk) for pk in IDS]
        for pk in IDS[:2]:
            item = await Item.create(id=pk, number=pk)
            await item.labels.add(*labels[:pk])
            await Eager.create(id=pk, number=pk)
            await Loose.create(id=pk, number=pk)
        labels[0].owner = item
        await labels[0].save()

    def teardown(self) -> None:
        while self.transactions:
            self.end(commit=False)
        self.world.run(self.close())

    async def close(self) -> None:
        while self.scopes:
            self.scopes.pop().__exit__(None, None, None)
        for cache in self.caches:
            counters = cache.stats.by_cache.values()
            self.world.answered_stale += sum(each.stale for each in counters)
            self.world.reset += sum(each.reset for each in counters)
            self.world.written_through += sum(each.written_through for each in counters)
            await cache.close()

    @initialize(kind=st.sampled_from(list(KINDS)))
    def choose_questions(self, kind: str) -> None:
        self.questions = {f"{kind}: {name}": question for name, question in KINDS[self.kind or kind].items()}

    @invariant()
    def caches_agree_with_the_database(self) -> None:
        self.world.run(self.check())

    async def check(self) -> None:
        expected = await expected_answers(self.world, self.questions)
        first, second = self.caches
        assert first.open_cache is open_cache._default
        assert differing(expected, await cached_answers(expected, self.questions)) == {}
        if self.transactions:  # which read nothing from the caches
            return
        with count_ops(first) as ops:
            assert differing(expected, await cached_answers(expected, self.questions)) == {}
        self.past.learn(await expected_numbered(Loose) | await expected_settings(), self.world.now())
        if self.cached:
            assert ops.statements == []
        await self.check_settings()
        with as_default(second):
            task = asyncio.create_task(cached_answers(expected, self.questions), context=context_without_scope())
            assert differing(expected, await task) == {}
            await self.check_settings()
        if self.checks_loose:
            await self.check_loose()

    async def check_settings(self) -> None:
        """Compares the values that depend on no model, and so need no scope."""
        expected = await expected_settings()
        for value in (SettingOf, setting):
            found = {f"setting {pk}": await value(pk) for pk in IDS}
            assert differing(expected, found) == {}

    @rule()
    def toggle_checks_of_loose(self) -> None:
        """Turns the checks of stale lookups on or off, so several writes may come between two of them."""
        self.checks_loose = not self.checks_loose

    async def check_loose(self) -> None:
        for cache in self.caches:
            past = self.past.within(ALLOWTIME, self.world.now())
            with as_default(cache):
                lookups = numbered_lookups(Loose, LoosePlaces) | {f"setting {pk}": LooseSetting(pk) for pk in IDS}
                found = await asyncio.create_task(answers_to(lookups), context=context_without_scope())
            wrong = {name: answer for name, answer in found.items() if not is_allowed(name, answer, past)}
            assert wrong == {}, [{name: answers[name] for name in wrong} for answers in past]

    @precondition(lambda self: not self.transactions and not self.scopes)
    @rule()
    def switch_to_the_other_process(self) -> None:
        self.caches.reverse()
        open_cache.open_caches[:] = [self.caches[0].open_cache]
        open_cache._default = self.caches[0].open_cache

    @precondition(lambda self: not self.transactions)
    @rule(pk=ids, place=places, deleting=st.booleans())
    def lose_a_clear_after_commit(self, pk: int, place: int, deleting: bool) -> None:
        async def work() -> None:
            item = await Item.get_or_none(id=pk)
            if item is not None:
                item.place, item.number = place, None
                self.world.store.losing = True
                self.cached = False
                await (item.delete() if deleting else item.save())
                self.world.store.losing = False

        self.do(work)

    def do(self, work: Callable[[], Awaitable[Any]]) -> None:
        async def wait() -> None:
            await work()

        self.world.run(wait())

    @rule(model=models, pk=ids, values=values)
    def create(self, model: Any, pk: int, values: dict[str, Any]) -> None:
        async def work() -> None:
            if await model.get_or_none(id=pk) is None and await is_free(model, values):
                await model.create(id=pk, **values)

        self.do(work)

    @rule(pk=ids, place=places)
    def be_refused(self, pk: int, place: int) -> None:
        """Changes a row, which may be the scope's own instance, and gives it the number of another one."""

        async def work() -> None:
            item = await Item.cache.get_or_none(id=pk)
            other = await Item.exclude(id=pk).filter(number__isnull=False).first()
            if item is not None and other is not None:
                item.place, item.number = place, other.number
                with suppress(IntegrityError):
                    async with in_transaction():  # PostgreSQL ends the transaction of a refused statement
                        await item.save()

        self.do(work)

    @rule(
        model=models, pk=ids, values=some_values, way=st.sampled_from(["save", "fields", "update", "queryset", "bulk"])
    )
    def change(self, model: Any, pk: int, values: dict[str, Any], way: str) -> None:
        async def work() -> None:
            item = await model.get_or_none(id=pk)
            if item is None or not await is_free(model, values):
                return
            if way == "update":
                return await model.cache.update(item, **values)
            if way == "queryset":
                await model.filter(id=pk).update(**values)
                return
            item.update_from_dict(values)
            if way == "bulk":
                await model.bulk_update([item], fields=list(values))
            else:
                await item.save(update_fields=list(values) if way == "fields" else None)

        self.do(work)

    @rule(model=models, old=teams, new=teams)
    def move_all(self, model: Any, old: int, new: int) -> None:
        self.do(lambda: model.filter(team=old).update(team=new, place=F("place") + 1))

    @rule(model=models, pk=ids)
    def move_on(self, model: Any, pk: int) -> None:
        async def work() -> None:
            item = await model.get_or_none(id=pk)
            if item is not None:
                item.team = 3 - F("team")
                await item.save()

        self.do(work)

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

    @rule(model=models, pk=ids, instance=st.booleans())
    def delete(self, model: Any, pk: int, instance: bool) -> None:
        async def work() -> None:
            item = await model.get_or_none(id=pk)
            await (item.delete() if instance and item else model.filter(id=pk).delete())

        self.do(work)

    @rule(model=st.sampled_from([Loose, Eager, Item]), place=places)
    def change_places(self, model: Any, place: int) -> None:
        """Changes a column that queries of ``Loose`` ignore unless they name it."""
        self.do(lambda: model.filter(place__not=place).update(place=place))

    @rule(model=models, team=teams)
    def delete_all(self, model: Any, team: int) -> None:
        self.do(lambda: model.filter(team=team).delete())

    @rule(model=models, pks=some_ids, team=teams, place=places)
    def bulk_create(self, model: Any, pks: set[int], team: int, place: int) -> None:
        async def work() -> None:
            taken = {item.id for item in await model.all()}
            await model.bulk_create([model(id=pk, team=team, place=place) for pk in sorted(pks - taken)])

        self.do(work)

    @rule(model=models, team=teams, place=places)
    def bulk_update(self, model: Any, team: int, place: int) -> None:
        async def work() -> None:
            items = await model.all()
            for item in items:
                item.team, item.place = team, place
            if items:
                await model.bulk_update(items, fields=["team", "place"])

        self.do(work)

    @rule(pk=ids, place=places, owner=numbers)
    def save_label(self, pk: int, place: int, owner: int | None) -> None:
        async def work() -> None:
            label = await Label.get_or_none(id=pk) or Label(id=pk)
            label.place = place
            label.owner_id = owner if await Item.exists(id=owner) else None
            await label.save()

        self.do(work)

    @rule(pk=ids)
    def delete_label(self, pk: int) -> None:
        self.do(lambda: Label.filter(id=pk).delete())

    @rule(pk=ids, others=some_ids, forward=st.booleans(), way=st.sampled_from(["add", "add", "remove", "clear"]))
    def change_many_to_many(self, pk: int, others: set[int], forward: bool, way: str) -> None:
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

    @rule(model=models, pk=ids, place=places)
    def write_by_raw_sql_and_invalidate(self, model: Any, pk: int, place: int) -> None:
        async def work() -> None:
            await self.world.execute(f"UPDATE {model.__name__.lower()} SET place = {place} WHERE id = {pk}")
            await model.cache.invalidate(pk)

        self.do(work)

    @rule(model=models)
    def write_all_by_raw_sql_and_clear(self, model: Any) -> None:
        async def work() -> None:
            await self.world.execute(f"UPDATE {model.__name__.lower()} SET place = place + 1, team = 3 - team")
            await model.cache.clear()

        self.do(work)

    @rule(pk=ids, value=places)
    def write_setting(self, pk: int, value: int) -> None:
        async def work() -> None:
            await Setting.update_or_create(id=pk, defaults={"value": value})
            await SettingOf(pk).invalidate()
            await LooseSetting(pk).invalidate()
            await setting.invalidate(pk)

        self.do(work)

    @rule(model=models, pk=ids, by=st.sampled_from(["id", "number", "team"]))
    def refresh(self, model: Any, pk: int, by: str) -> None:
        """Asserts that ``refresh`` returns the row or the rows in the database."""

        async def work() -> None:
            key = {by: min(pk, TEAMS[-1]) if by == "team" else pk}
            rows = shown(await model.filter(**key))
            try:
                found = shown(await model.cache.refresh(**key))
            except DoesNotExist:
                found = []
            assert (found if by == "team" else [found] if found else []) == rows

        self.do(work)

    @rule(model=st.sampled_from([Item, Label, Eager, Loose, None]))
    def clear(self, model: Any) -> None:
        cache = self.caches[0]
        self.do(lambda: cache.clear(model) if model else cache.clear_all())

    @rule()
    def flush(self) -> None:
        self.world.flush()
        self.past.drop_old()
        self.cached = True

    @precondition(lambda self: self.world.memory is not None)
    @rule(seconds=st.sampled_from(SECONDS))
    def expire(self, seconds: float) -> None:
        self.world.seconds += seconds
        self.cached = self.cached or seconds > 60

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


async def is_free(model: Any, values: dict[str, Any]) -> bool:
    """Returns True if no row has the number."""
    number = values.get("number")
    return number is None or not await model.exists(number=number)


def differing(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
