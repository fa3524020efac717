"""Hits of row entries that were read under any keys."""

from collections.abc import Iterable
from typing import Any

from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import RowValues


def hits_of(
    rows: RowEntries, entries: Iterable[bytes | None], epoch: bytes | None, pks: Iterable[Any]
) -> list[RowValues] | None:
    """Returns what ``RowEntries.hits`` returns for these entries, under keys that do not matter."""
    found = {b"%d" % number: entry for number, entry in enumerate(entries)}
    return rows.hits(found, found, epoch, pks)
