"""Exceptions as results: what a computation raised, stored by type, arguments and attributes.

Only the exceptions of declared types are stored, and decoding creates no others. Neither their ``__init__`` nor pickle
runs.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final

from tortoise.models import Model

from aiomodelcache.encoding.codec import DecodeError, EncodeError
from aiomodelcache.encoding.messages import safe_cause, safe_reason
from aiomodelcache.encoding.values import InstanceReference, ValueCodec
from aiomodelcache.entries.base import fingerprint
from aiomodelcache.orm.meta import full_name

_codec: Final = ValueCodec()


class Raised:
    """An exception as a result: its lookup raises it."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __deepcopy__(self, memo: dict[int, Any]) -> "Raised":
        return self


class ErrorCodec:
    """The codec of exceptions of these types. ``models``: the models that they may name."""

    def __init__(self, kinds: Iterable[type[Exception]], models: Collection[type[Model]], of: bytes) -> None:
        """``of``: the fingerprint of the values of the same class."""
        self._kinds = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
        self._models = models
        self.fingerprint = fingerprint("errors", of, sorted(self._kinds))

    def encode(self, error: Exception) -> bytes:
        """Returns the bytes of an exception. Raises ``EncodeError`` if they do not decode to an equal one."""
        kind = type(error)
        try:
            args = [self._reduced(value) for value in error.args]
            state = {name: self._reduced(value) for name, value in vars(error).items()}
            data = _codec.encode([f"{kind.__module__}.{kind.__qualname__}", args, state])
            again = self.decode(data).error
            same = (again.args, vars(again), str(again)) == (error.args, vars(error), str(error))
        except Exception as failure:
            raise EncodeError(safe_reason(failure)) from safe_cause(failure)
        if not same:
            raise EncodeError(f"an exception of class {kind.__qualname__} is more than its arguments and attributes")
        return data

    def decode(self, data: bytes) -> Raised:
        """Returns an equal exception of the same type. Raises an exception for damaged bytes."""
        name, args, state = _codec.decode(data)
        kind = self._kinds[name]
        args = [self._restored(value) for value in args]
        error = kind.__new__(kind, *args)
        error.args = tuple(args)
        vars(error).update({name: self._restored(value) for name, value in state.items()})
        return Raised(error)

    def _reduced(self, value: Any) -> Any:
        """Returns a model's class, as in Tortoise's ``DoesNotExist``, as a reference, and other values as they are."""
        known = isinstance(value, type) and value in self._models
        return InstanceReference(full_name(value), b"") if known else value

    def _restored(self, value: Any) -> Any:
        if type(value) is not InstanceReference:
            return value
        for model in self._models:
            if full_name(model) == value.model:
                return model
        raise DecodeError("it names a model that has no cache")
