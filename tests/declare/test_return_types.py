"""Results that are encoded by the return annotation of what computes them."""

import asyncio
import dataclasses
import enum
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec
import pydantic
import pytest

from aiomodelcache import (
    Codec,
    DontCache,
    ModelCache,
    ValueCache,
    cached,
)
from aiomodelcache.declare.annotations import return_type, returned_by
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.typed_models import Answer, AnyInstance, Bounds, Line, Ranges, Sale, Status, Summary

if TYPE_CHECKING:
    from fractions import Fraction

pytestmark = [
    pytest.mark.models("tests.support.models.typed_models"),
    pytest.mark.only_on("sqlite", because="computed values depend on no database"),
]

T = TypeVar("T")
S = TypeVar("S")
calls: list[Any] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


class Box(msgspec.Struct, Generic[T]):
    content: T


LINE = Line("a", [Decimal("1.50")], Status.CLOSED, datetime(2024, 1, 1, tzinfo=UTC))


# Each kind of declaration ------------------------------------------------------------------------------------


@cached(timeout=60)
async def lines(number: int) -> list[Line]:
    calls.append(number)
    return [dataclasses.replace(LINE, label=str(each), amounts=[Decimal(each)]) for each in range(number)]


@cached()
async def maybe(number: int) -> Bounds | DontCache[Bounds] | None:
    calls.append(number)
    return DontCache(Bounds(0, 0)) if number < 0 else Bounds(number, number) if number else None


@cached()
async def later(number: int) -> "Defined | None":
    calls.append(number)
    return Defined(number)


@dataclasses.dataclass
class Defined:
    number: int


@cached()
async def checked_only(number: int, base: "Fraction | None" = None) -> Line:
    calls.append(number)
    return LINE


class Service:
    @cached(key=lambda self, number: number)
    async def status(self, number: int) -> dict[Status, Bounds]:
        calls.append(number)
        return {Status.OPEN: Bounds(number, number)}


class ByAnnotation(ValueCache[Any]):
    async def get_value(self, number: int) -> Answer:
        calls.append(number)
        return Answer(lines=[LINE])


class ByArgument(ValueCache[Box[Bounds]]):
    async def get_value(self, number):  # type: ignore[no-untyped-def]
        calls.append(number)
        return Box(Bounds(number, number))


class Boxed(ValueCache[Box[S]], Generic[S]):
    async def get_value(self, number: int) -> Box[S] | DontCache[Box[S]]:
        calls.append(number)
        return Box(cast("S", self.content(number)))

    def content(self, number: int) -> Any:
        raise NotImplementedError


class BoxedStatus(Boxed[Status]):
    def content(self, number: int) -> Status:
        return Status.OPEN


ASKED: list[tuple[Callable[[], Awaitable[Any]], Any]] = [
    (lambda: lines(2), [dataclasses.replace(LINE, label=str(each), amounts=[Decimal(each)]) for each in range(2)]),
    (lambda: maybe(3), Bounds(3, 3)),
    (lambda: maybe(0), None),
    (lambda: later(3), Defined(3)),
    (lambda: checked_only(3), LINE),
    (lambda: Service().status(3), {Status.OPEN: Bounds(3, 3)}),
    (lambda: ByAnnotation(3), Answer(lines=[LINE])),
    (lambda: ByArgument(3), Box(Bounds(3, 3))),
    (lambda: BoxedStatus(3), Box(Status.OPEN)),
    (lambda: Summary(3), Line("points", [Decimal(0)])),
    (lambda: Ranges(3), [Bounds(0, 3)]),
    (lambda: AnyInstance(3), Answer(lines=[Line("sales", [Decimal(0)])])),
]
"""Lookups of every kind of declaration, and what they return."""


@pytest.mark.parametrize(("ask", "expected"), ASKED)
async def test_a_result_comes_back_by_the_annotation(
    ask: Callable[[], Awaitable[Any]], expected: Any, cache: ModelCache, backend: CountingBackend
) -> None:
    first = await ask()
    async with assert_ops(backend, redis=1, sql=0):
        second = await ask()
    assert len(calls) <= 1
    assert first == second == expected
    assert type(first) is type(second) is type(expected)
    assert repr(first) == repr(second).replace("TzInfo(0)", "datetime.timezone.utc")  # pydantic's own class


async def test_dont_cache_keeps_a_value_of_an_annotated_type_out(cache: ModelCache) -> None:
    assert [await maybe(-1), await maybe(-1)] == [Bounds(0, 0)] * 2
    assert len(calls) == 2


async def test_each_caller_has_objects_of_its_own(cache: ModelCache) -> None:
    answers = [*await asyncio.gather(lines(2), lines(2)), await lines(2), await lines(2)]
    for number, answer in enumerate(answers):
        answer[0].amounts.append(Decimal(number))
        answer[1].label = "changed"
        answer.pop()
    assert [answer[0].amounts for answer in answers] == [[Decimal(0), Decimal(number)] for number in range(4)]
    assert await lines(2) == ASKED[0][1]
    assert len(calls) == 1


async def test_a_write_invalidates_a_result_of_an_annotated_type(cache: ModelCache) -> None:
    assert await Summary(1) == Line("points", [Decimal(0)])
    await Sale.create(team=1, points=5)
    assert await Summary(1) == Line("points", [Decimal(5)])


async def test_a_function_that_reads_rows_returns_objects_as_fresh_as_the_rows(
    cache: ModelCache, backend: CountingBackend
) -> None:
    @cached
    async def summary(team: int) -> Line:
        calls.append(team)
        return Line("points", [Decimal(sum(await Sale.filter(team=team).values_list("points", flat=True)))])

    sale = await Sale.create(team=1, points=5)
    for points in (5, 6):
        sale.points = points
        await sale.save()
        assert await summary(1) == Line("points", [Decimal(points)])
        async with assert_ops(backend, sql=0):
            assert await summary(1) == Line("points", [Decimal(points)])
    assert len(calls) == 2


# Values that are not of the annotated type -------------------------------------------------------------------


@dataclasses.dataclass
class LongLine(Line):
    length: int = 0


WRONG: list[tuple[Any, str]] = [
    (LongLine("a", []), "it is <LongLine>, which would come back as another value (<Line>)"),
    (Line("a", [], at=datetime(2024, 1, 1, fold=1)), "Line.at is <datetime>, which would come back as another value"),
    (Line("a", (Decimal(1),)), "Line.amounts is <tuple>, which would come back as another value (<list>)"),  # type: ignore[arg-type]
    ({"label": "s3cret", "amounts": []}, "it is <dict>, which would come back as another value (<Line>)"),
    (Line("s3cret", ["s3cret"]), "<Line> is not of the annotated type"),  # type: ignore[list-item]
    (7, "<int> is not of the annotated type"),
    (object, "<type> is not of the annotated type"),
]


@pytest.mark.parametrize(("value", "reason"), WRONG, ids=lambda value: type(value).__name__)
async def test_a_value_of_another_type_is_returned_unchanged_and_not_stored(
    value: Any, reason: str, cache: ModelCache, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    @cached()
    async def wrong() -> Line:
        calls.append(1)
        return cast("Line", value)

    for _ in range(3):
        assert await wrong() is value
    assert len(calls) == 3
    [counters] = [counters for name, counters in cache.stats.by_cache.items() if name.endswith("wrong")]
    assert (counters.hits, counters.fills, counters.unfillable) == (0, 0, 3)
    [message] = [record.getMessage() for record in caplog.records if record.name == "aiomodelcache"]
    assert "wrong cannot be stored: " + reason in message
    assert "s3cret" not in message


async def test_plain_types_are_stored_though_the_annotation_is_wrong(cache: ModelCache) -> None:
    @cached()
    async def ratio() -> float:
        calls.append(1)
        return 1

    @cached()
    async def names() -> list[str]:
        calls.append(2)
        return cast("list[str]", ("a", 1))

    for _ in range(2):
        assert (type(await ratio()), await names()) == (int, ("a", 1))
    assert calls == [1, 2]


# The type as a part of the entry -----------------------------------------------------------------------------


def made(**fields: Any) -> Any:
    return dataclasses.make_dataclass("Made", list(fields.items()))


def model(**fields: Any) -> Any:
    return pydantic.create_model("Made", **{name: (kind, ...) for name, kind in fields.items()})


CHANGES: list[tuple[Any, Callable[[Any], Any], Any, Callable[[Any], Any]]] = [
    (made(a=int), lambda kind: kind(1), made(b=int), lambda kind: kind(1)),
    (made(a=int), lambda kind: kind(1), made(a=float), lambda kind: kind(1.0)),
    (made(a=int), lambda kind: kind(1), made(a=int, b=(int | None)), lambda kind: kind(1, None)),
    (made(a=int), lambda kind: kind(1), model(a=int), lambda kind: kind(a=1)),
    (model(a=int), lambda kind: kind(a=1), model(a=int, b=int), lambda kind: kind(a=1, b=1)),
    (enum.Enum("E", {"A": 1}), lambda kind: kind.A, enum.Enum("E", {"B": 1}), lambda kind: kind.B),
    (int, lambda kind: 1, str, lambda kind: "1"),
]
"""Types with functions that make a value, before and after a change."""


@pytest.mark.parametrize(("before", "make_before", "after", "make_after"), CHANGES)
async def test_an_entry_of_a_changed_type_is_a_miss(
    before: Any, make_before: Any, after: Any, make_after: Any, database: object, backend: CountingBackend
) -> None:
    def declare(kind: Any, value: Any) -> Any:
        async def changing() -> kind:
            calls.append(kind)
            return value

        return cached()(changing)

    async def ask(kind: Any, make: Any) -> tuple[int, int]:
        value = make(kind)
        async with ModelCache(backend) as cache:
            assert await declare(kind, value)() == value
            [counters] = [counters for name, counters in cache.stats.by_cache.items() if name.endswith("changing")]
            assert (counters.unfillable, counters.undecodable) == (0, 0)
            return counters.hits, counters.mismatched

    assert [await ask(before, make_before) for _ in range(2)] == [(0, 0), (1, 0)]
    assert [await ask(after, make_after) for _ in range(2)] == [(0, 1), (1, 0)]


# Annotations -------------------------------------------------------------------------------------------------


class Plain:
    def encode(self, value: Any) -> bytes:
        return bytes([value.low])

    def decode(self, data: bytes) -> Bounds:
        return Bounds(data[0], data[0])


async def test_a_codec_comes_before_the_annotation(cache: ModelCache, backend: CountingBackend) -> None:
    codec: Codec = Plain()

    @cached(codec=codec)
    async def bounds() -> Bounds:
        return Bounds(7, 9)

    assert await bounds() == (7, 9)
    assert await bounds() == (7, 7)


async def test_instances_in_results_stay_references(cache: ModelCache) -> None:
    @cached()
    async def sales() -> list[Sale] | None:
        return [await Sale.cache.get(id=1)]

    sale = await Sale.create(id=1, name="red")
    assert [each.name for each in await sales() or []] == ["red"]
    await Sale.cache.update(sale, name="blue")
    assert [each.name for each in await sales() or []] == ["blue"]


def test_the_type_of_what_is_stored() -> None:
    async def none(): ...  # type: ignore[no-untyped-def]
    async def unknown() -> "Missing": ...  # type: ignore[name-defined]  # noqa: F821
    async def wrapped() -> DontCache[int] | list[Line] | None: ...
    async def only_wrapped() -> DontCache[int]: ...
    async def bare() -> Line | DontCache: ...  # type: ignore[type-arg]
    def coroutine() -> Coroutine[Any, Any, Line | DontCache[Line]]: ...
    def awaitable() -> Awaitable[Line]: ...

    assert return_type(none) is return_type(unknown) is return_type(only_wrapped) is Any
    assert return_type(wrapped) == list[Line] | None
    assert return_type(bare) is return_type(coroutine) is return_type(awaitable) is Line
    assert return_type(checked_only._function) is Line


# Outside of the test, because typing remembers a class that had arguments. A class that a test leaves behind has every
# cache that opens later collect garbage.
class Base(ValueCache[tuple[S, T]], Generic[T, S]):
    async def get_value(self) -> Any | DontCache[Any]: ...


class Middle(Base[list[T], int]):
    pass


def test_the_type_of_a_class() -> None:
    class Mixed:
        async def get_value(self) -> Line: ...

    class Last(Middle[str]):
        async def get_value(self): ...  # type: ignore[no-untyped-def]

    class Inherited(Mixed, ValueCache[int]):  # type: ignore[misc]
        pass

    class Bare(ValueCache):  # type: ignore[type-arg]
        async def get_value(self): ...  # type: ignore[no-untyped-def]

    assert returned_by(Last, "get_value", ValueCache) == tuple[int, list[str]]
    assert returned_by(Inherited, "get_value", ValueCache) is Line
    assert returned_by(Bare, "get_value", ValueCache) is Any
    assert returned_by(Middle, "get_value", ValueCache) == Any
    assert returned_by(BoxedStatus, "get_value", ValueCache) == Box[Status]
