"""Different lookups have different keys, and a writer names the key that a reader used."""

import collections
import datetime as dt
import enum
import math
import re
import uuid
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.encoding.keys import encode_single, encode_value, encode_values, key_prefix
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.field_models import Keyed, Level, Mood, Owner, Point
from tests.support.models.models import Event, User, Venue

UTC = dt.UTC
BERLIN = ZoneInfo("Europe/Berlin")


class Plain(enum.Enum):
    A = 1
    B = "b"


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Text(str):
    __slots__ = ()


class Weight(float):
    """A float with its own repr, like NumPy's floats."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Weight({float(self)})"

    def __add__(self, other: float) -> "Weight":
        return Weight(float(self) + other)


class Nowhere(dt.tzinfo):
    """A time zone without an offset."""

    def utcoffset(self, moment: dt.datetime | None) -> None:
        return None


steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Settings for the same examples on every run, without time limits, because machines may be slow."""

Pair = collections.namedtuple("Pair", "x y")

# The identity of a value -----------------------------------------------------------------------------
#
# `identity` returns equal results for values that a database treats as equal, and does not know keys. `read` decodes a
# key to identities. If these are the identities of the encoded values, no two different lookups share a key. Comparing
# random pairs of keys could not prove this.


def identity(value: Any) -> Any:
    match value:
        case None:
            return ("null",)
        case bool():
            return ("bool", value)
        case int():
            return ("int", int(value))
        case str():
            return ("str", str.__str__(value))
        case float():
            return ("float", "nan" if math.isnan(value) else float(value))
        case Decimal():
            return ("decimal", Fraction(value) if value.is_finite() else str(value))
        case dt.datetime() if value.utcoffset() is not None:
            return ("instant", value.astimezone(UTC))
        case dt.datetime():
            return ("moment", value.replace(tzinfo=None, fold=0))
        case dt.time():
            return ("time", value.replace(tzinfo=None, fold=0), value.utcoffset())
        case bytes() | dt.date() | dt.timedelta() | uuid.UUID():
            return (type(value).__name__.lower(), value)
        case enum.Enum():
            return ("enum", f"{type(value).__module__}.{type(value).__qualname__}.{value.name}")
        case tuple():
            return ("tuple", tuple(map(identity, value)))
        case list():
            return ("list", tuple(map(identity, value)))
        case set() | frozenset():
            return ("set", frozenset(map(identity, value)))
        case dict():
            return ("dict", frozenset(map(identity, value.items())))
    raise AssertionError(value)


def unescaped(text: bytes) -> bytes:
    return re.sub(rb"%([0-9A-F]{2})", lambda code: bytes([int(code[1], 16)]), text)


def read_items(text: bytes) -> tuple[Any, ...]:
    return tuple(read(unescaped(item)) for item in text.split(b",")) if text else ()


def read_decimal(text: str) -> Any:
    number = Decimal(text)
    return Fraction(number) if number.is_finite() else text


def read(text: bytes) -> Any:
    """Returns the identity of the value that a part of a key encodes."""
    tag, rest = text[:1].decode(), text[1:]
    word = unescaped(rest).decode("utf-8", "surrogatepass")
    match tag:
        case "n":
            return ("null",)
        case "b":
            return ("bool", rest == b"1")
        case "i":
            return ("int", int(rest))
        case "s":
            return ("str", word)
        case "f":
            return ("float", "nan" if word == "nan" else float(word))
        case "d":
            return ("decimal", read_decimal(word))
        case "T":
            return ("instant", dt.datetime(1970, 1, 1, tzinfo=UTC) + dt.timedelta(microseconds=int(rest)))
        case "t":
            return ("moment", dt.datetime.fromisoformat(word))
        case "h":
            time = dt.time.fromisoformat(word)
            return ("time", time.replace(tzinfo=None), time.utcoffset())
        case "D":
            return ("date", dt.date.fromisoformat(word))
        case "p":
            return ("timedelta", dt.timedelta(microseconds=int(rest)))
        case "u":
            return ("uuid", uuid.UUID(word))
        case "x":
            return ("bytes", bytes.fromhex(word))
        case "e":
            return ("enum", word)
        case "(":
            return ("tuple", read_items(rest))
        case "[":
            return ("list", read_items(rest))
        case "S":
            return ("set", frozenset(read_items(rest)))
        case "m":
            assert rest[:1] == b"S"
            return ("dict", frozenset(read_items(rest[1:])))
    raise AssertionError(text)


offsets = st.builds(
    lambda seconds: dt.timezone(dt.timedelta(seconds=seconds)), st.integers(-86_399, 86_399)
) | st.sampled_from([UTC, BERLIN, ZoneInfo("America/New_York")])
moments = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=st.none() | offsets)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals().filter(lambda number: not number.is_snan()),  # a signalling NaN cannot be put into a set
    st.text(max_size=20),
    st.text(alphabet=":%,#(sin1", max_size=6),
    st.text(alphabet=st.characters(categories=["Cs", "Cc"]), max_size=3),
    st.binary(max_size=20),
    moments,
    st.dates(),
    st.times(timezones=st.none() | offsets),
    st.timedeltas(),
    st.uuids(),
    st.sampled_from([*Plain, *Number, *Word, Text("a:b"), Weight(0.5)]),
)
hashables = scalars | st.tuples(scalars, scalars) | st.frozensets(scalars, max_size=3)
nested = st.recursive(
    hashables,
    lambda values: (
        st.lists(values, max_size=3)
        | st.tuples(values, values)
        | st.dictionaries(hashables, values, max_size=3)
        | st.sets(hashables, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.exhaustive(because="tries many values")
@pytest.mark.slow(because="tries many values")
@steady
@given(st.lists(nested, max_size=3))
@example([(), [], {}, set(), ""])
@example([(("a", "b"), "c"), ("a", ("b", "c")), ("a,b",), ("a:b", "%2C")])
@example([Decimal("sNaN"), Decimal("-Infinity"), Decimal("0E+7"), Decimal("1E+400"), -0.0, float("-inf")])
@example([{1}, {1: 2}, "", " ", "\0", "\ud800", ":", "%3A", "%253A"])
@example([dt.datetime(2024, 10, 27, tzinfo=Nowhere()), dt.time(1, tzinfo=BERLIN)])
@example([dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN), dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)])
def test_a_key_can_be_decoded_to_the_values_that_it_encodes(values: list[Any]) -> None:
    key = encode_values(values)
    assume(not key.startswith(b"#"))
    parts = key.split(b":") if values else []
    assert [read(part) for part in parts] == [identity(value) for value in values]


@pytest.mark.slow(because="tries many values")
@steady
@given(st.one_of(nested, st.integers(), st.text(), st.text("x", min_size=155, max_size=170)))
def test_encode_single_returns_the_same_key_as_encode(value: Any) -> None:
    assert encode_single(value) == encode_values([value])


@pytest.mark.slow(because="tries many values")
@steady
@given(st.lists(nested, max_size=3), st.lists(nested, max_size=3))
@example([1], [True])
@example([1], [1.0])
@example([0], [None])
@example(["x" * 160], ["x" * 161])
@example(["x" * 200, "y"], ["x" * 200, "z"])
def test_keys_are_equal_if_and_only_if_the_values_are(one: list[Any], other: list[Any]) -> None:
    same = [identity(value) for value in one] == [identity(value) for value in other]
    assert (encode_values(one) == encode_values(other)) == same


def test_values_that_python_treats_as_equal_have_different_keys() -> None:
    values = [1, "1", True, Decimal(1), 1.0, None, "None", b"1", (1,), [1], {1}, "", b"", (), [], {}, set()]
    assert len({encode_value(value) for value in values}) == len(values)
    assert len({encode_values([value]) for value in values}) == len(values)


@pytest.mark.parametrize(
    "values",
    [
        [Decimal("1"), Decimal("1.0"), Decimal("1.000"), Decimal("10E-1"), Decimal("0.01E+2")],
        [Decimal("-100"), Decimal("-1E+2"), Decimal("-100.00")],
        [Decimal(0), Decimal("-0"), Decimal("0.000"), Decimal("0E+9")],
        [0.0, -0.0, Weight(-0.0)],
        [0.5, Weight(0.5)],
        [1, Number.ONE],
        ["a", Word.A, Text("a")],
        ["good", Mood.GOOD],
        [
            dt.datetime(2024, 5, 1, 12, tzinfo=UTC),
            dt.datetime(2024, 5, 1, 14, tzinfo=BERLIN),
            dt.datetime(2024, 5, 1, 4, 30, tzinfo=dt.timezone(dt.timedelta(hours=-7, minutes=-30))),
        ],
        [(1, "a"), Pair(1, "a")],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}, collections.OrderedDict(b=2, a=1)],
        [{1, 2, 3}, frozenset({3, 2, 1})],
    ],
    ids=lambda values: repr(values[0]),
)
def test_values_that_a_database_treats_as_equal_share_a_key(values: list[Any]) -> None:
    assert len({encode_values([value, "x"]) for value in values}) == 1


def test_a_drivers_own_uuid_shares_the_key_of_the_standard_one() -> None:
    driver = pytest.importorskip("asyncpg.pgproto.pgproto")
    value = uuid.uuid4()
    assert encode_values([driver.UUID(value.bytes)]) == encode_values([value])


@steady
@given(st.integers(100, 400), st.integers(100, 400))
def test_long_values_have_different_keys_of_limited_length(one: int, other: int) -> None:
    first, second = encode_values(["x" * one]), encode_values(["x" * other])
    assert (first == second) == (one == other)
    assert len(first) <= 160
    assert first.startswith(b"#" if one >= 160 else b"sx")  # 160 with the tag


def test_long_values_have_different_digests() -> None:
    assert len({encode_values(["x" * length]) for length in range(160, 3_000)}) == 2_840
    assert encode_values(["x" * 160]) == b"#24b67c3bc83b11f0155dd287263d6faac3c078e7"


def test_an_error_names_the_unsupported_type() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<odd>"

    unsupported: Iterable[Any] = (Odd(), 1j, bytearray(b"x"), memoryview(b"x"), object, len, iter(()))
    for value in unsupported:
        for values in ([value], ["a", value], [(1, [value])], [{"a": value}]):
            with pytest.raises(TypeError, match="cannot be part of a cache key: use a number, a string") as caught:
                encode_values(values)
            assert type(value).__qualname__ in str(caught.value)
    with pytest.raises(TypeError, match=r"^A value of type .*Odd cannot be part of a cache key"):
        encode_values([Odd()])


names = st.text(alphabet=":%.,[]-ari\0ä", max_size=5)


@steady
@given(names, st.sampled_from("ries"), st.lists(names, min_size=1, max_size=4), st.text(alphabet=":%sr#", max_size=3))
@example("amc", "r", ["amc", "r"], "amc")
def test_special_characters_keep_a_name_in_its_part_of_the_key(
    namespace: str, kind: str, parts: list[str], value: str
) -> None:
    key = key_prefix(namespace, kind, *parts) + encode_values([value])
    *head, last = key.split(b":")
    assert read(last) == ("str", value)
    head = [unescaped(part) for part in head]
    assert head[-len(parts) :] == [part.encode() for part in parts]
    assert head[: -len(parts)] == [*([namespace.encode()] if namespace else []), b"amc", kind.encode()]


def test_keys_are_readable() -> None:
    assert key_prefix("", "r", "default", "event") + encode_values([7]) == b"amc:r:default:event:i7"
    assert key_prefix("a:b", "i", "default", "event", "city,name") + encode_values(["Köln: Dom", None]) == (
        "a%3Ab:amc:i:default:event:city,name:sKöln%3A Dom:n".encode()
    )


# Keys of models --------------------------------------------------------------------------------------

KEY = uuid.UUID("12345678-1234-4234-8234-1234567890AB")
NOON = dt.datetime(2024, 5, 1, 12, tzinfo=UTC)

SPELLINGS: dict[str, list[list[Any]]] = {
    "integer": [[1, "1", True, 1.0, Decimal(1), Number.ONE, 1.9], [0, False], [-1], [None]],
    "big": [[2**63 - 1, str(2**63 - 1)], [1]],
    "char": [["1", 1, Text("1"), Decimal(1)], ["True", True], ["a", Word.A], ["A"], [""], ["x" * 200], [None]],
    "code": [["a", Word.A, Text("a")], ["b"]],
    "text": [["a", Word.A, Text("a")], ["1", 1]],
    "flag": [[True, 1, "x"], [False, 0, ""], [None]],
    "price": [[Decimal("1"), "1.00", 1, Decimal("1.0"), 1.0], [Decimal("1.004")], [Decimal("1.10"), "1.1"], [1.1]],
    "number": [[1.0, 1, "1", Weight(1), Decimal(1)], [0.0, -0.0, Weight(-0.0)], [0.1], [float("inf")]],
    "moment": [
        [NOON, NOON.astimezone(BERLIN), NOON.isoformat(), "2024-05-01T14:00:00+02:00"],
        [NOON.replace(microsecond=1)],
    ],
    "day": [[NOON.date(), "2024-05-01", NOON, NOON.replace(tzinfo=None)], [dt.date(2024, 5, 2)]],
    "span": [[dt.timedelta(seconds=1), dt.timedelta(milliseconds=1000)], [dt.timedelta(seconds=-1)]],
    "key": [[KEY, str(KEY), str(KEY).upper(), KEY.hex, f"{{{KEY}}}"], [uuid.UUID(int=0)]],
    "level": [[Level.LOW, -1], [Level.HIGH, 2**15 - 1], [None]],
    "mood": [[Mood.GOOD, "good"], [Mood.BAD, "bad"], [None]],
    "point": [[Point(1, 2), "1;2"], [Point(2, 1)], [None]],
}
"""Groups of values by field. Every value of a group looks up the same rows."""

BAD_VALUES: dict[str, list[Any]] = {
    "integer": ["x", "", float("nan"), float("inf"), object(), [], b"\xff"],
    "char": ["x" * 201, Text("x" * 201)],
    "code": ["UPPER", "toolong", Text("A")],
    "price": ["x", "", object()],
    "number": ["x", object()],
    "moment": ["yesterday", object()],
    "day": ["yesterday", 2024],
    "span": [1, "1"],
    "key": ["x", "", 5, b"\0" * 16],
    "level": [5, "x", Mood.GOOD],
    "mood": ["GOOD", ""],
    "owner": [Level.LOW, "kim", Keyed(id=1)],
}
"""Values by field that the field cannot be looked up by."""


@pytest.mark.models("tests.support.models.field_models")
@pytest.mark.only_on("no store", because="it is about keys alone")
async def test_all_spellings_of_a_value_share_a_key(database: BaseDBAsyncClient) -> None:
    schema = ModelSchema(Keyed)
    for field, groups in SPELLINGS.items():
        keys = []
        for group in groups:
            group_keys = {encode_values([schema.key_value(field, schema.normalise(field, value))]) for value in group}
            assert len(group_keys) == 1, (field, group)
            keys += group_keys
            for value in group:
                normalised = schema.normalise(field, value)
                assert normalised == schema.normalise(field, normalised)
                assert type(normalised) is type(schema.normalise(field, group[0]))
                assert hash(normalised) == hash(schema.normalise(field, group[0])), (field, value)
        equal = field == "price" and schema.dialect == "sqlite"  # SQLite compares 1.1 and Decimal("1.10") as floats
        assert len(set(keys)) == len(groups) - equal, field


@pytest.mark.models("tests.support.models.field_models")
async def test_a_bad_value_is_an_error_that_names_the_field(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    for field, values in BAD_VALUES.items():
        for value in values:
            query = Keyed.cache.get(**{field: value})
            with pytest.raises(ValueError, match=rf"^Keyed\.{field}(_id)? cannot be looked up by "):
                await query


@pytest.mark.models("tests.support.models.field_models")
async def test_a_related_instance_stands_for_its_key(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    owner = await Owner.create(name="Kim")
    row = await Keyed.create(owner=owner)
    for value in (owner, owner.id, str(owner.id), await Owner.cache.get(id=owner.id)):
        assert await Keyed.cache.get(owner=value) == row


@pytest.mark.models("tests.support.models.field_models")
async def test_a_writer_names_the_key_that_readers_used(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    """For each type, a create invalidates the absence and a save invalidates the old value, in every spelling."""
    clock = dt.time(12, 30, 0, 1, tzinfo=UTC)
    columns: dict[str, list[list[Any]]] = {**SPELLINGS}
    if database.connection_name != "sqlite":
        columns["clock"] = [[clock], [dt.time(12, 30, 0, 2, tzinfo=UTC)]]
    loose = {"char", "code", "text", "point"} if database.connection_name == "mariadb" else set()
    columns["price"] = [SPELLINGS["price"][0], SPELLINGS["price"][2]]
    for field, groups in columns.items():
        first, second = groups[0], groups[1]
        for value in first:
            assert await Keyed.cache.get_or_none(**{field: value}) is None
        async with assert_ops(backend, sql=len(first) if field in loose else 0):
            for value in first:
                assert await Keyed.cache.get_or_none(**{field: value}) is None
        row = await Keyed.create(**{field: first[0]})
        for value in first:
            assert await Keyed.cache.get(**{field: value}) == row, (field, value)
        async with assert_ops(backend, sql=len(first) if field == "text" and loose else 0):  # "text" is not unique
            for value in first:
                assert await Keyed.cache.get(**{field: value}) == row, (field, value)
        assert await Keyed.cache.get_or_none(**{field: second[0]}) is None

        same = await Keyed.cache.get(id=row.id)
        setattr(same, field, second[0])
        await same.save()
        for value in second:
            assert await Keyed.cache.get(**{field: value}) == row, (field, value)
        for value in first:
            assert await Keyed.cache.get_or_none(**{field: value}) is None, (field, value)
        same = await Keyed.cache.get(id=row.id)
        await same.delete()
        assert await Keyed.cache.get_or_none(**{field: second[0]}) is None


async def test_a_related_instance_without_a_key_is_an_error(cache: ModelCache) -> None:
    with pytest.raises(ValueError, match=r"^Event\.organizer_id cannot be looked up by .* save it first"):
        await Event.cache.filter(organizer=User(username="kim"))


@pytest.mark.models("tests.support.models.field_models")
async def test_a_save_of_a_bad_value_fails_as_it_would_without_the_cache(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    row = await Keyed.create(price=Decimal(1))
    await Keyed.cache.get(price=1)
    row.price = "no price"  # type: ignore[assignment]
    with pytest.raises(ArithmeticError):
        await row.save()
    may_survive = database.capabilities.dialect == "mysql"  # a rollback there invalidates what the transaction wrote
    async with assert_ops(backend, sql=1 if may_survive else 0):
        assert await Keyed.cache.get(price=1) == row


async def test_a_row_has_one_entry_for_all_its_lookups(cache: ModelCache) -> None:
    """The primary key is a UUID, for which asyncpg returns a class of its own."""
    venue = await Venue.create(id=uuid.uuid4(), city="Bonn", name="Home")
    assert await Venue.cache.get(city="Bonn", name="Home") == venue
    same = await Venue.cache.get(id=str(venue.id))
    same.name = "Away"
    await same.save()
    assert (await Venue.cache.get(city="Bonn", name="Away")).name == "Away"
    assert (await Venue.cache.get(id=venue.id)).name == "Away"
    assert await Venue.cache.get_or_none(city="Bonn", name="Home") is None


@pytest.mark.models("tests.support.models.field_models")
async def test_keys_are_built_from_the_values_that_the_database_stores(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    rounded = Decimal("7.00")
    assert await Keyed.cache.get_or_none(price=rounded) is None
    row = await Keyed.create(price=Decimal("7.004"))
    stored = (await Keyed.get(id=row.id)).price
    assert stored == rounded
    if database.connection_name != "sqlite":  # SQLite stores the value unrounded, and it is rounded when it is read
        assert await Keyed.cache.get_or_none(price=Decimal("7.004")) is None
        assert await Keyed.cache.get(price=rounded) == row
        row.price = Decimal("8.996")
        await row.save()
        assert await Keyed.cache.get(price=9) == row

    local = NOON.astimezone(BERLIN)
    assert await Keyed.cache.filter(moment=NOON) == []
    assert await Keyed.cache.filter(moment=local.replace(tzinfo=UTC)) == []
    row.moment = local
    await row.save()
    moment = (await Keyed.get(id=row.id)).moment
    if database.connection_name != "sqlite":  # SQLite compares the stored texts
        assert await Keyed.cache.filter(moment=moment) == await Keyed.filter(moment=moment) == [row]
        assert await Keyed.cache.get(moment=moment) == row
