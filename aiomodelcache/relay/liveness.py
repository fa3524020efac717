"""The keys of the claims by which readers know that a relay is at work.

A claim covers what a relay captures, and the keys that it invalidates. A process whose declarations differ in either
has another key, so it does not believe a relay that does not know its entries.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.entries.indexes import ExactListDependency, IndexEntries
from aiomodelcache.entries.many_to_many import ThroughModelDependency
from aiomodelcache.entries.model import DependentEntries, ModelEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.relay.captured import CapturedTable, captured_tables, coverage_fingerprint, coverage_of

_DIGEST_SIZE: Final = 8


def liveness_keys(cache: OpenCache) -> dict[str, bytes]:
    """Returns the key of the claim for each connection that has models with ``relay = True``, by its alias."""
    return {
        connection: cache.space.relay_key(connection, claim_fingerprint(cache, tables))
        for connection, tables in captured_tables(cache).items()
    }


def claim_fingerprint(cache: OpenCache, tables: Iterable[CapturedTable]) -> str:
    """Returns 16 hex digits that stand for the coverage of these tables, and for the keys that a relay invalidates."""
    tables = list(tables)
    parts = {coverage_fingerprint(coverage_of(tables)).encode()}
    names = {table.name for table in tables}
    for entries in cache.models.values():
        if entries.schema.table in names:
            parts.update(_keys_of(entries))
    parts.update(through.prefix for through in cache.many_to_many if through.relation.table in names)
    parts.update(key for name in names for key in cache.versions.through_keys(name))
    return hashlib.blake2b(b"\0".join(sorted(parts)), digest_size=_DIGEST_SIZE).hexdigest()


def _keys_of(entries: ModelEntries) -> Iterable[bytes]:
    rows = entries.rows
    yield from (rows.prefix, rows.partitions.epochs[0], rows.partitions.stamps[0], *rows.version_keys, *rows.link_keys)
    for entry_set in (*entries.indexes, *entries.results):
        attributes = ",".join(entry_set.attributes).encode()
        yield _beginning(entry_set) + b" by " + attributes


def _beginning(entry_set: IndexEntries | DependentEntries) -> bytes:
    match entry_set:
        case ThroughModelDependency():
            return entry_set.through.prefix
        case ExactListDependency():
            return entry_set.index.prefix
        case GroupVersions():
            return entry_set.key((None,) * len(entry_set.attributes))
        case _:
            return entry_set.prefix
