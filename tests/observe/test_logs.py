"""The log of lookups: one record for each, without values, and free while its logger is off."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist

from aiomodelcache import BatchCacheQuery, ModelCache
from aiomodelcache.engine import background
from aiomodelcache.testing import CountingBackend
from tests.support.models.models import User

pytestmark = pytest.mark.only_on("sqlite", because="a record is the same for every database")
NAME = "aiomodelcache.lookups"
FIELDS = "background", "cache", "duration_ms", "error", "key", "keys", "kind", "outcome", "reason", "size"


@pytest.fixture
async def cache(
    database: BaseDBAsyncClient, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[ModelCache]:
    """An open cache that logs lookups."""
    caplog.set_level(logging.DEBUG, NAME)
    async with ModelCache(backend) as opened:
        yield opened


def records(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Returns the records of lookups, by the names of their fields."""
    return [vars(record) for record in caplog.records if record.name == NAME]


async def test_each_lookup_has_a_record_with_its_fields(cache: ModelCache, caplog: pytest.LogCaptureFixture) -> None:
    user = await User.create(username="kim")
    await User.cache.get(id=user.id)
    await BatchCacheQuery(user=User.cache.get(id=user.id), other=User.cache.get_or_none(username="unknown-name"))
    with pytest.raises(DoesNotExist):
        await User.cache.get(email="secret@example.org")
    found = records(caplog)
    assert [(each["cache"], each["kind"], each["outcome"], each["error"]) for each in found] == [
        ("User", "GetQuery", "miss", None),
        ("User", "GetQuery", "hit", None),
        ("User(username)", "GetOrNoneQuery", "miss", None),
        ("User(email)", "GetQuery", "miss", "DoesNotExist"),
    ]
    assert all(each["levelno"] == logging.DEBUG and each["duration_ms"] > 0 for each in found)
    assert all(name in each for each in found for name in FIELDS)
    assert found[0]["key"] == found[1]["key"] != found[2]["key"]
    assert found[0]["message"].startswith("GetQuery of User: miss in ")


async def test_no_record_holds_a_value(cache: ModelCache, caplog: pytest.LogCaptureFixture) -> None:
    await User.create(username="a-secret-name", email="secret@example.org")
    await User.cache.get(username="a-secret-name")
    await User.cache.get_many(["a-secret-name"], key="username")
    with pytest.raises(DoesNotExist):
        await User.cache.get(email="other-secret@example.org")
    for each in records(caplog):
        assert "secret" not in repr({name: each[name] for name in FIELDS} | {"message": each["message"]})
        prefix, _, digest = each["key"].rpartition("#")
        assert prefix.startswith("amc:i:")
        assert len(digest) == 16


async def test_no_tenant_is_logged(
    database: BaseDBAsyncClient, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, NAME)
    async with ModelCache(backend, tenant=lambda: "a-secret-tenant"):
        await User.create(username="kim")
        await User.cache.get(username="kim")
    [record] = records(caplog)
    assert record["cache"] == "User(username)"
    assert "secret" not in record["key"]


async def test_the_log_can_be_turned_on_and_off_while_the_cache_is_open(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "THRESHOLD_REFRESH_INTERVAL", 0.0)
    async with ModelCache(backend) as cache:
        user = await User.create(username="kim")
        assert cache.open_cache.guarded.observers is None
        await User.cache.get(id=user.id)
        assert records(caplog) == []
        caplog.set_level(logging.DEBUG, NAME)
        await User.cache.get(id=user.id)  # its read notices
        await User.cache.get(id=user.id)
        assert [each["outcome"] for each in records(caplog)] == ["hit"]
        caplog.set_level(logging.INFO, NAME)
        await User.cache.get(id=user.id)
        await User.cache.get(id=user.id)
        assert cache.open_cache.guarded.observers is None
        assert len(records(caplog)) == 1
