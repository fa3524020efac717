"""The cost of writes for readers: rows that are being written are read from the database."""

import math

from benchmarks.fleet.costs import Fleet
from benchmarks.fleet.popularity import zipf


def marked(writes: float, intent: float) -> float:
    """Returns the share of time in which a row has at least one intent: the reads then go to the database.

    ``writes``: per second, of that row, at random moments. ``intent``: seconds from mark to clear.
    """
    return -math.expm1(-writes * intent)


def to_database(fleet: Fleet, top: int | None = None) -> float:
    """Returns the reads per second that intents send to the database, of all rows or of the ``top`` most popular.

    Rows are written as often as they are read. Single flight, which joins such reads in a process, is left out.
    """
    total, seen = 0.0, 0
    for each in zipf(fleet.entries):
        if top is not None and seen >= top:
            break
        reads = fleet.lookups * each.each
        total += each.count * reads * marked(reads * fleet.write_share, fleet.intent)
        seen += each.count
    return total


def misses_after_writes(fleet: Fleet) -> float:
    """Returns the misses per second of rows that were written since they were last read."""
    factor = fleet.write_share / (1 + fleet.write_share)
    return sum(each.count * fleet.lookups * each.each * factor for each in zipf(fleet.entries))


def misses_by_timeout(fleet: Fleet, timeout: float) -> float:
    """Returns the misses per second of rows whose entries have expired."""
    return sum(
        each.count * fleet.lookups * each.each / (1 + fleet.lookups * each.each * timeout)
        for each in zipf(fleet.entries)
    )


def deploy_misses(fleet: Fleet, new: float, share: float, fill: float) -> float:
    """Returns the rows per second read during a deploy that changes the schema of a model.

    Old and new processes replace each other's entries. ``new``: the share of processes that are new. ``share``: that of
    the model in all lookups and in all rows. ``fill``: seconds of a fill, in which a key is loaded once.
    """
    other = 2 * new * (1 - new)
    return share * sum(each.count * min(other * fleet.lookups * each.each, 1 / fill) for each in zipf(fleet.entries))
