"""Many-to-many lists: answered by the cache, and invalidated by every write that links or unlinks rows."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import CacheConfigurationError, ModelCache, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import GatedBackend
from tests.support.models.tagged_models import (
    Author,
    Authorship,
    Blog,
    EditedBy,
    Editing,
    Post,
    Tag,
    TaggedLikewise,
    TagsOf,
)

pytestmark = pytest.mark.models("tests.support.models.tagged_models")

RELATIONS = ("tags", "posts", "see", "seen_from", "authors")


def visible(model: type[Model]) -> QuerySet[Any]:
    return model.filter(hidden=False) if model is Tag else model.all()


async def as_cached() -> dict[Any, list[Any]]:
    """Returns all lists of all rows, as the cache answers them."""
    return await lists_of(lambda relation: relation)


async def as_stored() -> dict[Any, list[Any]]:
    """Returns the same lists, as the database answers them."""
    return await lists_of(lambda relation: relation.all())


async def lists_of(read: Callable[[Any], Awaitable[Any]]) -> dict[Any, list[Any]]:
    rows = [*await Post.all(), *await QuerySet(Tag), *await Author.all()]
    found = {}
    for row in rows:
        for name in RELATIONS:
            if name in row._meta.m2m_fields:
                answer = await read(getattr(row, name))
                found[type(row).__name__, row.pk, name] = [vars(related) for related in answer]
                if not row._meta.fields_map[name].related_model._meta._default_ordering:
                    found[type(row).__name__, row.pk, name].sort(key=lambda columns: str(columns["id"]))
    return found


async def rows() -> tuple[list[Post], list[Tag], list[Author]]:
    """Creates three posts, four tags and two authors, links some of them, and caches their lists."""
    blog = await Blog.create()
    posts = [await Post.create(title=str(at), blog=blog if at == 2 else None) for at in range(3)]
    tags = [await Tag.create(id=at, place=-at) for at in range(1, 5)]
    authors = [await Author.create() for _ in range(2)]
    await posts[0].tags.add(tags[0], tags[1], tags[2])
    await posts[1].tags.add(tags[0])
    await posts[2].tags.add(tags[2])
    await posts[0].see.add(posts[1], posts[2])
    await posts[0].authors.add(authors[0])
    assert await as_cached() == await as_stored()
    await as_cached()
    return posts, tags, authors


class TestReading:
    async def test_the_first_read_takes_one_statement_and_later_reads_take_none(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        posts, tags, _ = await rows()
        await cache.clear_all()
        async with assert_ops(backend, sql=1, redis=["read", "lease", "fill", "fill"]):
            assert [tag.id for tag in await posts[0].tags] == [3, 2, 1]
        async with assert_ops(backend, sql=0, redis=1):
            assert [tag.id for tag in await posts[0].tags] == [3, 2, 1]
        async with assert_ops(backend, sql=0, redis=1):  # the rows of the list are filled too
            assert await Tag.cache.get(id=2) == tags[1]
        async with assert_ops(backend, sql=0, redis=1):
            assert [tag.id async for tag in posts[0].tags] == [3, 2, 1]

    async def test_lists_read_in_one_tick_share_a_statement_and_a_round_trip(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        posts, _, _ = await rows()
        await cache.clear_all()

        async def tag_ids(post: Post) -> list[int]:
            return [tag.id for tag in await post.tags]

        async with assert_ops(backend, sql=1, redis=["read", "lease", "fill", "fill"]):
            assert await asyncio.gather(*map(tag_ids, posts)) == [[3, 2, 1], [1], [3]]
        async with assert_ops(backend, sql=0, redis=1):
            assert await asyncio.gather(*map(tag_ids, posts)) == [[3, 2, 1], [1], [3]]

    async def test_empty_lists_are_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        _, tags, _ = await rows()
        async with assert_ops(backend, sql=0, redis=1):
            assert await tags[3].posts == []

    async def test_filtered_lists_and_unsaved_instances_are_left_to_tortoise(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        posts, _, _ = await rows()
        async with assert_ops(backend, sql=1, redis=0):
            assert [tag.id for tag in await posts[0].tags.filter(id__gt=1)] == [3, 2]
        with pytest.raises(OperationalError, match="save"):
            await Post().tags

    async def test_in_a_transaction_a_list_queries_the_database(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        posts, tags, _ = await rows()
        async with in_transaction():
            await posts[1].tags.add(tags[3])
            async with assert_ops(backend, redis=0, sql=1):
                assert [tag.id for tag in await posts[1].tags] == [4, 1]

    async def test_in_a_request_scope_lists_hold_the_objects_of_the_scope(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        posts, tags, _ = await rows()
        async with local_cache():
            first = await posts[0].tags
            async with assert_ops(backend, redis=0):
                assert await Tag.cache.get(id=3) is first[0]
                assert all(tag is same for tag, same in zip(await posts[0].tags, first, strict=True))
            await posts[0].tags.remove(tags[2])
            assert [tag.id for tag in await posts[0].tags] == [2, 1]

    async def test_prefetch_follows_many_to_many_relations(self, cache: ModelCache, backend: CountingBackend) -> None:
        posts, _, _ = await rows()
        for _ in range(2):
            fresh = await Post.all()
            async with assert_ops(backend, sql=0, redis=2):
                await Post.cache.prefetch(fresh, "tags__posts")
            assert [[tag.id for tag in post.tags] for post in fresh] == [[3, 2, 1], [1], [3]]
            assert [post.id for post in fresh[1].tags[0].posts] == [posts[0].id, posts[1].id]


class TestPaths:
    async def test_paths_over_many_to_many_relations_follow_every_write(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        posts, tags, authors = await rows()
        await posts[0].editors.add(*authors)
        expected = [tags[2], tags[1], tags[0]], [posts[0], posts[2], posts[1]], [posts[0]]
        for _ in range(3):
            queries = TagsOf(posts[0].id), TaggedLikewise(posts[0].id), EditedBy(authors[0].id)
            assert tuple(await asyncio.gather(*queries)) == expected
        async with assert_ops(backend, sql=0, redis=1):
            await asyncio.gather(*queries)
        await posts[1].tags.clear()
        await authors[0].edited.remove(posts[0])  # type: ignore[attr-defined]
        assert await asyncio.gather(*queries) == [expected[0], [posts[0], posts[2]], []]
        await tags[2].delete()
        assert await asyncio.gather(*queries) == [[tags[1], tags[0]], [posts[0]], []]


class TestMistakes:
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                ["tag"],
                r"names 'tag', which is not a many-to-many relation of Post\. .*: authors, editors, see, seen_from, "
                "tags",
            ),
            (["tags", "tags"], "names a relation twice"),
            ("tags", "must be a list of field names"),
            (["blog"], "names 'blog', which is not a many-to-many relation"),
        ],
    )
    async def test_a_wrong_declaration_is_an_error_when_a_cache_opens(
        self, cache: ModelCache, names: Any, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Post.CacheMeta, "cached_manytomany", names)
        with pytest.raises(CacheConfigurationError, match=rf"Post\.CacheMeta.*{message}"):
            await ModelCache("memory://").open()


class Writes:
    """Every way to link and unlink rows. Each method takes the posts, tags and authors of ``rows``."""

    @staticmethod
    async def add(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await posts[1].tags.add(tags[1], tags[3])

    @staticmethod
    async def add_from_the_other_side(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await tags[3].posts.add(posts[1], posts[2])

    @staticmethod
    async def add_linked_rows_again(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await posts[0].tags.add(tags[0], tags[1])

    @staticmethod
    async def remove(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await posts[0].tags.remove(tags[1], tags[3])

    @staticmethod
    async def remove_from_the_other_side(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await tags[0].posts.remove(posts[0])

    @staticmethod
    async def clear(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await posts[0].tags.clear()

    @staticmethod
    async def clear_from_the_other_side(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await tags[0].posts.clear()

    @staticmethod
    async def of_a_relation_to_the_same_model(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await posts[1].see.add(posts[0], posts[1])
        await posts[2].seen_from.clear()  # type: ignore[attr-defined]

    @staticmethod
    async def of_one_cached_side(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await authors[1].posts.add(posts[0], posts[1])  # type: ignore[attr-defined]
        await authors[0].posts.clear()  # type: ignore[attr-defined]

    @staticmethod
    async def of_the_through_model(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await Authorship.create(post=posts[1], author=authors[1])
        [authorship] = await Authorship.filter(post=posts[0])
        authorship.post = posts[2]
        await authorship.save()

    @staticmethod
    async def of_the_through_model_in_bulk(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await Authorship.bulk_create([Authorship(post=post, author=authors[1]) for post in posts])
        await Authorship.filter(author=authors[0]).delete()
        await Authorship.filter(post=posts[1]).update(post_id=posts[2].id)

    @staticmethod
    async def delete(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await tags[0].delete()

    @staticmethod
    async def delete_and_create_again(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await tags[0].delete()
        await Tag.create(id=1)
        await posts[0].delete()
        await Post.create(id=posts[0].id)

    @staticmethod
    async def delete_many(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await Tag.filter(id__in=[1, 3]).delete()
        await Tag.bulk_create([Tag(id=1), Tag(id=3)])
        await Post.filter(id=posts[0].id).delete()
        await Post.bulk_create([Post(id=posts[0].id)])

    @staticmethod
    async def delete_by_a_cascade(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await Blog.all().delete()
        await Post.create(id=posts[2].id)

    @staticmethod
    async def delete_by_a_cascade_of_an_instance(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await (await Blog.first()).delete()  # type: ignore[union-attr]
        await Post.create(id=posts[2].id)

    @staticmethod
    async def hide_and_show(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        tags[0].hidden = True
        await tags[0].save()
        assert await as_cached() == await as_stored()
        tags[0].hidden = False
        await tags[0].save(update_fields=["hidden"])

    @staticmethod
    async def hide_and_show_many(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        await QuerySet(Tag).filter(id=2).update(hidden=True)  # past the cache
        await Tag.cache.clear()
        assert await as_cached() == await as_stored()
        tags[1].hidden = False
        await Tag.bulk_update([tags[1]], fields=["hidden"])

    @staticmethod
    async def order(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        tags[0].place = -9
        await tags[0].save()
        assert await as_cached() == await as_stored()
        await Tag.filter(id__gt=1).update(place=-10)

    @staticmethod
    async def in_transaction(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        async with in_transaction() as connection:
            await posts[0].tags.clear(using_db=connection)
            await posts[1].tags.add(tags[3])
            async with in_transaction():
                await tags[1].posts.add(posts[2])

    @staticmethod
    async def rolled_back(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        async with in_transaction() as connection:
            await posts[0].tags.clear()
            await tags[3].posts.add(posts[0])
            await connection.rollback()

    @staticmethod
    async def in_a_finished_transaction(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        async with in_transaction() as connection:
            await connection.rollback()
            await posts[0].tags.clear()
            await tags[3].posts.add(posts[1])

    @staticmethod
    async def refused(posts: list[Post], tags: list[Tag], authors: list[Author]) -> None:
        with pytest.raises(OperationalError, match="save"):
            await posts[0].tags.add(Tag(id=77))
        with pytest.raises(OperationalError, match="no instances"):
            await posts[0].tags.remove()
        await posts[0].tags.add()


WRITES: list[Any] = [write.__func__ for write in vars(Writes).values() if isinstance(write, staticmethod)]


class TestWrites:
    @pytest.mark.exhaustive(because="every way of writing")
    @pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
    async def test_every_write_is_seen_from_both_sides(
        self, cache: ModelCache, backend: CountingBackend, write: Callable[..., Awaitable[None]]
    ) -> None:
        await write(*await rows())
        assert await as_cached() == await as_stored()
        assert await as_cached() == await as_stored()

    async def test_writes_are_seen_by_a_cached_through_model(self, cache: ModelCache, backend: CountingBackend) -> None:
        [post, *_], _, [author, _] = await rows()
        assert await Editing.cache.filter(post=post) == []
        await post.editors.add(author)
        [editing] = await Editing.cache.filter(post=post)
        await author.edited.clear()  # type: ignore[attr-defined]
        assert await Editing.cache.filter(post=post) == []
        assert await Editing.cache.get_or_none(id=editing.id) is None

    async def test_adding_nothing_sends_nothing(self, cache: ModelCache, backend: CountingBackend) -> None:
        [post, *_], _, _ = await rows()
        async with assert_ops(backend, redis=0, sql=0):
            await post.tags.add()

    async def test_writes_leave_unaffected_lists_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        posts, tags, _ = await rows()
        await posts[0].tags.remove(tags[0])
        async with assert_ops(backend, sql=0):
            await asyncio.gather(*[relation.__aiter__().__anext__() for relation in (posts[1].tags, posts[2].tags)])
            assert await tags[2].posts == [posts[0], posts[2]]

    async def test_writes_past_the_bulk_limit_invalidate_all_lists(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        async with ModelCache(backend, bulk_limit=1):
            posts, tags, _ = await rows()
            await posts[0].tags.clear()
            assert await as_cached() == await as_stored()
            await tags[0].delete()
            await QuerySet(Post).filter(id__in=[post.id for post in posts]).delete()
            await Post.bulk_create([Post(id=post.id) for post in posts])
            await Post.cache.clear()
            assert await as_cached() == await as_stored()


class TestRaces:
    @pytest.mark.parametrize("step", ["lease", "fill"])
    async def test_a_reader_that_a_writer_overtakes_stores_nothing(
        self, database: BaseDBAsyncClient, backend: CountingBackend, step: str
    ) -> None:
        store = GatedBackend(backend)
        async with ModelCache(store):
            posts, tags, _ = await rows()
            for write in (posts[0].tags.remove, posts[0].tags.add):
                await Tag.cache.clear()
                gate = store.hold(step)
                reading = asyncio.ensure_future(_tags_of(posts[0]))
                await gate.reached()
                await write(tags[0])
                gate.open()
                await reading
                assert await as_cached() == await as_stored()


async def _tags_of(post: Post) -> list[int]:
    return [tag.id for tag in await post.tags]
