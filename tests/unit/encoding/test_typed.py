"""Values of declared types: those that come back, those that are refused, and hostile bytes."""

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import math
import os
import struct
import subprocess
import sys
import types
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tortoise.models import Model

from aiomodelcache.encoding.codec import DecodeError, EncodeError
from aiomodelcache.encoding.same import check_same
from aiomodelcache.encoding.shapes import ANY, shape_of
from aiomodelcache.encoding.typed import TypedCodec, codec_of
from aiomodelcache.encoding.values import ValueCodec

T = TypeVar("T")
PLUS_TWO = dt.timezone(dt.timedelta(hours=2))
MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=PLUS_TWO)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Pair(NamedTuple):
    left: int
    right: str = ""


class Options(TypedDict, total=False):
    colour: Colour
    size: int


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0

    @functools.cached_property
    def length(self) -> float:
        return math.hypot(self.x, self.y)


@dataclasses.dataclass
class Point3(Point):
    z: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    amount: decimal.Decimal
    currency: str
    at: dt.datetime | None = None
    colour: Colour = Colour.RED


class Node(msgspec.Struct):
    name: str
    children: list["Node"] = []
    data: bytes = b""


class Page(msgspec.Struct, Generic[T], omit_defaults=True):
    items: list[T]
    total: int = 0


@dataclasses.dataclass
class Computing:
    """A class whose initialisation changes what it was given."""

    value: int

    def __post_init__(self) -> None:
        self.value += 1


@dataclasses.dataclass
class Loose:
    value: Any


@attrs.define
class Place:
    name: str
    height: float = 0.0
    _code: int = 0


class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    name: str = pydantic.Field(alias="itemName")
    price: decimal.Decimal = decimal.Decimal(0)
    tags: set[str] = set()
    token: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4)


class Order(pydantic.BaseModel):
    items: list[Item]
    by_colour: dict[Colour, int] = {}
    at: dt.datetime | None = None
    url: pydantic.HttpUrl | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def size(self) -> int:
        return len(self.items)


class Checked(pydantic.BaseModel):
    numbers: list[Annotated[int, pydantic.AfterValidator(lambda number: number)]]
    tags: set[str] = {"red", "green", "blue", "white"}
    _seen: int = pydantic.PrivateAttr(default=0)


def seen(checked: Checked) -> Checked:
    checked._seen = 1
    return checked


class Hidden(pydantic.BaseModel):
    secret: pydantic.SecretStr


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Named(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)

    number: int


ITEM = Item(itemName="cup", price="1.50", tags={"a", "b"}, colour="red")  # type: ignore[call-arg, arg-type]
GOOD: list[tuple[Any, Any]] = [
    (Point, Point(1.5, -0.0)),
    (Point | None, None),
    (Point | None, Point(math.inf, math.nan)),
    (list[Point], [Point(1.0), Point(2.0)]),
    (tuple[Point, ...], (Point(1.0),)),
    (tuple[int, Pair], (7, Pair(1, "x"))),
    (Price, Price(decimal.Decimal("1.50"), "EUR", MOMENT, Colour.BLUE)),
    (Price, Price(decimal.Decimal("1E+3"), "EUR", dt.datetime(2024, 1, 1, tzinfo=dt.UTC))),
    (Price, Price(decimal.Decimal("NaN"), "EUR", dt.datetime(2024, 1, 1))),
    (dict[str, list[Price]], {"b": [Price(decimal.Decimal("-0"), "x")], "a": []}),
    (dict[Price, int], {Price(decimal.Decimal(1), "x"): 1}),
    (frozenset[Price], frozenset({Price(decimal.Decimal(1), "x"), Price(decimal.Decimal(2), "x")})),
    (set[Colour], {Colour.RED, Colour.BLUE}),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (dict[Level, uuid.UUID], {Level.LOW: uuid.UUID(int=7)}),
    (Options, {"size": 3, "colour": Colour.RED}),
    (Options, {}),
    (list[Options], [{"colour": Colour.RED}]),
    (Pair, Pair(1)),
    (Node, Node("a", [Node("b", [Node("c")], b"\xff\0")])),
    (Page[Price], Page([Price(decimal.Decimal(1), "x")], 10**30)),
    (Page[int], Page([1, 2])),
    (Sequence[Point], [Point(1.0)]),
    (Mapping[str, Point], {"a": Point(1.0)}),
    (Annotated[Point, "a comment"], Point(1.0)),
    (bytearray, bytearray(b"\0\xff")),
    (Loose, Loose([1, "a", None, {"b": 1.5}])),
    (list[Place], [Place("a", 1.5), Place("b")]),
    (Item, ITEM),
    (Order, Order(items=[ITEM, ITEM], by_colour={Colour.RED: 1}, at=MOMENT, url="https://example.org/a")),  # type: ignore[arg-type]
    (list[Order] | None, [Order(items=[])]),
    (Checked, Checked(numbers=[1, 2])),
    (Numbers, Numbers([1, 2])),
    (dict[str, Named], {"a": Named(number=1)}),
    (set[Named], {Named(number=1), Named(number=2)}),
]
"""Types, and values of them."""


def numbered(cases: Sequence[tuple[Any, ...]]) -> list[str]:
    """Returns the names of cases by their types, the same in every process: the ``repr`` of a set or object is not."""
    return [f"{number} {getattr(case[0], '__name__', case[0])}" for number, case in enumerate(cases, 1)]


@pytest.mark.parametrize(("kind", "value"), GOOD, ids=numbered(GOOD))
def test_a_value_comes_back_the_same(kind: Any, value: Any) -> None:
    codec, _ = codec_of(kind)
    assert isinstance(codec, TypedCodec)
    data = codec.encode(value)
    first, second = codec.decode(data), codec.decode(data)
    check_same(value, first)
    assert type(first) is type(value)
    assert repr(first) == repr(value) or isinstance(value, set | frozenset | pydantic.BaseModel)
    if not isinstance(value, enum.Enum | None):
        assert first is not second, "callers would share it"


def test_the_offset_of_a_time_comes_back() -> None:
    codec = TypedCodec(Price)
    decoded = codec.decode(codec.encode(Price(decimal.Decimal(1), "EUR", MOMENT)))
    assert decoded.at.utcoffset() == dt.timedelta(hours=2)


def test_a_model_of_pydantic_comes_back_with_the_fields_that_were_set() -> None:
    codec = TypedCodec(Order)
    order = codec.decode(codec.encode(Order(items=[ITEM])))
    assert order.model_fields_set == {"items"}
    assert order.items[0].model_fields_set == {"name", "price", "tags", "colour"}
    assert order.items[0].token == ITEM.token
    assert order.items[0].model_extra == {"colour": "red"}
    assert order.model_dump(exclude_unset=True).keys() == {"items", "size"}


WRONG: list[tuple[Any, Any, str]] = [
    (Point, Point(1, 2.0), r"Point.x is <int>, which would come back as another value \(<float>\)"),
    (Point, Point3(1.0), r"it is <Point3>, which would come back as another value \(<Point>\)"),
    (Point, {"x": 1.0}, r"it is <dict>, which would come back as another value \(<Point>\)"),
    (Point, Point("1.0"), "<Point> is not of the annotated type"),  # type: ignore[arg-type]
    (Point, None, "None is not of the annotated type"),
    (list[Point], (Point(1.0),), r"it is <tuple>, which would come back as another value \(<list>\)"),
    (Price, Price(decimal.Decimal(1), "x", colour="red"), r"Price.colour is <str>"),  # type: ignore[arg-type]
    (
        Price,
        Price(decimal.Decimal(1), "x", dt.datetime(2024, 1, 1, fold=1)),
        "Price.at is <datetime>",
    ),
    (Level, 1, r"it is <int>, which would come back as another value \(<Level>\)"),
    (Colour, Level.LOW, "<Level> is not of the annotated type"),
    (Pair, (1, ""), r"it is <tuple>, which would come back as another value \(<Pair>\)"),
    (Options, {"size": 1, "more": 2}, "it would come back with other items"),
    (Loose, Loose((1,)), r"Loose.value is <tuple>, which would come back as another value \(<list>\)"),
    (Loose, Loose(uuid.UUID(int=1)), "Loose.value is <UUID>"),
    (Loose, Loose(object()), "<object> is not of the annotated type"),
    (Place, Place("a", 1), r"Place.height is <int>, which would come back as another value"),
    (Place, Place("a", 1.0, code=7), r"Place._code is <int>, which would come back as another value"),
    (Computing, Computing(1), r"Computing.value is <int>, which would come back as another value \(<int>\)"),
    (Named, Named.model_construct(number="x"), "<Named> is not of the annotated type"),
    (Named, Named.model_construct(number=1.0), r"Named.number is <float>, which would come back as another value"),  # type: ignore[arg-type]
    (Checked, seen(Checked(numbers=[])), "it is <int>, which would come back as another value"),
    (Hidden, Hidden(secret=pydantic.SecretStr("s")), "Hidden.secret is <SecretStr>"),
]
"""Types, and values that are not exactly of them, with the reason."""


@pytest.mark.parametrize(("kind", "value", "message"), WRONG, ids=numbered(WRONG))
def test_a_value_that_would_come_back_changed_is_refused(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        codec_of(kind)[0].encode(value)


def test_an_attribute_that_is_no_field_is_refused_unless_it_can_be_computed_again() -> None:
    point = Point(3.0, 4.0)
    assert point.length == 5
    codec = TypedCodec(Point)
    assert codec.decode(codec.encode(point)) == point
    point.colour = "red"  # type: ignore[attr-defined]
    with pytest.raises(EncodeError, match="it has an attribute that is no field of Point"):
        codec.encode(point)


def test_a_value_nested_too_deep_is_refused() -> None:
    node = Node("leaf")
    for _ in range(60):
        node = Node("inner", [node])
    with pytest.raises(EncodeError, match="nested deeper than 100 levels"):
        TypedCodec(Node).encode(node)


def test_no_value_is_in_the_message() -> None:
    hidden, wrong = Hidden(secret=pydantic.SecretStr("s3cret")), Named.model_construct(number="s3cret")
    for value in (Point("s3cret"), {"s3cret": 1}, wrong, hidden):  # type: ignore[arg-type]
        for kind in (Point, Named, Hidden, Colour):
            with pytest.raises(EncodeError) as caught:
                TypedCodec(kind).encode(value)
            assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


# The choice of a codec -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        Any, None, int, float, str, list[str], dict[str, Any], tuple[int, ...], set[uuid.UUID], decimal.Decimal | None,
        decimal.Decimal | uuid.UUID, TypedDict("Plain", {"a": int}), NewType("Number", int), Literal["a", 1],
        Model, list[Model], dict[str, Model | None], object, Point | Node, Point | list[Model], memoryview, msgspec.Raw,
        list["Undefined"], T, types.SimpleNamespace, Point | Named,  # type: ignore[name-defined]  # noqa: F821
    ],
    ids=repr,
)  # fmt: skip
def test_other_types_are_stored_as_without_a_type(kind: Any) -> None:
    assert isinstance(codec_of(kind)[0], ValueCodec)


def test_the_shape_of_a_type_changes_with_its_fields() -> None:
    def made(**types_: Any) -> list[Any]:
        fields = list(types_.items())
        made_class = dataclasses.make_dataclass("Made", fields)
        model = pydantic.create_model("Made", **{name: (kind, ...) for name, kind in fields})
        return [
            made_class,
            list[made_class],  # type: ignore[valid-type]
            msgspec.defstruct("Made", fields),
            NamedTuple("Made", fields),  # type: ignore[misc]
            TypedDict("Made", types_),  # type: ignore[operator]
            model,
            pydantic.create_model("Outer", inner=(model, ...)),
        ]

    originals, again = made(a=int, b=str), made(a=int, b=str)
    assert [shape_of(kind) for kind in originals] == [shape_of(kind) for kind in again]
    for fields in ({"a": int}, {"a": int, "c": str}, {"a": int, "b": bytes}, {"a": int, "b": str | None}):
        for before, after in zip(originals, made(**fields), strict=True):
            assert shape_of(before).text != shape_of(after).text
    assert len({shape_of(kind).text for kind in originals}) == len(originals)


def test_the_shape_of_an_enum_changes_with_its_members() -> None:
    texts = [shape_of(enum.Enum("E", members)).text for members in ({"A": 1}, {"A": 2}, {"B": 1}, {"A": 1, "B": 2})]
    assert len({*texts}) == 4


def test_the_shape_of_a_struct_changes_with_a_default_that_is_left_out() -> None:
    shapes = [shape_of(msgspec.defstruct("S", [("a", int, default)], omit_defaults=True)).text for default in (1, 2)]
    assert shapes[0] != shapes[1]


@pytest.mark.slow(because="runs programs")
def test_the_shape_of_a_type_is_the_same_in_all_processes() -> None:
    program = "from tests.unit.encoding.test_typed import GOOD, Checked, shape_of as of\n"
    program += "print([of(kind).text for kind, _ in GOOD], of(Checked).text)"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert told == {f"{[shape_of(kind).text for kind, _ in GOOD]} {shape_of(Checked).text}\n".encode()}
    assert shape_of(int | str | Point | None).text == shape_of(None | Point | str | int).text  # type: ignore[operator]
    assert shape_of(Node).text == shape_of(Node).text
    assert shape_of(Point | Node) == ANY


# Hostile bytes -------------------------------------------------------------------------------------------------

CODECS = [TypedCodec(kind) for kind in {repr(kind): kind for kind, _ in GOOD}.values()]


@given(st.sampled_from(CODECS), st.binary(max_size=60), st.sampled_from([b"", b"m", b"j"]))
def test_any_bytes_are_a_decode_error_or_a_value(codec: TypedCodec, data: bytes, mark: bytes) -> None:
    with contextlib.suppress(DecodeError):
        codec.decode(mark + data)


@pytest.mark.parametrize(("kind", "value"), GOOD, ids=numbered(GOOD))
def test_cut_and_changed_bytes_are_a_decode_error_or_a_value_of_the_type(kind: Any, value: Any) -> None:
    codec = TypedCodec(kind)
    data = codec.encode(value)
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]):
            try:
                found = codec.decode(changed)
            except DecodeError:
                continue
            assert type(found) in (type(value), type(None), list, bytearray)


def test_hostile_data_of_a_model_is_a_decode_error() -> None:
    codec = TypedCodec(Named)
    for data in (
        None, 7, "x", [], [1], [None, None], ['{"number": 1}', [["nope"]]], ['{"number": 1}', []], ['{"number": 1}', 7],
        ['{"number": 1}', [["number"], None]], ['{"number": "x"}', None], [b"{", None], ["[" * 100_000, None],
        ['{"number": 1}', [[["number"]]]],
    ):  # fmt: skip
        with pytest.raises(DecodeError):
            codec.decode(b"m" + msgspec.msgpack.encode(data))


def test_deep_bytes_are_a_decode_error() -> None:
    deep = b"m" + b"\x82\xa4name\xa1a\xa8children\x91" * 100_000
    with pytest.raises(DecodeError):
        TypedCodec(Node).decode(deep)
    huge = b"m\x82\xa4name\xa1a\xa8children" + b"\xdd" + struct.pack(">I", 2**32 - 1)
    with pytest.raises(DecodeError):
        TypedCodec(Node).decode(huge)
