"""The actors of scenarios: readers, writers and others."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, ModelCache, deferred_invalidation, local_cache
from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent
from tests.protocol.interleavings.database import CONNECTION
from tests.protocol.interleavings.questions import ARTISTS, LookUp, Question, Rows, State, World, as_rows
from tests.protocol.interleavings.schedule import Actor, Choose, Mishap, Run
from tests.protocol.interleavings.stage import Stage

A: Rows = ((1, "a", 1, 0),)
TWO: Rows = ((1, "a", 1, 0), (2, "b", 1, 0))
NONE: Rows = ()

BY_ID, BY_NAME, BY_RANK = LookUp("id", 1), LookUp("name", "a"), LookUp("rank", 1)

Role = Callable[[Stage], Coroutine[Any, Any, None]]


class RolledBack(Exception):
    """The error that rolls back a transaction."""


class Scenario(NamedTuple):
    """Some actors, with the rows and the warm caches at the beginning."""

    state: Rows | State
    """The rows of each table, or of the only table."""
    roles: dict[str, Role]
    warm: Callable[[Stage], Sequence[ModelCache]] = lambda stage: ()
    may_leave: str = ""
    """The states of entries that may be left to expire, if an actor crashes or is too slow."""
    cancels: bool = True
    """True if the actors may be cancelled."""
    world: World = ARTISTS
    age: float = 0
    """The age of the warm entries in seconds."""

    async def play(self, stage: Stage, choose: Choose, mishap: Mishap = None) -> Run:
        """Plays the scenario once. Raises an error if an invariant fails."""
        actors: dict[str, Actor] = {name: partial(role, stage) for name, role in self.roles.items()}
        state = self.state if len(self.world.tables()) > 1 else (self.state,)
        return await stage.play(
            state, actors, choose, mishap, warm=self.warm(stage), may_leave=self.may_leave, age=self.age
        )


def both(stage: Stage) -> Sequence[ModelCache]:
    return stage.near, stage.far


# Readers ------------------------------------------------------------------------------------------------


def near(*look_ups: Question) -> Role:
    """Returns a role that makes lookups one after the other in the writer's process."""

    async def role(stage: Stage) -> None:
        for each in look_ups:
            await stage.look_up(each, stage.near)

    return role


def far(*look_ups: Question) -> Role:
    """Returns a role that makes lookups one after the other in another process."""

    async def role(stage: Stage) -> None:
        for each in look_ups:
            await stage.look_up(each, stage.far)

    return role


def before_an_acknowledgement(*look_ups: Question) -> Role:
    """Returns a role that makes lookups in another process, while writes are committed and not acknowledged."""

    async def role(stage: Stage) -> None:
        for each in look_ups:
            await stage.look_up(each, stage.far, since=0)

    return role


def together(*look_ups: Question) -> Role:
    """Returns a role that makes lookups in one tick."""

    async def role(stage: Stage) -> None:
        await asyncio.gather(*[stage.look_up(each, stage.near) for each in look_ups])

    return role


async def beside_a_cancelled_one(stage: Stage) -> None:
    """Makes two lookups in one tick, and cancels the first."""
    cancelled, other = [asyncio.create_task(stage.look_up(each, stage.near)) for each in (BY_ID, BY_NAME)]
    await asyncio.sleep(0)
    cancelled.cancel()
    await other
    await asyncio.gather(cancelled, return_exceptions=True)


async def in_a_scope(stage: Stage) -> None:
    """Runs a request that looks up a row, writes it, and looks it up again."""
    async with local_cache():
        await stage.look_up(BY_NAME, stage.near)
        await stage.artist(1, followers=10).save()  # not the scope's instance, which would already have the value
        written = [rows == ((1, "a", 1, 10),) for (rows,) in stage.history].index(True)
        await stage.look_up(BY_NAME, stage.near, since=written)
        await stage.look_up(BY_ID, stage.near, since=written)


# Writers ------------------------------------------------------------------------------------------------


def first(*roles: Role) -> Role:
    """Returns a role that runs roles one after the other."""

    async def role(stage: Stage) -> None:
        for each in roles:
            await each(stage)

    return role


def then_create(writer: Role) -> Role:
    """A request that goes on after a timeout: a write, cancelled or not, and then a row, which must be committed."""

    async def role(stage: Stage) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await writer(stage)
        except asyncio.CancelledError:
            task.uncancel()
        await stage.model.create(id=8, name="next")
        assert any(row[0] == 8 for row in stage.history[-1][0]), "an acknowledged row is not committed"

    return role


def save(pk: int = 1, **changes: Any) -> Role:
    async def role(stage: Stage) -> None:
        await stage.artist(pk, **changes).save()

    return role


def save_some(**changes: Any) -> Role:
    async def role(stage: Stage) -> None:
        await stage.artist(1, **changes).save(update_fields=list(changes))

    return role


def deferred(*writers: Role) -> Role:
    """Returns a role whose writes are cleared together, at its end."""

    async def role(stage: Stage) -> None:
        async with deferred_invalidation():
            for each in writers:
                await each(stage)

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
            async with in_transaction(CONNECTION):
                artist = stage.artist(1, **changes)
                await artist.save()
                if reads:
                    found = await stage.model.cache.get(id=1)
                    assert (found.name, found.followers) == (artist.name, artist.followers), (
                        "a transaction does not see its own write"
                    )
                    assert await stage.model.cache.get_or_none(name=artist.name), (
                        "a transaction does not find its own write"
                    )
                if rolls_back:
                    raise RolledBack

    return role


async def savepoint_rolled_back(stage: Stage) -> None:
    async with in_transaction(CONNECTION):
        await stage.artist(1, followers=5).save()
        with suppress(RolledBack):
            async with in_transaction(CONNECTION):
                await stage.artist(1, name="c").save()
                raise RolledBack


async def survives_its_rollback(stage: Stage) -> None:
    """Writes in a transaction that a statement commits, as DDL does on MySQL, and that is then rolled back."""
    with patch("aiomodelcache.write.transactions.may_survive_rollback", lambda client: True), suppress(RolledBack):
        async with in_transaction(CONNECTION) as connection:
            await stage.artist(1, name="b", followers=1).save()
            await connection.execute_query("COMMIT")
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


async def clear_model(stage: Stage) -> None:
    with suppress(BackendError):
        await stage.model.cache.clear()


def clear_in_transaction(*, rolls_back: bool = False) -> Role:
    """Returns a role that writes by raw SQL in a transaction, and calls ``clear()`` for it."""

    async def role(stage: Stage) -> None:
        table, _ = stage.world.tables()[0]
        with suppress(RolledBack):
            async with in_transaction(CONNECTION) as connection:
                await connection.execute_query(f"UPDATE {table} SET followers = 1 WHERE id = 1")
                await stage.model.cache.clear()
                if rolls_back:
                    raise RolledBack

    return role


def crash_after_commit(*, slow: float = 0, then: float = 40, **changes: Any) -> Role:
    """Returns a role that crashes between COMMIT and clear, after which its intents expire.

    ``slow``: seconds from the mark to the COMMIT. ``then``: seconds from there on.
    """

    async def role(stage: Stage) -> None:
        rows = stage.near.open_cache.models[stage.model].rows
        intent = Intent()
        intent.add(rows, [Clear(rows.key(1))])
        await stage.near.open_cache.writer.mark(intent)
        if intent.marked:
            if slow:
                await seconds(slow)(stage)
            columns = ", ".join(f"{name} = {value!r}" for name, value in changes.items())
            await rows.schema.client.execute_query(f"UPDATE {rows.schema.table} SET {columns} WHERE id = 1")
            await seconds(then)(stage)

    return role


def seconds(*steps: float) -> Role:
    """Returns a role that lets time pass, step by step."""

    async def role(stage: Stage) -> None:
        for step in steps:

            async def pass_by(step: float = step) -> None:
                stage.clock.now += step

            await stage.scheduler.step(f"{step} seconds pass", pass_by)

    return role
