"""Rows chosen for a comparison: random ones, each equally likely, and all forms of their values."""

import datetime as dt
import enum
import pickle
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.inspection.audit import Audit
from aiomodelcache.inspection.foreign_caches import ForeignCache, read_by_function
from aiomodelcache.orm import samples
from aiomodelcache.orm.samples import AuditedRows
from tests.support.models.bulk_models import Page
from tests.support.models.field_models import ROWS, Everything, Owner

pytestmark = pytest.mark.only_on("no store", because="the rows are those of models without a cache")


@pytest.mark.models("tests.support.models.bulk_models")
@pytest.mark.parametrize("spread", [1, 7, 100_000], ids=["sorted", "guessed", "guessed, then sorted"])
async def test_random_rows_are_shown_by_the_manager_and_equally_likely(
    database: BaseDBAsyncClient, spread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "ROUNDS", 3)
    await Page.bulk_create([Page(id=1 + n * spread, number=n, deleted=n == 3) for n in range(12)])
    shown = {page.pk for page in await Page.all()}
    rows = AuditedRows(Page)
    seen = Counter[Any]()
    for _ in range(60):
        chosen = await rows.random_pks(4)
        assert len({*chosen}) == 4
        seen.update(chosen)
    assert seen.keys() == shown
    assert len(seen) == 11
    assert {*await rows.random_pks(50)} == shown
    assert (await rows.read([1 + 3 * spread, 1])).keys() == {1}
    assert await rows.newest_pks(2, "number") == [1 + 11 * spread, 1 + 10 * spread]
    await Page.all().delete()
    assert await rows.random_pks(4) == []


@pytest.mark.models("tests.support.models.field_models")
async def test_random_rows_of_a_model_without_integer_keys(database: BaseDBAsyncClient) -> None:
    owners = {(await Owner.create(name=str(n))).pk for n in range(5)}
    chosen = await AuditedRows(Owner).random_pks(3)
    assert len({*chosen}) == 3
    assert {*chosen} <= owners


@pytest.mark.models("tests.support.models.field_models")
@pytest.mark.parametrize("codec", ["json", "msgpack", "pickle", None])
async def test_no_form_of_a_value_is_taken_for_another_value(database: BaseDBAsyncClient, codec: str | None) -> None:
    """Pickled instances as they were created, dicts in JSON and msgpack, and dicts by the names of columns."""
    kept: dict[Any, Any] = {}
    for name, given in ROWS.items():
        values = {**given}
        if database.connection_name == "sqlite":
            values.pop("clock_null", None)  # Tortoise cannot store a time on SQLite
        created = await Everything.create(slug=name, **values)
        row = await Everything.get(pk=created.pk)
        held = {each: value for each, value in vars(row).items() if not each.startswith("_") and _has_text(value)}
        if codec is None:
            kept[row.pk] = held | {"character_column": held.pop("char")}
        elif codec == "pickle":
            kept[row.pk] = pickle.dumps(row)
        else:
            encoder: Any = msgspec.json if codec == "json" else msgspec.msgpack
            kept[row.pk] = encoder.encode(_plain(held))

    async def read(pk: int) -> Any:
        return kept[pk]

    rows = AuditedRows(Everything)
    audit = Audit(ForeignCache(Everything, "kept", read_by_function("kept", read), codec), rows)
    await audit.compare(await rows.random_pks(10))
    assert (dict(audit.differing), audit.agree, audit.unreadable) == ({}, len(ROWS), {})
    assert len(audit.held) > 30


def _has_text(value: Any) -> bool:
    """Returns True for values that JSON has a usual form of."""
    usual = (str, int, float, bool, Decimal, dt.date, enum.Enum, list, dict)
    return value is None or isinstance(value, usual) or type(value).__name__ == "UUID"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Returns values as applications put them into JSON."""

    def text(value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, dt.date):
            return value.isoformat()
        return str(value) if isinstance(value, Decimal) or type(value).__name__ == "UUID" else value

    return {name: text(value) for name, value in values.items() if "document" not in name}
