"""The rows of several lookups that miss together because their entries are absent: one lease, statement and fill."""

from collections.abc import Sequence
from typing import Any

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.exceptions import CacheError
from aiomodelcache.orm.outcomes import is_outage
from aiomodelcache.plans.indexes import load_index
from aiomodelcache.plans.requests import Missed, Plan
from aiomodelcache.plans.rows import Misses, load_rows


def rows_of_absent(lookups: Sequence[Missed]) -> Plan[dict[bytes, list[Any]]]:
    """Finds and stores the rows of lookups of one entry set whose keys hold nothing. Returns the rows by key.

    Leaves out keys that other readers are filling, so that no lookup waits for the key of another one. Returns nothing
    if the database refuses the statement, so that one lookup's bad value does not fail the others.
    """
    entry_set, _, _, predictions, _ = lookups[0]
    misses: Misses = dict.fromkeys([lookup.key for lookup in lookups])
    result: dict[bytes, Any] = {}
    try:
        if isinstance(entry_set, IndexEntries):
            wanted = {lookup.key: lookup.values for lookup in lookups}
            yield from load_index(entry_set, wanted, misses, predictions, result)
        else:
            yield from load_rows(entry_set, {lookup.key: lookup.values[0] for lookup in lookups}, misses, result)
            result = {key: [] if row is None else [row] for key, row in result.items()}
    except Exception as error:
        if isinstance(error, CacheError) or is_outage(error):  # the database is overloaded, or the cache closes
            raise
        return {}
    entry_set.counters.misses += len(result)
    return result
