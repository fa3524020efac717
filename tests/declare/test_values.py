"""``ValueCache`` and ``@cached``: values that belong to no model, cached by their arguments."""

import asyncio
import inspect
import re
import sys
from collections.abc import Callable
from contextvars import copy_context
from decimal import Decimal
from typing import Any, ClassVar, cast

import pytest
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    CacheError,
    CacheNotOpen,
    DontCache,
    InvalidationType,
    ModelCache,
    ValueCache,
    cached,
    local_cache,
)
from aiomodelcache.inspection.declarations import functions_and_values
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.archive_models import Record
from tests.support.models.result_models import Club, Member

pytestmark = [
    pytest.mark.models("tests.support.models.result_models"),
    pytest.mark.only_on("sqlite", because="computed values depend on no database"),
]

calls: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


class Exchange(ValueCache[Decimal | None]):
    """The exchange rate of a currency: None for an unknown currency. The rate of gold is never cached."""

    timeout = 60
    rates: ClassVar = {"USD": Decimal("0.90"), "GBP": Decimal("1.20")}

    async def get_value(self, base: str, quote: str = "EUR", *, scale: int = 2) -> Any:
        calls.append((base, quote, scale))
        return DontCache(Decimal(1000)) if base == "XAU" else self.rates.get(base)


class ByInitial(ValueCache[str]):
    async def get_value(self, name: str) -> str:
        calls.append((name,))
        return name[0]

    def key(self, name: str) -> Any:
        return name[0]


@cached(timeout=60)
async def permissions(actor: int, *projects: int, team: Any = None) -> list[Any]:
    """Returns the permissions of an actor."""
    calls.append((actor, projects, team))
    return [actor, {"projects": projects}]


@cached(key=lambda self, event: event)
async def module_level(self: object, event: int) -> int:
    return event


class Service:
    def __init__(self, number: int) -> None:
        self.number = number

    @cached(timeout=5, key=lambda self, question: (self.number, question))
    async def answer(self, question: str) -> str:
        calls.append((self.number, question))
        return f"{self.number} {question}"


class TestClass:
    async def test_a_value_is_computed_once_for_equal_arguments(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for query in (
            Exchange("USD"),
            Exchange(base="USD"),
            Exchange("USD", "EUR"),
            Exchange("USD", quote="EUR", scale=2),
        ):
            assert await query == Decimal("0.90")
        async with assert_ops(backend, redis=1):
            assert await Exchange("USD") == Decimal("0.90")
        assert calls == [("USD", "EUR", 2)]
        await asyncio.gather(Exchange("USD", "GBP"), Exchange("USD", scale=3))
        assert calls[1:] == [("USD", "GBP", 2), ("USD", "EUR", 3)]

    async def test_none_is_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        assert await Exchange("XXX") is None
        assert await Exchange("XXX") is None
        assert len(calls) == 1

    async def test_dont_cache_keeps_a_value_out_of_the_cache(self, cache: ModelCache, backend: CountingBackend) -> None:
        assert [await Exchange("XAU"), await Exchange("XAU")] == [1000, 1000]
        assert len(calls) == 2

    async def test_a_class_can_define_its_key(self, cache: ModelCache, backend: CountingBackend) -> None:
        assert [await ByInitial("kim"), await ByInitial("kay"), await ByInitial("ada")] == ["k", "k", "a"]
        assert calls == [("kim",), ("ada",)]

    async def test_concurrent_callers_share_a_computation(self, cache: ModelCache, backend: CountingBackend) -> None:
        async with assert_ops(backend, redis=["read", "lease", "fill"]):
            assert set(await asyncio.gather(*[Exchange("GBP") for _ in range(50)])) == {Decimal("1.20")}
        assert len(calls) == 1

    async def test_values_share_the_read_of_a_batch_with_rows(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        club = await Club.create(name="red")
        batch = BatchCacheQuery(rate=Exchange("USD"), club=Club.cache.get(id=club.id), may=permissions.query(1, 2))
        await batch
        async with assert_ops(backend, redis=1, sql=0):
            assert await batch == {"rate": Decimal("0.90"), "club": club, "may": [1, {"projects": (2,)}]}

    async def test_invalidate_applies_to_one_value_and_clear_to_all(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for invalidate in (Exchange("USD").invalidate, Exchange.clear):
            await asyncio.gather(Exchange("USD"), Exchange("GBP"))
            calls.clear()
            await invalidate()
            await asyncio.gather(Exchange("USD"), Exchange("GBP"))
            assert calls == [("USD", "EUR", 2), ("GBP", "EUR", 2)][: 1 if invalidate != Exchange.clear else 2]

    async def test_in_a_request_scope_a_value_is_remembered_until_it_is_invalidated(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with local_cache():
            await Exchange("USD")
            async with assert_ops(backend, redis=0):
                await Exchange("USD")
            await Exchange("USD").invalidate()
            await Exchange("USD")
        assert len(calls) == 2

    async def test_a_value_invalidated_in_a_transaction_is_not_stored_before_the_commit(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        """Before the commit, no caller may store a value that is computed from the old row."""
        club = await Club.create(name="red")

        @cached(timeout=60)
        async def name_of(club: Club) -> str:
            return (await Club.get(id=club.id)).name

        assert await name_of(club) == "red"
        async with in_transaction():
            assert await name_of(club) == "red"
            await Club.filter(id=club.id).update(name="blue")
            await name_of.invalidate(club)
            async with assert_ops(backend, redis=0, sql=1):
                assert await name_of(club) == "blue"
        assert await name_of(club) == "blue"
        async with in_transaction() as connection:
            await Club.filter(id=club.id).update(name="green")
            await name_of.invalidate(club)
            await connection.rollback()
        async with assert_ops(backend, sql=0):
            assert await name_of(club) == "blue"

    async def test_clearing_in_a_transaction_takes_effect_at_commit(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        context = copy_context()
        await asyncio.gather(Exchange("USD"), permissions(7))
        async with in_transaction():
            async with assert_ops(backend, redis=0):
                await Exchange.clear()
                await permissions.clear()
                await asyncio.gather(Exchange("USD"), permissions(7))
            assert len(calls) == 4
            for value in (Exchange("USD").resolve(), permissions(7)):
                await asyncio.create_task(value, context=context.copy())
            assert len(calls) == 4
        await asyncio.gather(Exchange("USD"), permissions(7))
        assert len(calls) == 6

    @pytest.mark.parametrize("invalidation", [InvalidationType.UNSET, InvalidationType.OFF])
    async def test_a_value_that_awaits_itself_is_an_error(self, cache: ModelCache, invalidation: Any) -> None:
        @cached(invalidation=invalidation)
        async def countdown(number: int, step: int = 1) -> int:
            return number and await countdown(number - step, step)

        assert await countdown(3) == 0
        for _ in range(2):
            with pytest.raises(CacheError, match=r"countdown is computed by awaiting itself"):
                await asyncio.wait_for(countdown(3, 0), 5)
        async with in_transaction():
            with pytest.raises(CacheError, match="awaiting itself"):
                await asyncio.wait_for(countdown(4, 0), 5)

    async def test_wrong_arguments_are_type_errors(self, cache: ModelCache) -> None:
        with pytest.raises(TypeError, match=r"Exchange\(self, base.*missing a required argument: 'base'"):
            Exchange()
        with pytest.raises(TypeError, match=r"Exchange: .*cannot be part of a cache key.* Or let a `key` of your own"):
            await Exchange(object())

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({}, "Odd has no get_value"),
            ({"timeout": 0, "get_value": Exchange.get_value}, "Odd: timeout is 0"),
            ({"get_values": Exchange.get_value}, "Odd.get_values is not a class method: define it by @classmethod"),
            (
                {"get_values": classmethod(Exchange.get_value), "get_value": Exchange.get_value},
                "Odd.get_values replaces get_value, which has no effect: remove one of them",
            ),
            ({"version": [1], "get_value": Exchange.get_value}, r"Odd.version is \[1\]"),
        ],
    )
    async def test_a_wrong_value_class_is_an_error_when_a_cache_opens(
        self, database: object, backend: CountingBackend, attributes: dict[str, Any], message: str
    ) -> None:
        odd = type("Odd", (ValueCache,), attributes)
        with pytest.raises(CacheConfigurationError, match=message):
            await ModelCache(backend).open()
        del odd

    async def test_two_value_classes_with_one_name_are_an_error(
        self, database: object, backend: CountingBackend
    ) -> None:
        twins = [type("Twin", (ValueCache,), {"get_value": Exchange.get_value}) for _ in range(2)]
        with pytest.raises(CacheConfigurationError, match="Two value classes of one module are called Twin"):
            await ModelCache(backend).open()
        del twins


class TestDecorator:
    async def test_a_function_that_is_defined_again_takes_the_place_of_the_former_one(
        self, cache: ModelCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As in a notebook, where the former one is no longer in use. Its results are misses."""
        watched = len(cache.open_cache.reader.background._lifetimes)
        for number in range(3):

            @cached(timeout=60 + number, invalidation=InvalidationType.OFF)
            async def answer() -> int:
                return number  # noqa: B023

            assert [await answer(), await answer.query()] == [number, number]
            assert (await answer.explain()).source == "cache"
        assert len(cache.open_cache.reader.background._lifetimes) == watched + 1
        assert caplog.text.count("answer is defined again, so its former results are not used") == 1

    async def test_two_functions_in_use_with_one_name_are_an_error(self, cache: ModelCache) -> None:
        def make(number: int) -> Any:
            @cached(invalidation=InvalidationType.OFF)
            async def answer() -> int:
                return number

            return answer

        first, second = make(1), make(2)
        assert await first() == 1
        with pytest.raises(CacheConfigurationError, match=r"Two values are cached as .*answer: rename one of them, or"):
            await second()
        assert await first() == 1

    async def test_a_value_is_computed_once_for_equal_arguments(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for _ in range(2):
            assert await permissions(7, 1, 2) == [7, {"projects": (1, 2)}]
            assert await permissions(7, 1, 2, team=None) == [7, {"projects": (1, 2)}]
        assert await permissions(7) == [7, {"projects": ()}]
        assert len(calls) == 2

    async def test_instances_in_arguments_are_identified_by_their_primary_key(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        member = await Member.create(number=1)
        for team in (member, await Member.get(id=member.id), [member], [await Member.get(id=member.id)]):
            await permissions(1, team=team)
        assert len(calls) == 2
        with pytest.raises(TypeError, match="save it first"):
            await permissions(1, team=Member(number=2))

    async def test_a_decorated_function_keeps_its_name_and_docstring(self, cache: ModelCache) -> None:
        assert permissions.__name__ == "permissions"
        assert permissions.__doc__ == "Returns the permissions of an actor."
        assert "permissions" in permissions.key(7)
        assert permissions.key(7) != permissions.key(8)
        assert repr(permissions) == "<cached tests.declare.test_values.permissions>"

    async def test_invalidate_applies_to_one_value_and_clear_to_all(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await permissions(7)
        await permissions.invalidate(7)
        await permissions(7)
        await permissions.clear()
        await permissions(7)
        assert len(calls) == 3

    async def test_methods_can_be_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        first, equal, second = Service(1), Service(1), Service(2)
        assert await asyncio.gather(first.answer("x"), equal.answer("x"), second.answer("x")) == ["1 x", "1 x", "2 x"]
        assert calls == [(1, "x"), (2, "x")]
        await equal.answer.invalidate("x")
        await first.answer("x")
        assert len(calls) == 3

    async def test_errors_are_not_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        failing = True

        @cached()
        async def shaky() -> int:
            if failing:
                raise LookupError
            return 1

        answers = await asyncio.gather(shaky(), shaky(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [LookupError, LookupError]
        failing = False
        assert await shaky() == 1

    async def test_a_function_that_raises_cancelled_error_is_an_error_of_its_call(self, cache: ModelCache) -> None:
        @cached()
        async def cancelled() -> int:
            raise asyncio.CancelledError

        with pytest.raises(Exception, match="cancelled"):
            await cancelled()

    async def test_a_value_that_cannot_be_stored_is_returned(
        self, cache: ModelCache, backend: CountingBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        @cached()
        async def odd() -> Any:
            return complex(1, 2)

        assert [await odd(), await odd()] == [1 + 2j, 1 + 2j]
        [counters] = [counters for name, counters in cache.stats.by_cache.items() if name.endswith("odd")]
        assert (counters.hits, counters.fills, counters.unfillable) == (0, 0, 2)
        assert "aiomodelcache: a value of " in caplog.text

    async def test_two_functions_with_one_name_are_an_error(self, cache: ModelCache, backend: CountingBackend) -> None:
        async def number() -> int:
            return len(calls)

        first, second = cached(version=1)(number), cached(version=2)(number)
        assert await first() == 0
        with pytest.raises(CacheConfigurationError, match=r"cached as .*number: rename"):
            await second()

    async def test_a_call_without_an_open_cache_is_an_error(self) -> None:
        with pytest.raises(CacheNotOpen):
            await permissions(1)

    @pytest.mark.filterwarnings("ignore:'asyncio.iscoroutinefunction' is deprecated")
    def test_it_passes_for_a_coroutine_function(self) -> None:
        for function in (permissions, Service(1).answer):
            assert asyncio.iscoroutinefunction(function)
            assert inspect.iscoroutinefunction(function) or sys.version_info < (3, 12)

    def test_a_wrong_use_of_the_decorator_is_an_error_at_once(self) -> None:
        with pytest.raises(CacheConfigurationError, match="coroutine functions"):
            cached()(lambda: 1)  # type: ignore[arg-type, return-value]
        with pytest.raises(CacheConfigurationError, match="timeout is -1"):
            cached(timeout=-1)(permissions._function)


async def get_value(self: object) -> int:
    return 1


DECLARED: dict[str, Callable[..., Any]] = {
    "function": lambda **settings: cached(**settings)(get_value).declaration,
    "class": lambda **settings: cast("Any", type("Odd", (ValueCache,), {"get_value": get_value, **settings}))._declared,
}


@pytest.mark.parametrize("kind", DECLARED)
@pytest.mark.parametrize("settings", [{"depends_on": Member}, {"tags": "abc"}, {"tags": str}], ids=str)
def test_one_model_or_tag_needs_no_tuple(kind: str, settings: dict[str, Any]) -> None:
    declaration = DECLARED[kind](**settings)
    for name, value in settings.items():
        assert getattr(declaration, name) == (value,)


WRONG: dict[str, list[Any]] = {
    "depends_on": [3, None, b"ab", "abc", int, [Member, 3], [Member.cache]],
    "tags": [3, None, b"ab", Club, [""], ["abc", Club]],
    "cache_errors": [3, b"ab", "abc", Club, ValueError, [ValueError], {int: 1}, {ValueError: "soon"}],
}


@pytest.mark.parametrize("kind", DECLARED)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]], ids=repr)
def test_wrong_settings_of_several_are_errors_that_name_them(kind: str, name: str, value: Any) -> None:
    with pytest.raises(CacheConfigurationError, match=rf"^\S+: {name}\S* (is|has|names) .*: \w+ "):
        DECLARED[kind](**{name: value}).check()


async def no_arguments() -> None: ...
async def two_and_two(a: Any, b: Any, c: Any = None, d: Any = "d") -> None: ...
async def by_position(a: Any, b: Any = 2, /, c: Any = 3) -> None: ...
async def any_number(a: Any, *rest: Any) -> None: ...
async def by_name(a: Any, *, b: Any = 2) -> None: ...
async def all_by_name(a: Any = 1, **rest: Any) -> None: ...


class Uncomparable:
    """A default whose comparison raises, as that of an array may."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]


async def odd_default(a: Any, b: Any = Uncomparable()) -> None: ...  # noqa: B008


@pytest.mark.parametrize(
    "function",
    [no_arguments, two_and_two, by_position, any_number, by_name, all_by_name, odd_default],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("named", [(), ("a",), ("b",), ("c", "d"), ("unknown",)], ids=str)
def test_arguments_have_the_form_that_a_call_gives_them(function: Any, named: tuple[str, ...]) -> None:
    declaration, signature = cached(function)._declaration, inspect.signature(function)
    for number in range(6):
        args, kwargs = tuple(range(10, 10 + number)), {name: name for name in named}
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            with pytest.raises(TypeError, match=re.escape(str(error))):
                declaration.arguments(*args, **kwargs)
            continue
        bound.apply_defaults()
        found = declaration.arguments(*args, **kwargs)
        assert type(found) is tuple
        assert list(map(repr, found)) == list(map(repr, bound.arguments.values()))


async def test_a_value_class_that_was_refused_is_not_declared(cache: ModelCache) -> None:
    with pytest.raises(CacheConfigurationError, match=r"Refused: depends_on is 3") as refused:  # keeps the class alive
        type("Refused", (ValueCache,), {"get_value": get_value, "depends_on": 3})
    assert "Refused" not in [declared.short for declared in functions_and_values()], refused


async def test_a_value_of_models_of_another_cache_has_no_keys_in_this_one(cache: ModelCache) -> None:
    class Elsewhere(ValueCache[int]):
        depends_on = (Record,)

        async def get_value(self) -> int:
            return 1

    assert "Elsewhere" in [declared.short for declared in functions_and_values()]
    assert "Elsewhere" not in [place.owner for place in KeyMap(cache.open_cache).places]
