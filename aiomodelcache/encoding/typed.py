"""Encodes values of a declared type: dataclasses, msgspec's structs, pydantic's models, named tuples, enums.

The type says what the bytes mean, so they hold no names of classes, and decoding them creates nothing else. A value
that is not exactly of its declared type would come back changed: encoding it raises ``EncodeError``.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from aiomodelcache.encoding.codec import Codec, DecodeError, EncodeError
from aiomodelcache.encoding.messages import SafeTypeError, described, safe_cause, safe_reason
from aiomodelcache.encoding.pydantic_models import dump_model, load_model
from aiomodelcache.encoding.same import check_same
from aiomodelcache.encoding.shapes import ANY, Shape, is_pydantic, shape_of
from aiomodelcache.encoding.values import ValueCodec


class TypedCodec:
    """The codec of values of one type.

    A value is written as msgpack. If that would change the value, as it changes the offset of a time from UTC, the
    value is written as JSON.
    """

    def __init__(self, kind: Any) -> None:
        self._formats: list[tuple[bytes, Callable[[Any], bytes], Callable[[bytes], Any]]] = [
            (
                b"m",
                msgspec.msgpack.Encoder(enc_hook=_dump, uuid_format="bytes").encode,
                msgspec.msgpack.Decoder(kind, dec_hook=_load).decode,
            ),
            (b"j", msgspec.json.Encoder(enc_hook=_dump).encode, msgspec.json.Decoder(kind, dec_hook=_load).decode),
        ]
        self._decoders = {mark: decode for mark, _, decode in self._formats}

    def encode(self, value: Any) -> bytes:
        """Returns the bytes of ``value``. Raises ``EncodeError`` if they do not decode to an equal value."""
        errors: list[Exception] = []
        for mark, encode, decode in self._formats:
            try:
                data = encode(value)
                check_same(value, decode(data))
            except Exception as error:
                errors.append(error)
            else:
                return mark + data
        first = next((error for error in errors if isinstance(error, SafeTypeError)), errors[0])
        text = str(first) if isinstance(first, SafeTypeError) else f"{described(value)} is not of the annotated type"
        raise EncodeError(text) from safe_cause(first)

    def decode(self, data: bytes) -> Any:
        """Returns an equal value of the same type, a new object on each call. Raises ``DecodeError``."""
        try:
            return self._decoders[data[:1]](data[1:])
        except Exception as error:
            raise DecodeError(safe_reason(error)) from safe_cause(error)


def codec_of(annotation: Any) -> tuple[Codec, Shape]:
    """Returns the codec for values of a type, and the type's shape.

    The codec is a ``ValueCodec`` for types that it stores without knowing them, and for types that msgspec does not
    know.
    """
    shape = shape_of(annotation)
    if shape.typed:
        try:
            return TypedCodec(annotation), shape
        except Exception:  # msgspec can describe the type, but not decode it
            return ValueCodec(), ANY
    return ValueCodec(), shape


def _dump(value: Any) -> Any:
    if is_pydantic(type(value)):
        return dump_model(value)
    raise SafeTypeError(f"{described(value)} is not of the annotated type")


def _load(kind: Any, data: Any) -> Any:
    if is_pydantic(kind):
        return load_model(kind, data)
    raise DecodeError("it is of a type that has no encoding")
