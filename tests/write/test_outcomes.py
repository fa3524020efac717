"""What an error of the database or its driver says about a write: refused, never sent, or unknown.

After a refused write, and one that was never sent, its row is cached again at once. After an unknown outcome, it is
not until the intent expires.
"""

from typing import Any

import pytest
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.testing import CountingBackend
from tests.support.models.field_models import Keyed
from tests.support.models.shelves import Book
from tests.support.stored import ask_twice, states

TRIGGERS = {
    "postgres": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END$$",
        "CREATE CONSTRAINT TRIGGER refusing AFTER UPDATE ON book DEFERRABLE INITIALLY {moment} "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
    "mysql": [
        "CREATE TRIGGER refusing BEFORE UPDATE ON book FOR EACH ROW "
        "SIGNAL SQLSTATE '{state}' SET MESSAGE_TEXT = 'refused'"
    ],
}


class TestRefused:
    @pytest.mark.models("tests.support.models.shelves")
    @pytest.mark.only_on("postgres", "mariadb", because="SQLite has no SQLSTATE")
    @pytest.mark.parametrize("moment", ["IMMEDIATE", "DEFERRED"])
    @pytest.mark.parametrize(
        ("state", "left"),
        [
            ("22012", "."),
            ("23514", "."),
            ("40001", "."),
            ("40P01", "."),
            ("42501", "."),
            ("45000", "."),
            ("40003", "W"),
            ("57014", "W"),
        ],
    )
    async def test_by_the_sqlstate(
        self, cache: ModelCache, database: BaseDBAsyncClient, state: str, left: str, moment: str
    ) -> None:
        """40003 is "statement completion unknown", 57014 a statement that was cancelled."""
        dialect = database.capabilities.dialect
        if dialect == "mysql" and moment == "DEFERRED":
            return  # nothing is checked by its COMMIT
        book = await Book.create(isbn=1)
        for statement in TRIGGERS[dialect]:
            await database.execute_query(statement.format(state=state, moment=moment))
        book.title = "refused"
        with pytest.raises(Exception, match="refused"):
            await book.save()
        assert await states(cache, Book.cache.get(id=book.id)) == left
        assert cache.stats.unknown_outcomes == (left == "W")
        if dialect == "postgres":
            with pytest.raises(Exception, match="refused"):
                async with in_transaction():
                    await Book.filter(id=book.id).update(title="refused")
            unknown = left == "W" and moment == "DEFERRED"  # else it was rolled back, by a statement of its own
            assert cache.stats.unknown_outcomes == (left == "W") + unknown

    @pytest.mark.models("tests.support.models.shelves")
    @pytest.mark.only_on("postgres", "mariadb", because="SQLite adds no constraint to a table")
    @pytest.mark.parametrize("rule", ["CONSTRAINT few CHECK (isbn < 9)", "COLUMN missing INT NOT NULL"])
    async def test_by_a_rule_of_the_table(self, cache: ModelCache, database: BaseDBAsyncClient, rule: str) -> None:
        """MySQL has no SQLSTATE of its own for these errors."""
        await database.execute_query(f"ALTER TABLE book ADD {rule}")
        with pytest.raises(BaseORMException):
            await Book.create(id=1, isbn=9)
        assert await states(cache, Book.cache.get_or_none(id=1)) == "."
        assert cache.stats.unknown_outcomes == 0

    @pytest.mark.models("tests.support.models.shelves")
    @pytest.mark.only_on("mariadb", because="other databases refuse these rows by errors of SQLSTATEs of their own")
    @pytest.mark.parametrize(
        "rule",
        [
            "CREATE TABLE book PARTITION BY LIST (id) (PARTITION seven VALUES IN (7)) AS SELECT * FROM renamed",
            "CREATE TABLE book (title VARCHAR(9) AS ('nine')) AS "
            "SELECT id, isbn, shelf, place, number, author_id FROM renamed",
            "CREATE VIEW book AS SELECT * FROM renamed WHERE id = 7 WITH CHECK OPTION",
        ],
        ids=["partition", "generated", "view"],
    )
    async def test_by_a_rule_of_mysql(self, cache: ModelCache, database: BaseDBAsyncClient, rule: str) -> None:
        await database.execute_query("RENAME TABLE book TO renamed")
        await database.execute_query(rule)
        with pytest.raises(BaseORMException, match=r"1369|1526|1906|3105"):
            await Book.create(id=1, isbn=9, title="one")
        assert await states(cache, Book.cache.get_or_none(id=1)) == "."
        assert cache.stats.unknown_outcomes == 0


class TestNeverSent:
    @pytest.mark.models("tests.support.models.field_models")
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("number", value) for value in (float("nan"), 1j, object())],
            *[("big", value) for value in (2**70, object())],
            *[("text", value) for value in ("\ud800", object())],
        ],
        ids=lambda value: str(value).split(" at ")[0].encode("ascii", "replace").decode(),
    )
    async def test_a_value_that_the_driver_or_the_database_cannot_take(
        self,
        cache: ModelCache,
        backend: CountingBackend,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        value: Any,
    ) -> None:
        """As a field of users' own may return it."""
        await Keyed.create(id=1)
        field: fields.Field[Any] = meta_of(Keyed).fields_map[name]
        monkeypatch.setattr(field, "to_db_value", lambda value, instance: value)
        row = await Keyed.cache.get(id=1)
        setattr(row, name, value)
        raised = None
        try:
            await row.save(update_fields=[name])
        except Exception as error:
            raised = error
        assert cache.stats.unknown_outcomes == 0, repr(raised)
        if raised is not None:  # else the database takes it
            assert getattr(await ask_twice(Keyed.cache.get(id=1), backend), name) is None
