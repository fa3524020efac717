"""Who does what at the same time. Each scenario is small: most races need one row, one reader and one writer."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, ModelCache, local_cache
from tests.interleavings.models import Artist, DatedArtist, RankedArtist, RefilledArtist
from tests.interleavings.schedule import Actor, Choose, Mishap, Run
from tests.interleavings.stage import AnyArtist, LookUp, Rows, Stage, as_rows

A: Rows = ((1, "a", 1, 0),)
TWO: Rows = ((1, "a", 1, 0), (2, "b", 1, 0))
NONE: Rows = ()

RANKING = LookUp("ranking", 1)
BY_ID, BY_NAME, BY_RANK = LookUp("id", 1), LookUp("name", "a"), LookUp("rank", 1)

Role = Callable[[Stage], Coroutine[Any, Any, None]]


class RolledBack(Exception):
    """Ends a transaction."""


class Scenario(NamedTuple):
    """Some actors, the rows that there are, and the caches that know them at the beginning."""

    rows: Rows
    roles: dict[str, Role]
    warm: Callable[[Stage], Sequence[ModelCache]] = lambda stage: ()
    may_leave: str = ""
    """The states of entries that may be left, to expire: where somebody crashes, or takes too long."""
    cancels: bool = True
    """Whether the actors may be cancelled."""
    model: AnyArtist = Artist

    async def play(self, stage: Stage, choose: Choose, mishap: Mishap = None) -> Run:
        """Plays it once. Raises what is wrong."""
        actors: dict[str, Actor] = {name: partial(role, stage) for name, role in self.roles.items()}
        return await stage.play(self.rows, actors, choose, mishap, warm=self.warm(stage), may_leave=self.may_leave)


def both(stage: Stage) -> Sequence[ModelCache]:
    return stage.near, stage.far


# Readers ------------------------------------------------------------------------------------------------


def near(*look_ups: LookUp) -> Role:
    """Look-ups one after the other, in the process that writes."""

    async def role(stage: Stage) -> None:
        for each in look_ups:
            await stage.look_up(each, stage.near)

    return role


def far(*look_ups: LookUp) -> Role:
    """Look-ups one after the other, in another process."""

    async def role(stage: Stage) -> None:
        for each in look_ups:
            await stage.look_up(each, stage.far)

    return role


def together(*look_ups: LookUp) -> Role:
    """Look-ups in one tick."""

    async def role(stage: Stage) -> None:
        await asyncio.gather(*[stage.look_up(each, stage.near) for each in look_ups])

    return role


async def beside_a_cancelled_one(stage: Stage) -> None:
    """Look-ups in one tick, of which the first is given up."""
    given_up, other = [asyncio.create_task(stage.look_up(each, stage.near)) for each in (BY_ID, BY_NAME)]
    await asyncio.sleep(0)
    given_up.cancel()
    await other
    await asyncio.gather(given_up, return_exceptions=True)


async def in_a_scope(stage: Stage) -> None:
    """A request that looks up, writes, and looks up what it wrote."""
    async with local_cache():
        await stage.look_up(BY_NAME, stage.near)
        await stage.artist(1, followers=10).save()  # not the scope's own instance, which would have it already
        written = [rows == ((1, "a", 1, 10),) for rows in stage.history].index(True)
        await stage.look_up(BY_NAME, stage.near, since=written)
        await stage.look_up(BY_ID, stage.near, since=written)


# Writers ------------------------------------------------------------------------------------------------


def first(*roles: Role) -> Role:
    """One role after the other."""

    async def role(stage: Stage) -> None:
        for each in roles:
            await each(stage)

    return role


def save(pk: int = 1, **changes: Any) -> Role:
    async def role(stage: Stage) -> None:
        await stage.artist(pk, **changes).save()

    return role


def save_some(**changes: Any) -> Role:
    async def role(stage: Stage) -> None:
        await stage.artist(1, **changes).save(update_fields=list(changes))

    return role


async def delete(stage: Stage) -> None:
    await stage.artist(1).delete()


def create(pk: int = 1, name: str = "a", rank: int = 1) -> Role:
    async def role(stage: Stage) -> None:
        with suppress(IntegrityError):
            await stage.model.create(id=pk, name=name, rank=rank)

    return role


async def create_without_pk(stage: Stage) -> None:
    with suppress(IntegrityError):
        await stage.model.create(name="c", rank=1)


def update_where(**changes: Any) -> Role:
    async def role(stage: Stage) -> None:
        await stage.model.filter(rank=1).update(**changes)

    return role


async def delete_where(stage: Stage) -> None:
    await stage.model.filter(rank=1).delete()


async def bulk_create(stage: Stage) -> None:
    with suppress(IntegrityError):
        await stage.model.bulk_create([stage.model(id=1, name="a", rank=1), stage.model(id=2, name="b", rank=1)])


def transaction(*, rolls_back: bool = False, reads: bool = False, **changes: Any) -> Role:
    async def role(stage: Stage) -> None:
        with suppress(RolledBack):
            async with in_transaction():
                artist = stage.artist(1, **changes)
                await artist.save()
                if reads:
                    found = await stage.model.cache.get(id=1)
                    assert (found.name, found.followers) == (artist.name, artist.followers), "its own write is not seen"
                    assert await stage.model.cache.get_or_none(name=artist.name), "its own write is not found"
                if rolls_back:
                    raise RolledBack

    return role


async def savepoint_rolled_back(stage: Stage) -> None:
    async with in_transaction():
        await stage.artist(1, followers=5).save()
        with suppress(RolledBack):
            async with in_transaction():
                await stage.artist(1, name="c").save()
                raise RolledBack


async def invalidate(stage: Stage) -> None:
    await stage.model.cache.invalidate(1)


def update_some(**values: Any) -> Role:
    async def role(stage: Stage) -> None:
        await stage.model.cache.update(stage.artist(1), **values)

    return role


async def refresh(stage: Stage) -> None:
    began = stage.now()
    stage.check(BY_ID, as_rows(await stage.model.cache.refresh(id=1)), began)


async def forget_all(stage: Stage) -> None:
    with suppress(BackendError):
        await stage.model.cache.clear()


def crash_after_commit(**changes: Any) -> Role:
    """Another process, which ends between COMMIT and clear; then the time that its intents take to expire."""

    async def role(stage: Stage) -> None:
        rows = stage.near.session.bindings[stage.model].rows
        try:
            await stage.store.mark([rows.key(1)], b"c" * 16, 30_000)
        except BackendError:
            return
        columns = ", ".join(f"{name} = {value!r}" for name, value in changes.items())
        await rows.schema.client.execute_query(f"UPDATE {rows.schema.table} SET {columns} WHERE id = 1")
        await seconds(31)(stage)

    return role


def seconds(*steps: float) -> Role:
    """Time passes, step by step."""

    async def role(stage: Stage) -> None:
        for step in steps:

            async def pass_by(step: float = step) -> None:
                stage.clock.now += step

            await stage.scheduler.step(f"{step} seconds pass", pass_by)

    return role


SCENARIOS: dict[str, Scenario] = {
    # One reader, one writer.
    "save, by id": Scenario(A, {"reader": near(BY_ID, BY_ID), "writer": save(followers=1)}),
    "save, by id elsewhere": Scenario(A, {"reader": far(BY_ID, BY_ID), "writer": save(followers=1)}),
    "save, by name elsewhere": Scenario(A, {"reader": far(BY_NAME), "writer": save(followers=1)}),
    "save, warm": Scenario(A, {"reader": far(BY_ID, BY_NAME, BY_RANK), "writer": save(followers=1)}, both),
    "re-key, by name": Scenario(A, {"reader": near(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}),
    "re-key, by name elsewhere": Scenario(A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}),
    "re-key, warm": Scenario(A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}, both),
    "moved list, by rank": Scenario(A, {"reader": near(BY_RANK, LookUp("rank", 2)), "writer": save(rank=2)}),
    "some columns, warm": Scenario(A, {"reader": far(LookUp("rank", 2), BY_NAME), "writer": save_some(rank=2)}, both),
    "delete, by name": Scenario(A, {"reader": near(BY_NAME, BY_ID), "writer": delete}),
    "delete, by rank elsewhere": Scenario(A, {"reader": far(BY_RANK), "writer": delete}, both),
    "create over an absence": Scenario(NONE, {"reader": near(BY_NAME, BY_ID), "writer": create()}, both),
    "create over an absence, elsewhere": Scenario(NONE, {"reader": far(BY_NAME, BY_RANK), "writer": create()}),
    # Cancelled while its row is inserted, nobody learns the key, under which "no such row" may be cached.
    "create with a generated key": Scenario(
        A, {"reader": far(LookUp("name", "c"), BY_RANK), "writer": create_without_pk}, both, cancels=False
    ),
    # Readers of one process that need the same.
    "single flight": Scenario(A, {"one": near(BY_ID), "two": near(BY_ID), "writer": save(followers=1)}),
    "index and row": Scenario(A, {"one": near(BY_NAME), "two": near(BY_ID), "writer": save(followers=1)}),
    "one tick": Scenario(A, {"reader": together(BY_NAME, BY_RANK, BY_ID), "writer": save(followers=1)}),
    "two indexes to one row": Scenario(A, {"reader": together(BY_NAME, BY_RANK), "writer": save(followers=1)}),
    "readers of two processes": Scenario(A, {"one": near(BY_NAME), "two": far(BY_NAME), "writer": save(name="b")}),
    "beside a cancelled one": Scenario(A, {"readers": beside_a_cancelled_one, "writer": save(followers=1)}),
    # Transactions.
    "transaction, by id": Scenario(A, {"reader": near(BY_ID, BY_ID), "writer": transaction(followers=1)}),
    "transaction that reads": Scenario(A, {"reader": far(BY_ID), "writer": transaction(followers=1, reads=True)}, both),
    "rollback": Scenario(A, {"reader": far(BY_NAME, BY_ID), "writer": transaction(name="b", rolls_back=True)}, both),
    "savepoint": Scenario(A, {"reader": far(BY_ID), "writer": savepoint_rolled_back}, both),
    # Several writers.
    "two saves": Scenario(A, {"reader": far(BY_ID), "one": save(followers=1), "two": save(followers=2)}),
    "two saves, looked up twice": Scenario(
        A, {"one": save(followers=1), "two": first(save(followers=2), far(BY_ID, BY_ID))}
    ),
    "save and transaction": Scenario(
        A, {"reader": near(BY_ID), "one": save(followers=1), "two": transaction(name="b")}, both
    ),
    "re-key and delete": Scenario(A, {"reader": far(BY_NAME), "one": save(name="b"), "two": delete}, both),
    "delete and create": Scenario(A, {"reader": far(BY_NAME), "one": delete, "two": create()}, both),
    "save and query set": Scenario(
        TWO, {"reader": far(BY_NAME), "one": save(1, name="c"), "two": update_where(followers=3)}, both
    ),
    # In bulk.
    "update of a query set": Scenario(A, {"reader": near(BY_ID, BY_NAME), "writer": update_where(followers=1)}, both),
    "re-key by a query set": Scenario(
        A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": update_where(name="b")}
    ),
    "delete of a query set": Scenario(A, {"reader": far(BY_RANK, BY_NAME), "writer": delete_where}, both),
    "past the limit": Scenario(TWO, {"reader": far(BY_ID, BY_ID), "writer": update_where(followers=1)}, both),
    "past the limit, by name": Scenario(TWO, {"reader": near(BY_NAME), "writer": update_where(rank=2)}),
    "past the limit, deleted": Scenario(TWO, {"reader": far(BY_NAME, BY_ID), "writer": delete_where}, both),
    "past the limit, created": Scenario(NONE, {"reader": far(BY_NAME, BY_RANK), "writer": bulk_create}, both),
    # Computed.
    "computed": Scenario(A, {"reader": far(RANKING, RANKING), "writer": save(followers=1)}, model=RankedArtist),
    "computed, moved away": Scenario(A, {"reader": far(RANKING), "writer": save(rank=2)}, both, model=RankedArtist),
    "computed, moved in a transaction": Scenario(
        A, {"reader": near(RANKING), "writer": transaction(rank=2)}, both, model=RankedArtist
    ),
    "computed, of a query set": Scenario(
        A, {"reader": far(RANKING), "writer": update_where(rank=2)}, both, model=RankedArtist
    ),
    "computed, deleted and created": Scenario(
        A, {"reader": far(RANKING), "one": delete, "two": create(2, "b")}, both, model=RankedArtist
    ),
    "computed, together": Scenario(
        A, {"one": near(RANKING), "two": near(RANKING), "writer": save(followers=1)}, model=RankedArtist
    ),
    # By hand, in a scope, after a crash.
    "invalidated by hand": Scenario(A, {"reader": far(BY_ID), "one": save(followers=1), "two": invalidate}),
    "some columns": Scenario(A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": update_some(name="b")}, both),
    "refreshed by hand": Scenario(A, {"one": refresh, "reader": far(BY_ID), "two": save(followers=1)}, both),
    "cleared by hand": Scenario(A, {"reader": far(BY_NAME), "one": save(followers=1), "two": forget_all}),
    "in a scope": Scenario(A, {"request": in_a_scope, "writer": save(followers=1)}),
    "a writer that crashed": Scenario(
        A, {"reader": near(BY_NAME), "writer": crash_after_commit(followers=1)}, may_leave="LW"
    ),
    # Stale copies, which may be answered for ten seconds.
    "a stale copy": Scenario(
        A,
        {"reader": far(BY_ID, BY_ID), "writer": save(followers=1), "time": seconds(6, 6)},
        both,
        model=DatedArtist,
        may_leave="L",
    ),
    "a stale copy, twice": Scenario(
        A,
        {"reader": far(BY_ID, BY_ID), "writer": first(save(followers=1), seconds(6), save(followers=2), seconds(6))},
        both,
        model=DatedArtist,
        may_leave="L",
    ),
    "stale copies by name": Scenario(
        A,
        {"one": far(BY_NAME), "two": near(BY_NAME, LookUp("name", "b")), "writer": save(name="b")},
        both,
        model=DatedArtist,
        may_leave="L",
    ),
    "a stale list": Scenario(
        A, {"reader": far(BY_RANK), "one": save(rank=2), "two": create(2, "b")}, both, model=DatedArtist
    ),
    "a stale copy, rolled back": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": transaction(followers=1, rolls_back=True)}, both, model=DatedArtist
    ),
    "a stale copy of what is deleted": Scenario(
        A, {"reader": far(BY_NAME, BY_ID), "writer": delete}, both, model=DatedArtist
    ),
    "a stale absence": Scenario(NONE, {"reader": far(BY_NAME, BY_ID), "writer": create()}, both, model=DatedArtist),
    # Filled again by the writer's process.
    "filled again": Scenario(
        A, {"reader": far(BY_ID), "writer": first(save(followers=1), save(followers=2))}, both, model=RefilledArtist
    ),
}
