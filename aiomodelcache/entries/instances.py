"""Instances inside derived entries, stored by value: columns, annotations and fetched relations.

The tokens of a derived entry say that all of it is current, so no row has to be read again. Knows models and bytes, not
tokens. Decoded instances are as if they were loaded from the database, with one object where the original had one.
"""

import enum
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec
from tortoise.fields.relational import ReverseRelation
from tortoise.models import Model

from aiomodelcache.encoding.codec import Codec, DecodeError, EncodeError
from aiomodelcache.encoding.rows import RowCodec, SharedRow
from aiomodelcache.encoding.shared import SharedPlain, shared_plain
from aiomodelcache.encoding.values import StoredInstance, StoredMember, ValueCodec
from aiomodelcache.entries.base import fingerprint
from aiomodelcache.entries.results import is_flat, map_nested, references_in
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.orm.connections import bound_models
from aiomodelcache.orm.hydrate import adopt_all
from aiomodelcache.orm.meta import enum_fields, full_name, is_partial, is_saved
from aiomodelcache.orm.relations import plural_relations, single_relations
from aiomodelcache.orm.schema import ModelSchema

_values: Final = ValueCodec()
_REPLACED: Final = (Model, enum.Enum, uuid.UUID)
_TORTOISE_ATTRIBUTES: Final = 4
"""The number of attributes, beside columns, that every loaded instance has. See ``ModelSchema.instance``."""


class OtherSchema(DecodeError):
    """The error for instances that were stored with another schema of their model."""


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """A value, and the instances inside it in the order in which they were found."""

    kinds: list[tuple[str, bytes, list[str] | None]]
    """The model, its fingerprint, and the columns of partial instances, for each kind."""
    runs: list[tuple[int, list[bytes]]]
    """The rows of consecutive instances of one kind."""
    extras: list[tuple[int, dict[str, list[int]], dict[str, int | None], bytes]]
    """The parts of the instances other than columns: their lists, single relations, and other attributes."""
    numbers: list[int] | None
    """The value, if it is a list of instances: their numbers."""
    content: bytes
    """Any other value, with a ``StoredInstance`` for each instance."""


PLAIN: Final = b"p"
"""The first byte of a value without instances."""
WITH_INSTANCES: Final = b"i"
"""The first byte of a value with instances."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Stored).decode


class _ModelParts(NamedTuple):
    """The attributes that instances of one model may have, by kind."""

    schema: ModelSchema
    attributes: frozenset[str]
    """The columns, and the attributes of Tortoise that are made anew."""
    singles: Mapping[str, str]
    """The names of relations to at most one row, by the attributes that hold the row."""
    plurals: Mapping[str, str]
    """The names of relations to several rows, by the attributes that hold their container."""


class _Kind(NamedTuple):
    """Instances of one model that are stored and decoded alike. ``columns`` is None for instances with all columns."""

    parts: _ModelParts
    columns: tuple[str, ...] | None
    codec: RowCodec
    header: tuple[str, bytes, list[str] | None]

    @property
    def loaded(self) -> dict[str, Any]:
        """The attributes that the instances have alike, beside columns."""
        return {**self.parts.schema.loaded, "_partial": self.columns is not None}


class SharedValue(NamedTuple):
    """A decoded value with instances in it, of which any number of copies can be made."""

    runs: list[tuple[_Kind, list[SharedRow]]]
    rest: _Stored
    """All but the rows."""

    @property
    def size(self) -> int:
        """The approximate bytes that the rows take in memory."""
        return sum(row.size for _, rows in self.runs for row in rows)


class InstanceCodec:
    """The codec of values with instances of any model in them. ``bound`` are the entries of cached models."""

    def __init__(self, bound: Mapping[type[Model], Any], codec: Codec, *, may_hold: bool) -> None:
        self._bound = bound
        self._codec = codec
        self._may_hold = may_hold
        """False if the codec's values hold no instances."""
        self._parts: dict[type[Model], _ModelParts] = {}
        self._kinds: dict[tuple[type[Model], tuple[str, ...] | None], _Kind] = {}
        self._models: dict[str, type[Model]] = {}
        self._members: dict[type[enum.Enum], tuple[str, str]] = {}

    def encode(self, value: Any) -> bytes:
        """Returns the bytes of a value. Raises ``EncodeError``, or what the codec of the value raises."""
        if not self._may_hold or is_flat(value):
            return PLAIN + self._codec.encode(value)
        graph = _Graph(self.kind_of, self._member)
        numbers: list[int] | None = None
        content = b""
        if self._is_default and _is_list_of_instances(value):
            numbers = [graph.number(item) for item in value]
        else:
            content = self._codec.encode(map_nested(value, _REPLACED, graph.marker))
            if not graph.marked:
                return PLAIN + content
        graph.finish()
        return WITH_INSTANCES + _encode(
            _Stored([kind.header for kind in graph.kinds], graph.runs, graph.extras, numbers, content)
        )

    def decode(self, data: bytes) -> Any:
        """Returns the value. Raises ``OtherSchema``, or anything for bytes that this program did not store."""
        if data[:1] == PLAIN:
            return self._codec.decode(data[1:])
        stored, runs = self._opened(data)
        instances: list[Model] = []
        for kind, rows in runs:
            decoded, loaded = kind.codec.decode_all(rows), kind.loaded
            for values in decoded:
                values.update(loaded)
            instances += adopt_all(kind.parts.schema, decoded)
        return self._completed(stored, instances)

    def decode_shared(self, data: bytes) -> SharedValue | SharedPlain | None:
        """Decodes a value to be handed out many times, or returns None if ``decode`` takes no longer than copies do.

        Raises the exceptions of ``decode``.
        """
        if data[:1] == PLAIN:  # values of a user's own codec may differ each time
            return shared_plain(self.decode(data)) if self._is_default or not self._may_hold else None
        stored, runs = self._opened(data)
        shared = [(kind, list(map(kind.codec.decode_shared, rows))) for kind, rows in runs]
        for kind, rows in shared:
            attributes: dict[str, Any] = {**kind.loaded, "_await_when_save": None}
            for row in rows:
                row.add(attributes)
        stored.runs.clear()
        return SharedValue(shared, stored)

    def copy_of(self, shared: SharedValue | SharedPlain) -> Any:
        """Returns a value as ``decode`` does."""
        if isinstance(shared, SharedPlain):
            return shared.copy(shared.value)
        instances: list[Model] = []
        for kind, rows in shared.runs:
            instances += adopt_all(kind.parts.schema, [row.copy() for row in rows])
        return self._completed(shared.rest, instances)

    def _opened(self, data: bytes) -> tuple[_Stored, list[tuple[_Kind, list[bytes]]]]:
        """Returns a stored value with instances in it, and the rows of consecutive instances of one kind."""
        if data[:1] != WITH_INSTANCES or not self._may_hold:
            raise DecodeError("it does not begin like a value")
        stored = _decode(data[1:])
        kinds = [self._kind_named(*header) for header in stored.kinds]
        return stored, [(kinds[at], rows) for at, rows in stored.runs]

    def _completed(self, stored: _Stored, instances: list[Model]) -> Any:
        """Returns the value, made of its instances."""
        for number, plurals, singles, others in stored.extras:
            _attach(instances[number], self.parts_of(type(instances[number])), plurals, singles, instances)
            if others:
                vars(instances[number]).update(self._restored(_values.decode(others), instances))
        if stored.numbers is not None:
            return [instances[number] for number in stored.numbers]
        value = self._codec.decode(stored.content)
        for _ in references_in(value):  # raises for a value that is nested too deep
            raise DecodeError("it refers to a row")
        return self._restored(value, instances)

    def _restored(self, value: Any, instances: list[Model]) -> Any:
        def part_of(marker: StoredInstance | StoredMember) -> Any:
            if isinstance(marker, StoredInstance):
                return instances[marker.number]
            return enum_fields(self._model(marker.model))[marker.field](marker.value)

        return map_nested(value, (StoredInstance, StoredMember), part_of)

    def _member(self, member: enum.Enum) -> Any:
        """Returns what stands for a member of an enum, or the member itself if it is of no field of any model."""
        if not self._members:
            for model in [*bound_models(), *self._bound]:
                self._members.update({kind: (full_name(model), name) for name, kind in enum_fields(model).items()})
        place = self._members.get(type(member))
        return member if place is None else StoredMember(*place, member.value)

    def _model(self, name: str) -> type[Model]:
        """Returns the model of a name. Raises ``OtherSchema`` if there is none."""
        model = self._models.get(name)
        if model is None:
            self._models = {full_name(each): each for each in [*bound_models(), *self._bound]}
            model = self._models.get(name)
        if model is None:
            raise OtherSchema("it names a model that does not exist")
        return model

    @property
    def _is_default(self) -> bool:
        return type(self._codec) is ValueCodec

    def parts_of(self, model: type[Model]) -> _ModelParts:
        """Returns what instances of a model may hold. Raises ``EncodeError`` for one that cannot be stored."""
        parts = self._parts.get(model)
        if parts is None:
            entries = self._bound.get(model)
            try:
                schema: ModelSchema = ModelSchema(model) if entries is None else entries.rows.schema
            except CacheConfigurationError as error:
                raise EncodeError(
                    f"instances of {model.__name__} cannot be stored: one of its fields has no encoding"
                ) from error
            attributes = schema.columns | vars(schema.instance({})).keys()
            parts = _ModelParts(schema, frozenset(attributes), single_relations(model), plural_relations(model))
            self._parts[model] = parts
        return parts

    def kind_of(self, instance: Model) -> _Kind:
        """Returns the kind of an instance. Raises ``EncodeError`` for one that is no row of the database."""
        model = type(instance)
        if not is_saved(instance) or vars(instance).get("_await_when_save"):
            raise EncodeError(f"an instance of {model.__name__} that is not saved cannot be stored")
        columns: tuple[str, ...] | None = None
        schema = self.parts_of(model).schema
        if is_partial(instance) or not schema.columns <= vars(instance).keys():
            columns = tuple(name for name in schema.column_names if name in vars(instance))
        return self._kind(model, columns)

    def _kind(self, model: type[Model], columns: tuple[str, ...] | None) -> _Kind:
        kind = self._kinds.get((model, columns))
        if kind is None:
            parts = self.parts_of(model)
            codec = parts.schema.codec if columns is None else parts.schema.codec_of(columns)
            names = None if columns is None else list(columns)
            header = full_name(model), fingerprint("instances", parts.schema.fingerprint), names
            kind = self._kinds[model, columns] = _Kind(parts, columns, codec, header)
        return kind

    def _kind_named(self, name: str, expected: bytes, columns: list[str] | None) -> _Kind:
        model = self._model(name)
        kind = self._kind(model, None if columns is None else tuple(columns))
        if kind.header[1] != expected:
            raise OtherSchema(f"it holds an instance of another schema of {model.__name__}")
        return kind


class _Graph:
    """The instances inside one value, and those that they refer to, numbered as they are found."""

    def __init__(self, kind_of: Callable[[Model], _Kind], member: Callable[[enum.Enum], Any]) -> None:
        self._kind_of = kind_of
        self._member = member
        self.marked = False
        """True if a marker stands for a part of the value."""
        self._numbers: dict[int, int] = {}
        self.found: list[Model] = []
        self.kinds: list[_Kind] = []
        self.runs: list[tuple[int, list[bytes]]] = []
        self.extras: list[tuple[int, dict[str, list[int]], dict[str, int | None], bytes]] = []

    def number(self, instance: Model) -> int:
        """Returns the number of an instance."""
        number = self._numbers.setdefault(id(instance), len(self.found))
        if number == len(self.found):
            self.found.append(instance)
        return number

    def marker(self, part: Model | enum.Enum | uuid.UUID) -> Any:
        """Returns what stands for a part of a value. A driver's own UUID is replaced by a common one."""
        if isinstance(part, uuid.UUID):
            return part if type(part) is uuid.UUID else uuid.UUID(int=part.int)
        self.marked = True
        return StoredInstance(self.number(part)) if isinstance(part, Model) else self._member(part)

    def finish(self) -> None:
        """Encodes the instances, and those that are found meanwhile."""
        places: dict[int, int] = {}
        number = 0
        while number < len(self.found):
            instance = self.found[number]
            kind = self._kind_of(instance)
            place = places.setdefault(id(kind), len(self.kinds))
            if place == len(self.kinds):
                self.kinds.append(kind)
            if not self.runs or self.runs[-1][0] != place:
                self.runs.append((place, []))
            self.runs[-1][1].append(kind.codec.encode(vars(instance)))
            if kind.columns is not None or len(vars(instance)) > len(kind.parts.schema.columns) + _TORTOISE_ATTRIBUTES:
                self._add_extras(number, instance, kind.parts)
            number += 1

    def _add_extras(self, number: int, instance: Model, parts: _ModelParts) -> None:
        plurals: dict[str, list[int]] = {}
        singles: dict[str, int | None] = {}
        others: dict[str, Any] = {}
        for name, value in vars(instance).items():
            if name in parts.attributes:
                continue
            if name in parts.plurals:
                relation: Any = value
                if isinstance(value, ReverseRelation) and relation._fetched:
                    plurals[name] = [self.number(item) for item in relation.related_objects]
            elif name in parts.singles:
                if value is None or isinstance(value, Model):  # else a query that was never awaited
                    singles[name] = None if value is None else self.number(value)
            else:
                others[name] = map_nested(value, _REPLACED, self.marker)
        if plurals or singles or others:
            self.extras.append((number, plurals, singles, _values.encode(others) if others else b""))


def _attach(
    instance: Model,
    parts: _ModelParts,
    plurals: Mapping[str, list[int]],
    singles: Mapping[str, int | None],
    instances: list[Model],
) -> None:
    """Attaches fetched relations to an instance. Raises ``KeyError`` and ``IndexError`` for damaged bytes."""
    for name, number in singles.items():
        _ = parts.singles[name]
        vars(instance)[name] = None if number is None else instances[number]
    for name, numbers in plurals.items():
        relation: Any = getattr(instance, parts.plurals[name])
        relation._set_result_for_query([instances[number] for number in numbers])


def _is_list_of_instances(value: Any) -> bool:
    kind = cast("Any", type(value))
    return kind is list and bool(value) and all(isinstance(item, Model) for item in value)
