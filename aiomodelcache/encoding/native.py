"""The optional extension ``aiomodelcache-native``, which decodes the rows of a reply in one call.

It decodes current entries only. All others, and every error, are left to the Python that does without it.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from types import GenericAlias
from typing import Any, Final

import msgspec

from aiomodelcache.encoding.rows import Column
from aiomodelcache.encoding.values import read_extension

DecodeRows = Callable[[list[bytes], bytes, bytes], "list[dict[str, Any]] | None"]
"""A function of entries, a guard and a time, as they are in a header.

Returns a dict for each row, or None if one of the entries is not a current row that was built after this time.
"""
_INTERFACE: Final = 1
"""The version of the layout of entries and of the functions that the extension must have."""
SWITCH: Final = "AIOMODELCACHE_NATIVE"
"""The environment variable that turns the extension off, if it is ``0`` when a cache opens."""


def rows_decoder(columns: Sequence[Column], attributes: dict[str, Any]) -> DecodeRows | None:
    """Returns a function that decodes rows with these columns, or None if the extension is missing or turned off.

    ``attributes``: what every dict gets beside columns.
    """
    extension = _extension()
    if extension is None:
        return None
    row: Any = GenericAlias(tuple, tuple(column.type | None if column.type is not Any else Any for column in columns))
    decoder = extension.RowDecoder(
        msgspec.msgpack.Decoder(row, ext_hook=read_extension).decode,
        tuple(column.name for column in columns),
        tuple(column.load for column in columns),
        tuple(column.zone for column in columns),
        {**{column.name: None for column in columns}, **attributes},
    )
    decode: DecodeRows = decoder.rows
    return decode


def _extension() -> Any:
    """Returns the extension, or None if it is missing, turned off, or of another interface."""
    if os.environ.get(SWITCH) == "0":
        return None
    extension = native_extension()
    return extension if extension is not None and extension.INTERFACE == _INTERFACE else None


@cache
def native_extension() -> Any:
    """Returns the extension, or None if it is missing. Looks for it once: that takes a tenth of a cache's opening."""
    try:
        return import_module("aiomodelcache_native")
    except ImportError:
        return None
