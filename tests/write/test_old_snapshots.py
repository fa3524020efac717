"""Writes and invalidations in a transaction that sees an older state leave nothing stale.

By default in MariaDB, by choice in PostgreSQL, and in SQLite until the transaction writes: what was read once does not
change, but statements may act on newer rows. A database may refuse such a statement, which is as well.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from asyncpg.exceptions import SerializationError
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from tests.query.test_manytomany import as_cached, as_stored, rows
from tests.support.models.cascade_models import Firm, Licence, Offer
from tests.support.models.models import Event, User
from tests.support.models.tagged_models import Author, Authorship, Post, Tag
from tests.support.oracle import Oracle
from tests.write.test_cascades import populate

pytestmark = pytest.mark.slow(because="each test waits for several transactions")

Level = str | None
"""An isolation level, or None for the database's default."""
REFUSED = (OperationalError, SerializationError)
"""Messages with which SQLite and PostgreSQL refuse to write newer rows."""


@asynccontextmanager
async def older_state(client: BaseDBAsyncClient, level: Level, model: type[Model]) -> AsyncIterator[BaseDBAsyncClient]:
    """A transaction that has read a row of ``model``, and goes on seeing what it saw then."""
    if client.capabilities.dialect == "mysql" and level is not None:
        await client.execute_query(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
    async with in_transaction(client.connection_name) as transaction:
        if client.capabilities.dialect == "postgres" and level is not None:
            await transaction.execute_query(f"SET TRANSACTION ISOLATION LEVEL {level}")
        await QuerySet(model).using_db(transaction).first()
        yield transaction


async def clear(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    await post.tags.clear(using_db=client)


async def clear_from_the_other_side(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    await tag.posts.clear(using_db=client)


async def delete(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    await tag.delete(using_db=client)
    await Tag(id=tag.id, place=tag.place).save(using_db=client)


async def delete_many(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    await Post.filter(id=post.id).using_db(client).delete()
    await Tag.filter(id=tag.id).using_db(client).delete()
    await Tag.bulk_create([Tag(id=tag.id, place=tag.place)], using_db=client)


async def show(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    tag.hidden = False
    await tag.save(using_db=client)


async def show_many(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    await Tag.bulk_update([Tag(id=tag.id, place=tag.place, hidden=False)], ["hidden"], using_db=client)


async def delete_links(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    await Authorship.filter(author=author).using_db(client).delete()


async def move_links(client: BaseDBAsyncClient, post: Post, tag: Tag, author: Author) -> None:
    await Authorship.filter(author=author).using_db(client).update(author_id=author.id, post_id=post.id)


WRITES: list[Callable[..., Awaitable[None]]] = [
    clear,
    clear_from_the_other_side,
    delete,
    delete_many,
    show,
    show_many,
    delete_links,
    move_links,
]


async def by_pk(event: Event, cached: Any) -> None:
    await cached.invalidate(event.id)


async def by_instance(event: Event, cached: Any) -> None:
    await cached.invalidate([event])


async def by_queryset(event: Event, cached: Any) -> None:
    await cached.invalidate(Event.filter(state="open"))


async def by_joining_queryset(event: Event, cached: Any) -> None:
    await Event.filter(organizer__username="new").invalidate_cache()


async def by_key(event: Event, cached: Any) -> None:
    await cached.invalidate(slug="pycon")


async def by_list_key(event: Event, cached: Any) -> None:
    await cached.invalidate(organizer=2)


INVALIDATIONS = [by_pk, by_instance, by_queryset, by_joining_queryset, by_key, by_list_key]


class Snapshots:
    """The tests, at one isolation level at least for each database."""

    @pytest.mark.models("tests.support.models.tagged_models")
    @pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
    async def test_lists_of_links_that_the_transaction_does_not_see(
        self, cache: ModelCache, again: BaseDBAsyncClient, level: Level, write: Callable[..., Awaitable[None]]
    ) -> None:
        posts, tags, authors = await rows()
        if write in (show, show_many):
            tags[3].hidden = True
            await tags[3].save()
        with suppress(*REFUSED):
            async with older_state(again, level, Post) as client:
                await posts[1].tags.add(tags[1], tags[3])
                await posts[2].tags.add(tags[3])
                await tags[0].posts.add(posts[2])
                await authors[1].posts.add(posts[1])  # type: ignore[attr-defined]
                assert await as_cached() == await as_stored()
                await write(client, posts[1], tags[3], authors[1])
        assert await as_cached() == await as_stored()

    @pytest.mark.models("tests.support.models.cascade_models")
    @pytest.mark.parametrize("bulk", [False, True])
    async def test_rows_below_that_the_transaction_does_not_see(
        self, cache: ModelCache, again: BaseDBAsyncClient, level: Level, bulk: bool
    ) -> None:
        await populate()
        oracle = Oracle(cache, Firm, Licence, Offer)
        with suppress(*REFUSED):
            async with older_state(again, level, Offer) as client:
                await Firm.create(id=8, number=800, parent_id=3)
                await Licence.create(id=8, firm_id=800)
                await Offer.create(id=8, shop_id=2, maker_id=3)
                await Offer.filter(id=5).update(maker_id=8, seller_id=3)
                await oracle.warm()
                if bulk:
                    await Firm.filter(id=3).using_db(client).delete()
                else:
                    await Firm(id=3, number=300, _saved_in_db=True).delete(using_db=client)
        await oracle.check()

    @pytest.mark.parametrize("invalidate", INVALIDATIONS, ids=lambda way: way.__name__)
    async def test_an_invalidation_reads_what_another_program_wrote_meanwhile(
        self, cache: ModelCache, database: BaseDBAsyncClient, again: BaseDBAsyncClient, level: Level, invalidate: Any
    ) -> None:
        await User.bulk_create([User(id=1, username="old"), User(id=2, username="new")])
        event = await Event.create(slug="pycon", title="PyCon", organizer_id=1)
        oracle = Oracle(cache, Event)
        await oracle.warm(organizer_id=[2], slug=["europython"], state=["open"])
        async with older_state(database, level, Event):
            await again.execute_query("UPDATE event SET organizer_id = 2, slug = 'pycon', state = 'open'")
            await invalidate(event, Event.cache)
        await oracle.check()


@pytest.mark.only_on("sqlite", because="these are its levels: it has one")
@pytest.mark.parametrize("level", [None])
class TestSQLite(Snapshots):
    pass


@pytest.mark.exhaustive(because="every write, seen by transactions of every age")
@pytest.mark.only_on("postgres", because="these are its levels, of which the first shows no older state")
@pytest.mark.only_on("redis", because="SQLite is tested with either store")
@pytest.mark.parametrize("level", [None, "REPEATABLE READ", "SERIALIZABLE"])
class TestPostgres(Snapshots):
    pass


@pytest.mark.exhaustive(because="every write, seen by transactions of every age")
@pytest.mark.only_on("mariadb", because="these are its levels: the default is REPEATABLE READ")
@pytest.mark.only_on("redis", because="SQLite is tested with either store")
@pytest.mark.parametrize("level", [None, "SERIALIZABLE"])
class TestMariaDB(Snapshots):
    pass
