"""Writes to cached models while no cache is open: a warning for each model, an error if asked for, or nothing."""

import asyncio
import json
import linecache
import subprocess
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import tortoise_test_context

from aiomodelcache import CacheError, CacheNotOpenWarning, ModelCache, writes_without_cache
from aiomodelcache.write import unopened
from tests.support.models.unopened_models import Note, Post, Scrap, Sheet, Tag

MODELS = "tests.support.models.unopened_models"
pytestmark = [
    pytest.mark.models(MODELS),
    pytest.mark.only_on("sqlite", because="the warning comes before any statement"),
    pytest.mark.only_on("no store", because="no cache is open"),
    pytest.mark.filterwarnings("error::aiomodelcache.CacheNotOpenWarning"),
]

WRITES: dict[str, Callable[[], Awaitable[object]]] = {
    "save": lambda: Tag(id=9).save(),
    "create": lambda: Tag.create(id=9),
    "get_or_create": lambda: Tag.get_or_create(id=9),
    "update_or_create": lambda: Tag.update_or_create(id=9),
    "delete": lambda: at_first(Tag, lambda tag: tag.delete()),
    "QuerySet.update": lambda: Tag.filter(id=1).update(place=3),
    "QuerySet.delete": lambda: Tag.filter(id=1).delete(),
    "bulk_create": lambda: Tag.bulk_create([Tag(id=9)]),
    "bulk_update": lambda: at_first(Tag, lambda tag: Tag.bulk_update([tag], ["place"])),
    "add": lambda: at_first(Post, lambda post: at_first(Tag, post.tags.add)),
    "clear": lambda: at_first(Post, lambda post: post.tags.clear()),
    "clear from the other side": lambda: at_first(Tag, lambda tag: tag.posts.clear()),
    "create of a plain model with a manager": lambda: Note.create(id=9),
    "update of a plain model with a manager": lambda: Note.filter(id=1).update(page=3),
    "create of a plain model with a cache class": lambda: Sheet.create(id=9),
}


async def at_first(model: Any, write: Callable[[Any], Awaitable[object]]) -> None:
    await write(await model.first())


async def rows() -> list[object]:
    return [await Tag.all().values(), await Note.all().values(), await Sheet.all().values()]


async def refused_writes() -> list[str]:
    """Tries each kind of write in a process that never opens a cache. Returns the names of the refused ones."""
    warnings.simplefilter("error", CacheNotOpenWarning)
    async with tortoise_test_context([MODELS], app_label="app"):
        with writes_without_cache():
            await Note.create(id=1)
            await (await Post.create()).tags.add(await Tag.create(id=1))
        before = await rows()
        refused = []
        for name, write in WRITES.items():
            try:
                await write()
            except CacheNotOpenWarning:
                refused.append(name)
        await Scrap.create(id=1)
        assert await rows() == before
        return refused


@pytest.mark.slow(because="runs a program in a process of its own")
def test_every_kind_of_write_warns_in_a_process_that_never_opens_a_cache() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", __name__],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert json.loads(ran.stdout) == list(WRITES)


@pytest.fixture(autouse=True)
def none_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models warn once in a process, so that an earlier test's write would count."""
    monkeypatch.setattr(unopened, "_warned", WeakSet())


async def test_a_write_warns_once_for_each_model(database: BaseDBAsyncClient) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", CacheNotOpenWarning)
        tag = await Tag.create(id=1)
        await tag.save()
        await Tag.filter(id=1).update(place=2)
        await Note.create(id=1)
        await Scrap.create(id=1)
    [first, second] = [str(warning.message) for warning in caught]
    assert first.startswith("Tag is written while no ModelCache is open")
    assert second.startswith("Note is written")
    assert all(remedy in first for remedy in ("async with ModelCache(url)", "writes_without_cache"))


async def test_the_warning_names_the_line_that_wrote(database: BaseDBAsyncClient) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", CacheNotOpenWarning)
        await Tag.create(id=1)
        await Note.filter(id=1).update(page=2)
    lines = [linecache.getline(warning.filename, warning.lineno).strip() for warning in caught]
    assert lines == ["await Tag.create(id=1)", "await Note.filter(id=1).update(page=2)"]


async def test_as_an_error_it_refuses_each_write(database: BaseDBAsyncClient) -> None:
    for _ in range(2):
        with pytest.raises(CacheError, match="Tag is written while no ModelCache is open"):
            await Tag.create(id=1)
        with pytest.raises(CacheNotOpenWarning):
            await Tag.all().delete()
    assert await Tag.all().count() == 0


class TestWithoutWarning:
    async def test_nothing_is_warned_inside_a_block_that_means_it(self, database: BaseDBAsyncClient) -> None:
        with writes_without_cache():
            await Tag.create(id=1)
            with writes_without_cache():
                pass
            await asyncio.gather(Tag.create(id=2), Tag.filter(id=1).update(place=2))
        with pytest.raises(CacheNotOpenWarning):
            await Tag.create(id=3)
        assert await Tag.all().count() == 2

    async def test_other_tasks_are_not_part_of_the_block(self, database: BaseDBAsyncClient) -> None:
        inside, written = asyncio.Event(), asyncio.Event()

        async def hold_block() -> None:
            with writes_without_cache():
                inside.set()
                await written.wait()

        holding = asyncio.create_task(hold_block())
        await inside.wait()
        with pytest.raises(CacheNotOpenWarning):
            await Tag.create(id=1)
        written.set()
        await holding

    async def test_nothing_is_warned_while_a_cache_is_open(self, database: BaseDBAsyncClient) -> None:
        async with ModelCache("memory://"):
            tag = await Tag.create(id=1)
            await Tag.filter(id=1).update(place=2)
        with pytest.raises(CacheNotOpenWarning):
            await tag.save()

    async def test_reading_warns_of_nothing(self, database: BaseDBAsyncClient) -> None:
        with writes_without_cache():
            tag = await Tag.create(id=1)
        assert await Tag.filter(id=1).select_for_update() == [tag]
        assert await Tag.get_or_create(id=1) == (tag, False)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(refused_writes())))
