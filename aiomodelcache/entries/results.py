"""Entries of computed results: values that a user's method returned, by the method's arguments.

Instances inside a result are stored as references and read from their own row entries, so they are as fresh as rows.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any, Final, Generic, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.durations import parse_duration_or_zero
from aiomodelcache.encoding.codec import Codec, DecodeError, EncodeError
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import ABSENT, GUARD, STALE, VALUE, pack_entry, unpack_entry
from aiomodelcache.encoding.messages import described, safe_cause, safe_reason
from aiomodelcache.encoding.partitions import partitions_of
from aiomodelcache.encoding.values import MAX_NESTING, TOO_DEEP, InstanceReference, ValueCodec, is_surely_plain
from aiomodelcache.entries.base import (
    Miss,
    NoValue,
    count_undecodable,
    count_unusable,
    fingerprint,
    is_version,
    now_ms,
    warn_unencodable,
)
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.entries.raised import ErrorCodec, Raised
from aiomodelcache.entries.resilience import Resilience
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import Values, full_name
from aiomodelcache.orm.relations import unstored_parts
from aiomodelcache.orm.schema import ModelSchema

Compute = Callable[[BaseDBAsyncClient | None], Awaitable[Any]]
"""A function that computes a result on a transaction's connection, or in autocommit mode if it is called with None."""
T = TypeVar("T")


class DontCache(Generic[T]):
    """A result that is passed on to the caller and not stored: return it from a method whose results are cached.

    >>> class Quota(ValueCache[int]):
    ...     async def get_value(self, customer: int) -> int | DontCache[int]:
    ...         answer = await ask_billing(customer)
    ...         return answer.quota if answer.final else DontCache(answer.quota)
    """

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"DontCache({described(self.value)})"


class ResultEntries:
    """The entries of one class of computed results in one open cache.

    Writes to the model of ``rows`` invalidate the results by the values of ``attributes``. ``rows`` is None if the
    results depend on no model. ``watched`` are the columns whose change may change a result; None means all columns.
    ``returns`` is the annotated type of the results, or Any. Unless there is a ``codec``, it says how to encode them.
    """

    unique = False
    limit: int | None = None
    linked: tuple[RowEntries, ...] = ()
    version_keys: Sequence[bytes] = ()
    link_keys: Sequence[bytes] = ()
    near = False
    """True if results may be kept in this process."""

    def __init__(
        self,
        name: str,
        shape: Iterable[str],
        *,
        connection: str,
        space: KeySpace,
        rows: RowEntries | None,
        attributes: tuple[str, ...],
        watched: frozenset[str] | None,
        bound: Mapping[type[Model], Any],
        codec: Codec | None,
        returns: Any,
        version: object,
        lifetimes: Lifetimes,
        policy: Policy,
        lease_ttl: float,
        counters: Counters,
    ) -> None:
        self.name = name
        self.rows = rows
        self.attributes = attributes
        self.watched = watched
        self.prefix = space.prefix("c", connection, *shape)
        self.partitions = rows.partitions if rows is not None else partitions_of(space, connection, *shape)
        self.epoch_of = self.partitions.epoch_of
        self.spans_tenants = space.tenant == b""
        own, text, typed = type(codec).__qualname__, "", False
        if codec is None:
            from aiomodelcache.encoding.typed import codec_of  # takes long to import

            codec, (text, typed) = codec_of(returns)
        self.codec = codec
        self.fingerprint = fingerprint("result", own, version, text)
        self.may_refer = not typed
        """True if stored values may hold ``InstanceReference``s."""
        self.lifetimes = lifetimes
        self.policy = policy
        self.compute_for: Callable[[Values], Compute] | None = None
        """A function that returns the computation for these values, for refills that no caller waits for."""
        self.lease_ttl = lease_ttl
        self.counters = counters
        self.bound = bound
        self.resilience = Resilience()
        self.errors: ErrorCodec | None = None
        self.copies: Any = None
        """The ``Copies`` of the results, if the class keeps last good values."""

    def set_resilience(self, resilience: Resilience) -> None:
        """Sets what happens if a computation fails, and how long a result lives."""
        self.resilience = resilience
        if resilience.errors:
            self.errors = ErrorCodec(resilience.errors, self.bound, self.fingerprint)

    @property
    def schema(self) -> ModelSchema:
        """The schema of the model whose writes invalidate the results."""
        assert self.rows is not None, "a value that depends on no model has no schema"
        return self.rows.schema

    @property
    def cacheable(self) -> bool:
        """True if every writer that changes a result can name its key, so that results may be stored."""
        return self.rows is None or not self.rows.schema.compares_loosely(self.attributes)

    def key(self, values: Values) -> bytes:
        """Returns the key of the result for these (normalised) values."""
        if self.rows is None:
            return self.prefix + self.partitions.encode(values)
        return self.prefix + self.partitions.encode(map(self.schema.key_value, self.attributes, values))

    key_of = key

    def read(self, entry: bytes | None, epoch: bytes | None) -> Any:
        """Returns the stored value, with ``InstanceReference``s in place of instances, or a miss."""
        if entry is None or epoch is None:
            return NoValue.MISS
        decode: Callable[[bytes], Any] = self.decode
        if entry[GUARD] != self.fingerprint + epoch[1:]:
            if self.errors is None or entry[GUARD] != self.errors.fingerprint + epoch[1:]:
                return count_unusable(self.counters, self.name, entry, self.fingerprint)
            decode = self.errors.decode
        try:
            state, payload = entry[:1], unpack_entry(entry)
            if state == STALE:
                state, payload = self.policy.unwrap_copy(payload)
            return self._unpack_value(payload, decode) if state == VALUE else NoValue.MISS
        except Exception as error:  # a codec may be the user's own
            return count_undecodable(self.counters, self.name, error)

    def hit(self, entry: bytes, epoch: bytes) -> Any | Miss:
        """Returns the value of a ``V`` entry, or a miss if it is not current or may refer to rows.

        Raises an exception for damaged bytes.
        """
        if entry[GUARD] != self.fingerprint + epoch[1:]:
            return NoValue.MISS
        payload = unpack_entry(entry)
        return self.decode(payload) if self.is_plain(payload) else NoValue.MISS

    def is_plain(self, content: bytes) -> bool:
        """Returns True if an encoded value surely refers to no rows, and is not nested too deep."""
        return not self.may_refer or (type(self.codec) is ValueCodec and is_surely_plain(content))

    def decode(self, content: bytes) -> Any:
        """Returns the value of its bytes, with ``InstanceReference``s in place of instances."""
        return self.codec.decode(content)

    def _unpack_value(self, payload: bytes, decode: Callable[[bytes], Any]) -> Any:
        return decode(payload)

    def entry(self, token: bytes, epoch: bytes | None, value: Any, dependencies: bytes = b"") -> bytes:
        """Returns the entry of a computed value, empty if the value must not be stored.

        ``dependencies``: as ``pack_dependencies`` returns them.

        A value that cannot be encoded is counted, and logged once.
        """
        if epoch is None or not is_version(epoch):
            return b""
        try:
            payload = self._pack_value(value, dependencies)
        except EncodeError as error:
            self.counters.unfillable += 1
            warn_unencodable(self.counters, self.name, error, "value")
            return b""
        kind = self.errors if self.errors is not None and type(value) is Raised else self
        return pack_entry(VALUE, token, kind.fingerprint + epoch[1:], now_ms(), payload)

    def _pack_value(self, value: Any, dependencies: bytes) -> bytes:
        if self.errors is not None and type(value) is Raised:
            return self.errors.encode(value.error)
        try:
            return self.codec.encode(map_nested(value, Model, self._reference) if self.may_refer else value)
        except EncodeError:
            raise
        except Exception as error:
            raise EncodeError(safe_reason(error)) from safe_cause(error)

    def ttl(self, value: Any) -> int:
        """Returns the lifetime of a value's entry, in milliseconds. None lives as long as other absences.

        0 if the value must not be stored: by the user's function of the result, or because that function failed.
        """
        try:
            seconds = self.lifetime_of(value)
        except Exception as error:
            self.counters.unfillable += 1
            self.counters.warn_once(
                "timeout", "aiomodelcache: the timeout of a value of %s failed: %s", self.name, safe_reason(error)
            )
            return 0
        return self.lifetimes.jittered(seconds) if seconds else 0

    def lifetime_of(self, value: Any) -> float:
        """Returns the lifetime of a value's entry, in seconds, without jitter. Raises what a user's function raises."""
        if type(value) is Raised:
            return self.resilience.errors[type(value.error)]
        if value is not None and self.resilience.timeout_of is not None:
            timeout = self.resilience.timeout_of(value)
            if timeout is not None:
                return parse_duration_or_zero(f"{self.name}: timeout", timeout)
        return self.lifetimes.seconds(ABSENT if value is None else VALUE)

    def _reference(self, instance: Model) -> InstanceReference:
        entries = self.bound.get(type(instance))
        if entries is None:
            raise EncodeError(f"a {type(instance).__name__} cannot be cached, because its model has no cache")
        rows: RowEntries = entries.rows
        values = vars(instance)  # a row without a related row leads to none, whether that was fetched or not
        unstored = [
            part for part in unstored_parts(instance, rows.schema.columns) if part[0] != "_" or values[part] is not None
        ]
        if unstored:
            raise EncodeError(
                f"a {rows.schema.name} with {', '.join(unstored)} cannot be cached, because a row is stored without "
                "these: return them beside it"
            )
        return InstanceReference(full_name(rows.schema.model), rows.schema.pks_codec.encode([instance.pk]))

    def referred(self, references: Iterable[InstanceReference]) -> dict[InstanceReference, tuple[RowEntries, Any]]:
        """Returns the row entries and the primary key that each reference stands for.

        Raises ``DecodeError``, or any other exception for references that this program did not store.
        """
        rows_by_name = {full_name(model): entries.rows for model, entries in self.bound.items()}
        resolved: dict[InstanceReference, tuple[RowEntries, Any]] = {}
        for reference in references:
            rows: RowEntries | None = rows_by_name.get(reference.model)
            if rows is None:
                raise DecodeError("it refers to a model that has no cache")
            [pk] = rows.schema.pks_codec.decode(reference.pk)
            rows.check_keys([pk])
            resolved[reference] = rows, pk
        return resolved


_CONTAINERS: Final[tuple[Any, ...]] = (list, tuple, set, frozenset)
_LEAVES: Final[frozenset[Any]] = frozenset({str, int, float, bool, bytes, type(None), Decimal, datetime})
"""Types of values that hold nothing, most of all in results. They are not converted."""


def map_nested(
    value: Any, kind: type | tuple[type, ...], convert: Callable[[Any], Any], levels: int = MAX_NESTING
) -> Any:
    """Returns the value with every instance of ``kind`` in it converted, down to ``levels`` levels.

    ``kind`` is no built-in container.
    """
    container: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if container in _LEAVES:
        return value
    if not levels and (container in _CONTAINERS or container is dict):
        return value
    if container in _CONTAINERS:  # compared before ``kind``, as ``isinstance`` takes longer
        if _LEAVES.issuperset(map(type, value)):
            return container(value)
        return container([map_nested(item, kind, convert, levels - 1) for item in value])
    if container is dict:
        if _LEAVES.issuperset(map(type, value)) and _LEAVES.issuperset(map(type, value.values())):
            return dict(value)
        return {
            map_nested(key, kind, convert, levels - 1): map_nested(item, kind, convert, levels - 1)
            for key, item in value.items()
        }
    return convert(value) if isinstance(value, kind) else value


def is_flat(value: Any) -> bool:
    """Returns True for numbers, text and the like, and for lists and the like of nothing else."""
    container: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    return container in _LEAVES or (container in _CONTAINERS and _LEAVES.issuperset(map(type, value)))


def references_in(value: Any, levels: int = MAX_NESTING) -> Iterator[InstanceReference]:
    """Yields the references to instances in a stored value. Raises ``DecodeError`` if it is nested too deep."""
    kind = cast("Any", type(value))
    if kind is InstanceReference:
        yield value
    elif kind is dict or kind in _CONTAINERS:
        if not levels:
            raise DecodeError(TOO_DEEP)
        for item in chain(value, value.values()) if kind is dict else value:
            yield from references_in(item, levels - 1)
