"""The soak's alarms: an entry that ``verify`` calls stale is judged by what a plain lookup of it answers."""

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tortoise import Tortoise

from aiomodelcache import CacheConfig, ModelCache
from soak.alarms import Alarms
from soak.log import Kind, Log
from soak.model import Folder, Item
from soak.subjects import Library, Seen
from soak.world import World


class Elsewhere(Library):
    """A subject whose answers are not those of the rows' entries."""

    async def by_pk(self, pks: Sequence[int]) -> list[Seen]:
        raise AssertionError("the subject answered")

    by_slug = by_team = by_pk  # type: ignore[assignment]


@pytest.fixture
async def items(db_url: str) -> AsyncIterator[None]:
    await Tortoise.init(db_url=db_url, modules={"app": ["soak.model"]})
    await Tortoise.generate_schemas()
    async with ModelCache("memory://"):
        await Folder.create(id=1)
        await Item.create(id=7, slug="s50", team=3, version=1, nonce=10, folder_id=1)
        yield
    await Tortoise.close_connections()


@pytest.mark.no_tables
@pytest.mark.only_on("sqlite", because="an alarm is judged alike on every database")
@pytest.mark.only_on("memory", because="an alarm is judged alike with every store")
async def test_the_entry_itself_judges_an_alarm_whatever_the_subject_answers(items: None, tmp_path: Path) -> None:
    log = Log(tmp_path / "1.log")
    alarms = Alarms(Elsewhere("memory://", World(), random.Random(1), CacheConfig()), log)
    for kind, key in ((Kind.BY_PK, 7), (Kind.BY_SLUG, 50), (Kind.BY_TEAM, 3)):
        assert await alarms._looked_up(kind, key) == [(1, 10)]
    log.close()
