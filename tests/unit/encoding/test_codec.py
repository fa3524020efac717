"""A value comes back unchanged or is not stored. Other bytes decode to a value of the declared type or raise."""

import ast
import collections
import datetime as dt
import enum
import math
import pickle
import traceback
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import aiomodelcache
from aiomodelcache.encoding.codec import NATIVE, DecodeError, EncodeError
from aiomodelcache.encoding.rows import Column, KeysCodec, RowCodec
from aiomodelcache.encoding.values import InstanceReference, ValueCodec, is_surely_plain, to_msgpack

steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ANY = RowCodec([Column("value", Any, to_msgpack)])


def same(one: Any, other: Any) -> bool:
    """Returns True if values and types are equal at every depth. NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one.items(), other.items()))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(item, candidate) for candidate in other) for item in one)
    if isinstance(one, dt.datetime | dt.time):
        return bool(one == other and one.utcoffset() == other.utcoffset())
    return bool(one == other)


aware = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC))
text = st.text(st.characters(exclude_categories=["Cs"]))
natives: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(),
    str: text,
    bytes: st.binary(),
    bool: st.booleans(),
    Decimal: st.decimals().filter(lambda number: not number.is_snan()),  # comparing a signalling NaN raises
    uuid.UUID: st.uuids(),
    dt.datetime: aware | st.datetimes(),
    dt.date: st.dates(),
    dt.time: st.times(timezones=st.none() | st.just(dt.UTC)),
    dt.timedelta: st.timedeltas(),
}
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(text, values, max_size=4),
    max_leaves=12,
)
hashables = st.one_of(
    st.none(),
    text,
    st.integers(),
    st.booleans(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.uuids(),
    st.binary(),
    st.tuples(st.integers(), text),
)
results = st.recursive(
    st.one_of(st.none(), st.integers(), *natives.values()),
    lambda values: (
        st.lists(values, max_size=3)
        | st.tuples(values, values)
        | st.dictionaries(hashables, values, max_size=3)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
    ),
    max_leaves=6,
)
TYPED = RowCodec([*(Column(kind.__name__, kind) for kind in NATIVE), Column("any", Any, to_msgpack)])
rows = st.fixed_dictionaries(
    {**{kind.__name__: st.none() | values for kind, values in natives.items()}, "any": documents}
)


def test_every_native_type_is_tried() -> None:
    assert natives.keys() == NATIVE


@pytest.mark.slow(because="tries many values")
@settings(steady, max_examples=50)
@given(rows)
def test_a_row_comes_back_the_same(row: dict[str, Any]) -> None:
    try:
        data = TYPED.encode(row)
    except EncodeError:  # a document with NaN in it is not equal to itself
        assert "nan" in repr(row["any"])
        return
    decoded = TYPED.decode(data)
    assert same(decoded, {name: row[name] for name in decoded})
    assert decoded.keys() == row.keys()
    assert TYPED.decode(data) is not decoded


class Word(enum.StrEnum):
    A = "a"


class Mutable:
    """A value of a user's own class."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return type(other) is Mutable and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def parts_of(value: Any) -> Iterator[Any]:
    """Yields everything inside a value that can be changed."""
    if isinstance(value, dict | list | Mutable | set):
        yield value
    for part in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts_of(part)


SHARED = [
    *(Column(kind.__name__, kind) for kind in NATIVE),
    Column("any", Any, to_msgpack),
    Column("own", Any, lambda value: value.text, Mutable),
    Column("word", Any, lambda value: value.value, Word, is_frozen=True),
]


@pytest.mark.slow(because="tries many values")
@settings(steady, max_examples=50)
@given(rows, st.none() | text, st.booleans())
def test_copies_of_a_shared_row_are_what_decoding_returns(row: dict[str, Any], own: str | None, word: bool) -> None:
    """They share nothing that can be changed."""
    codec = RowCodec(SHARED)
    row = {**row, "own": None if own is None else Mutable(own), "word": Word.A if word else None}
    try:
        data = codec.encode(row)
    except EncodeError:  # a document with NaN in it is not equal to itself
        assert "nan" in repr(row["any"])
        return
    shared, expected = codec.decode_shared(data), codec.decode(data)
    copies = [shared.copy() for _ in range(3)]
    for copy in copies:
        assert same(copy, expected)
        assert list(copy) == list(expected)
    changeable = [id(part) for copy in copies for part in parts_of(copy)]
    assert len(changeable) == len({*changeable}) == 3 * len([*parts_of(expected)])
    for part in [*parts_of(copies[0])]:
        vars(part).clear() if isinstance(part, Mutable) else part.clear()
    assert same(shared.copy(), expected)
    assert shared.size > 0


@steady
@given(results)
@example([2**64, -(2**63) - 1, 10**4000])
@example({1: {(1, "a"): [Decimal("1.0"), Decimal("1.00")]}, "1": {None: (), True: set(), frozenset(): b""}})
@example([dt.datetime.max, dt.datetime.min, dt.timedelta.max, dt.timedelta.min, dt.date.min, dt.time.max])
def test_a_value_of_no_declared_type_comes_back_the_same(value: Any) -> None:
    data = msgspec.msgpack.encode([to_msgpack(value)])
    assert same(ANY.decode(data)["value"], value)


@steady
@given(st.sampled_from(sorted(NATIVE, key=lambda kind: kind.__name__)), st.data())
def test_keys_come_back_the_same(kind: type, data: st.DataObject) -> None:
    codec = KeysCodec(Column("id", kind))
    pks = data.draw(st.lists(natives[kind], max_size=5))
    assert same(codec.decode(codec.encode(pks)), pks)


def test_keys_of_a_custom_field_come_back_the_same() -> None:
    codec = KeysCodec(Column("id", Any, lambda point: to_msgpack([point.x, point.y]), lambda pair: Point(*pair)))
    assert codec.decode(codec.encode([Point(1, 2), Point(3, 4)])) == [Point(1, 2), Point(3, 4)]


# Values that are not stored ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Number(enum.IntEnum):
    ONE = 1


Pair = collections.namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Point(1, 2),
        1j,
        bytearray(b"x"),
        memoryview(b"x"),
        Number.ONE,
        Word.A,
        Pair(1, 2),
        collections.OrderedDict(a=1),
        dt.UTC,
        ValueError("x"),
        int,
        len,
        iter(()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_would_decode_to_another_type_has_no_encoding(value: Any) -> None:
    for wrapped in (value, [value], {"a": (1, [value])}):
        with pytest.raises(TypeError, match=f"<{type(value).__qualname__}> cannot be cached"):
            to_msgpack(wrapped)
        with pytest.raises(EncodeError, match=f"<{type(value).__qualname__}> cannot be cached"):
            ANY.encode({"value": wrapped})


MISFITS: list[tuple[Any, Any]] = [
    (int, "1"),
    (int, 1.5),
    (int, 1.0),
    (int, True),
    (int, Number.ONE),
    (int, 2**64),
    (int, Decimal(1)),
    (float, 1),
    (float, Decimal("0.5")),
    (str, b"x"),
    (str, "\ud800"),
    (str, Word.A),
    (bytes, "x"),
    (bytes, bytearray(b"x")),
    (bool, 1),
    (Decimal, 1),
    (Decimal, 1.5),
    (uuid.UUID, "12345678-1234-4234-8234-1234567890ab"),
    (dt.datetime, dt.date(2024, 1, 1)),
    (dt.datetime, "2024-01-01T00:00:00"),
    (dt.datetime, dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=9)))),
    (dt.date, dt.datetime(2024, 1, 1)),
    (dt.time, dt.timedelta(seconds=1)),
    (dt.timedelta, 1),
    (dt.timedelta, dt.time(1)),
]
"""Column types, and values of other types that a database may hold in such a column."""


@pytest.mark.parametrize(("kind", "value"), MISFITS, ids=repr)
def test_a_value_of_another_type_than_its_column_is_not_stored(kind: type, value: Any) -> None:
    codec = RowCodec([Column("first", int), Column("misfit", kind)])
    with pytest.raises(EncodeError):
        codec.encode({"first": 1, "misfit": value})
    with pytest.raises(EncodeError):
        KeysCodec(Column("misfit", kind)).encode([value])


def test_an_error_names_the_column_at_fault() -> None:
    codec = RowCodec([Column("first", int), Column("second", int), Column("third", bool)])
    with pytest.raises(EncodeError, match=r"Expected `int \| null`, got `str` - at `second`"):
        codec.encode({"first": 1, "second": "two", "third": True})
    with pytest.raises(EncodeError, match="third"):
        codec.encode({"first": 1, "second": 2})
    with pytest.raises(EncodeError, match=r"first is <float>, which would come back as another value \(<int>\)"):
        RowCodec([Column("first", float, int, int)]).encode({"first": 1.0})


@steady
@given(st.sampled_from(sorted(NATIVE, key=lambda kind: kind.__name__)), st.one_of(results, st.floats()))
@example(dt.datetime, dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=9))))
@example(dt.date, dt.datetime(2024, 1, 1))
@example(int, None)
def test_a_stored_value_comes_back_equal_if_its_type_is_not_the_columns(kind: type, value: Any) -> None:
    for codec in (RowCodec([Column("value", kind)]), KeysCodec(Column("value", kind))):
        row: Any = {"value": value} if isinstance(codec, RowCodec) else [value]
        try:
            decoded: Any = codec.decode(codec.encode(row))
        except EncodeError:
            continue
        assert same(decoded, row) or (isinstance(value, dt.datetime) and decoded == row)


def test_only_values_that_might_change_are_decoded_again_and_compared() -> None:
    loads: list[Any] = []

    def load(value: Any) -> Any:
        loads.append(value)
        return value

    lossless = Column("lossless", int, None, load, lambda value: type(value) is int)
    unproven = Column("unproven", int, None, load)
    assert RowCodec([lossless, unproven]).encode({"lossless": 1, "unproven": None}) == msgspec.msgpack.encode([1, None])
    KeysCodec(lossless).encode([1, 2])
    assert loads == []
    RowCodec([lossless, unproven]).encode({"lossless": 1, "unproven": 2})
    KeysCodec(unproven).encode([3])
    assert loads == [1, 2, 3]
    with pytest.raises(EncodeError):
        KeysCodec(lossless).encode([1, True])


class Anonymous:
    """A class without an equality of its own."""

    def __init__(self, text: str) -> None:
        self.text = text


class Array:
    """A class whose instances have no truth value, like the arrays of a numeric library."""

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("the truth of an array is ambiguous")


def test_values_without_a_usable_equality_are_stored() -> None:
    codec = RowCodec(
        [
            Column("one", Any, lambda value: value.text, Anonymous),
            Column("two", Any, lambda value: value.items, Array),
        ]
    )
    decoded = codec.decode(codec.encode({"one": Anonymous("x"), "two": Array([1, 2])}))
    assert decoded["one"].text == "x"
    assert decoded["two"].items == [1, 2]
    assert codec.decode(codec.encode({"one": None, "two": None})) == {"one": None, "two": None}


def test_a_conversion_that_cannot_be_undone_is_an_error() -> None:
    hashed = Column("secret", str, lambda value: f"hash of {value}", None)
    with pytest.raises(EncodeError, match=r"secret is <str>, which would come back as another value \(<str>\)"):
        RowCodec([hashed]).encode({"secret": "x"})
    with pytest.raises(EncodeError, match=r"secret is <str>, which would come back as another value \(<str>\)"):
        KeysCodec(hashed).encode(["x"])


class CustomFieldError(Exception):
    """An error of a user's own field class."""


def failing(*_: Any) -> Any:
    raise CustomFieldError("a custom field's own error")


def assert_shows_where(error: Exception) -> None:
    """The text of a user's own error may hold a value: a traceback shows where it was raised, and its class."""
    text = "".join(traceback.format_exception(error))
    assert "CustomFieldError" in text
    assert "in failing" in text
    assert ": a custom field's own error" not in text


def test_an_error_of_a_custom_field_becomes_an_error_of_the_codec() -> None:
    for dump, load in ((failing, str), (str, failing)):
        column = Column("custom", str, dump, load)
        with pytest.raises(EncodeError, match=r"^CustomFieldError$") as caught:
            RowCodec([column]).encode({"custom": "x"})
        assert_shows_where(caught.value)
        with pytest.raises(EncodeError, match=r"^CustomFieldError$"):
            KeysCodec(column).encode(["x"])
    with pytest.raises(DecodeError, match=r"^CustomFieldError$") as failed:
        RowCodec([Column("custom", str, None, failing)]).decode(msgspec.msgpack.encode(["x"]))
    assert_shows_where(failed.value)
    with pytest.raises(DecodeError, match=r"^CustomFieldError$"):
        KeysCodec(Column("custom", str, None, failing)).decode(msgspec.msgpack.encode(["x"]))


# Foreign bytes ---------------------------------------------------------------------------------------


def nest(depth: int, make: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


GOOD = TYPED.encode(
    {
        "int": 7,
        "float": 0.5,
        "str": "text",
        "bytes": b"bytes",
        "bool": True,
        "Decimal": Decimal("1.5"),
        "UUID": uuid.UUID(int=7),
        "datetime": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "date": dt.date(2024, 1, 1),
        "time": dt.time(1, 2, 3),
        "timedelta": dt.timedelta(seconds=1),
        "any": {"key": [1, None, 2**70]},
    }
)
EXTENSIONS = [*range(12), -1, -128, 127]
CODECS: list[tuple[RowCodec | KeysCodec, Any]] = [
    (TYPED, dict),
    (ANY, dict),
    *((KeysCodec(Column("id", kind)), list) for kind in NATIVE),
]


def assert_value_or_error(data: bytes) -> None:
    """Decodes with every codec, and asserts that the result has the right type or the error is ``DecodeError``."""
    for codec, kind in CODECS:
        try:
            value = codec.decode(data)
        except DecodeError:
            continue
        assert type(value) is kind
        if codec is TYPED:
            for name, item in value.items():
                expected = next((native for native in NATIVE if native.__name__ == name), None)
                assert item is None or expected is None or type(item) is expected


@steady
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
def test_arbitrary_bytes_decode_to_a_value_or_an_error(data: bytes) -> None:
    assert_value_or_error(data)


@steady
@given(results)
def test_other_values_decode_to_a_value_or_an_error(value: Any) -> None:
    assert_value_or_error(msgspec.msgpack.encode(to_msgpack(value)))
    assert_value_or_error(msgspec.msgpack.encode([to_msgpack(value)] * 3))


@steady
@given(st.lists(st.tuples(st.sampled_from(EXTENSIONS), st.binary(max_size=20)), min_size=1, max_size=3))
@example([(1, b"9" * 5000), (2, b"1E+99999999999999999999"), (2, b"x"), (3, b"x"), (4, b"2024"), (7, b"9" * 30)])
@example([(8, b"\x91"), (8, b"\x01"), (9, b"\x91\x80"), (10, b"\x91\x91\x01"), (8, b"\xd4\x63\x00")])
def test_foreign_extensions_decode_to_a_value_or_an_error(items: list[tuple[int, bytes]]) -> None:
    extensions = [msgspec.msgpack.Ext(code, data) for code, data in items]
    assert_value_or_error(msgspec.msgpack.encode(extensions))
    for extension in extensions:
        assert_value_or_error(msgspec.msgpack.encode([extension]))


def test_truncated_bytes_raise_and_changed_bytes_decode_to_a_value_or_an_error() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(DecodeError):
            TYPED.decode(GOOD[:length])
    with pytest.raises(DecodeError):
        TYPED.decode(GOOD + b"\0")
    for at in range(len(GOOD)):
        for bit in range(8):
            assert_value_or_error(GOOD[:at] + bytes([GOOD[at] ^ 1 << bit]) + GOOD[at + 1 :])


@pytest.mark.slow(because="decodes documents of every depth")
def test_nesting_of_any_depth_is_a_value_or_an_error() -> None:
    for depth in (10, 1_000, 100_000, 1_000_000):
        for opening in (b"\x91", b"\x81\x01", b"\x81", b"\xc7\xff\x08", b"\xd4\x08"):
            assert_value_or_error(opening * depth)
            assert_value_or_error(b"\x91" + opening * depth + b"\x01")
    wrapped = b"\x01"
    for _ in range(3_000):  # nested tuples
        wrapped = b"\x91" + b"\xc9" + len(wrapped).to_bytes(4) + b"\x08" + wrapped
    assert_value_or_error(wrapped)
    for make in (lambda value: [value], lambda value: {"a": value}, lambda value: (value,)):
        with pytest.raises(EncodeError):
            ANY.encode({"value": nest(100_000, make)})
        assert same(ANY.decode(ANY.encode({"value": nest(100, make)}))["value"], nest(100, make))


def test_a_claimed_size_allocates_no_memory() -> None:
    tracemalloc.start()
    try:
        for head in (b"\xdc", b"\xde", b"\xc5", b"\xda", b"\xc8", b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"):
            for size in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"):
                assert_value_or_error(head + size)
                assert_value_or_error(b"\x91" + head + size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**24


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_decoding_runs_no_code(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        bomb = pickle.dumps(Bomb(target), protocol)
        for data in (bomb, msgspec.msgpack.encode(bomb), msgspec.msgpack.encode([bomb])):
            assert_value_or_error(data)
        for code in EXTENSIONS:
            assert_value_or_error(msgspec.msgpack.encode([msgspec.msgpack.Ext(code, bomb)]))
    assert not target.exists()
    pickle.loads(bomb)  # proves that the bomb works
    assert target.exists()


@pytest.mark.slow(because="reads every module of the library")
def test_the_package_imports_no_module_that_could_run_bytes() -> None:
    package = Path(aiomodelcache.__file__).parent
    dangerous = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml"}
    audited = package / "inspection" / "foreign_caches.py"  # the pickles of another cache, if its audit asks for that
    for path in {*package.rglob("*.py")} - {audited}:
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path
            assert not dangerous & {name.split(".")[0] for name in names}, path


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 9, 20, 240, 260, 70_000])
def test_bytes_with_a_reference_are_never_held_to_be_plain(size: int) -> None:
    """msgpack writes an extension with one of seven heads, by its length."""
    codec, reference = ValueCodec(), InstanceReference("app.Event", b"x" * size)
    small = msgspec.msgpack.Ext(12, b"x" * size)
    for value in (reference, [reference], {"a": [12, reference, 12]}, ("text", reference)):
        assert not is_surely_plain(codec.encode(value))
    assert not is_surely_plain(msgspec.msgpack.encode(["\x0c", small, 12]))


def test_plain_bytes_are_mostly_held_to_be_plain() -> None:
    codec = ValueCodec()
    rows = [
        {"id": number, "title": "Caf\x0c\n" * 9, "number": 12, "at": dt.date(2024, 1, number)}
        for number in range(1, 20)
    ]
    assert is_surely_plain(codec.encode(rows))
    assert is_surely_plain(codec.encode(b"\x0c" * 99))
    assert not is_surely_plain(codec.encode([[]] * 101)), "it may be nested too deep"
