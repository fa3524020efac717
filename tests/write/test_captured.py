"""Every public method of Tortoise's classes is listed here as reading, captured or not captured.

A new version of Tortoise with another method fails these tests until the method is listed.
"""

import inspect
from typing import Any

import pytest
from tortoise.fields.relational import ManyToManyRelation, ReverseRelation
from tortoise.manager import Manager
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache import ModelCache
from tests.support.models.models import User

READS = "reads, or builds a query"
CAPTURED = "writes, and is captured, as the named test file shows"
UNCAPTURED = "writes, and is not captured: invalidate by hand"


def names(listed: str) -> dict[str, str]:
    return dict.fromkeys(listed.split(), "")


METHODS: dict[type, dict[str, dict[str, str]]] = {
    Model: {
        READS: names(
            """all annotate clone construct describe earliest exclude exists fetch_for_list fetch_related
            filter first get get_or_none get_table in_bulk last latest pk raw refresh_from_db
            register_listener select_for_update update_from_dict Meta"""
        ),
        CAPTURED: {
            "save": "tests/write/test_writes.py",
            "create": "tests/write/test_writes.py",
            "delete": "tests/write/test_writes.py",
            "get_or_create": "tests/write/test_writes.py",
            "update_or_create": "tests/write/test_writes.py",
            "bulk_create": "tests/write/test_bulk.py",
            "bulk_update": "tests/write/test_bulk.py",
        },
        UNCAPTURED: {},
    },
    QuerySet: {
        READS: names(
            """all annotate capabilities contains count distinct earliest exclude exists explain filter first
            force_index get get_or_none group_by in_bulk last latest limit offset only order_by
            prefetch_related resolve_filters resolve_ordering select_for_update select_related sql union
            use_index using_db values values_list"""
        ),
        CAPTURED: dict.fromkeys(["update", "delete", "bulk_create", "bulk_update"], "tests/write/test_bulk.py"),
        UNCAPTURED: {"raw": "the caller's own SQL, which may write"},
    },
    Manager: {READS: {"get_queryset": ""}, CAPTURED: {}, UNCAPTURED: {}},
    ReverseRelation: {
        READS: names("all filter limit offset order_by"),
        CAPTURED: {"create": "tests/write/test_writes.py"},
        UNCAPTURED: {},
    },
    ManyToManyRelation: {
        READS: names("all filter limit offset order_by"),
        CAPTURED: {
            "create": "tests/write/test_writes.py",
            **dict.fromkeys(["add", "remove", "clear"], "tests/query/test_manytomany.py"),
        },
        UNCAPTURED: {},
    },
}


def public_names(cls: Any) -> set[str]:
    return {
        name
        for base in cls.__mro__
        if base.__module__.startswith("tortoise.")
        for name, value in vars(base).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, classmethod | staticmethod | property))
    }


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
def test_every_public_method_of_tortoise_is_listed_as_reading_or_writing(cls: type) -> None:
    known = [name for kind in METHODS[cls].values() for name in kind]
    assert len(known) == len(set(known)), "a method is listed under two kinds"
    assert not [name for name in known if not hasattr(cls, name)], "a listed method does not exist"
    new = public_names(cls) - set(known)
    assert not new, f"Tortoise's {cls.__name__} has methods that METHODS does not list: {sorted(new)}"


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
def test_no_method_listed_as_reading_executes_a_write(cls: Any) -> None:
    writing = ("execute_insert", "execute_update", "execute_delete", "execute_many", "UpdateQuery(", "DeleteQuery(",
               "BulkCreateQuery(", "BulkUpdateQuery(", ".delete()", ".insert(")  # fmt: skip
    for name in METHODS[cls][READS]:
        method = inspect.getattr_static(cls, name, None)
        function = getattr(method, "__func__", method)
        if inspect.isfunction(function):
            code = inspect.getsource(function).replace(inspect.getdoc(function) or "", "")
            body = "\n".join(line for line in code.splitlines() if not line.strip().startswith(('"', "#", ":", "..")))
            assert not [word for word in writing if word in body], name


@pytest.mark.only_on("sqlite", because="no database makes the cache notice the write")
@pytest.mark.parametrize("made_by_hand", [QuerySet, Manager])
async def test_query_sets_made_by_hand_are_not_captured_as_the_documents_say(
    cache: ModelCache, made_by_hand: Any
) -> None:
    user = await User.create(username="dana", team=1)
    await User.cache.get(id=user.id)
    await made_by_hand(User).filter(id=user.id).update(team=2)
    assert (await User.cache.get(id=user.id)).team == 1
    await User.filter(id=user.id).update(team=3)
    assert (await User.cache.get(id=user.id)).team == 3
