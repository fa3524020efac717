"""Caches that are not asked, or that cost more than they save, by the counters that processes publish.

Pure: knows counters and declarations. The cost is estimated: the time of all round trips, shared out to the classes.
A miss has two more of them than a hit, which lease and fill.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from aiomodelcache.cli.advice import Advice, advise, pasted
from aiomodelcache.cli.output import counted
from aiomodelcache.inspection.diagnosis import Finding
from aiomodelcache.observe.fleet import Worker
from aiomodelcache.observe.stats import Counters
from aiomodelcache.open_cache import OpenCache

MIN_LOOKUPS: Final = 1_000
"""Number of lookups in all processes below which nothing is judged, and of a class below which its cost is not."""
TRIPS_OF_MISS: Final = 2
"""Round trips that a miss needs beyond the read that a hit needs, too."""
FEW_STATEMENTS: Final = 4
"""Number of statements in flight below which the limit of a connection is named: its database is overloaded."""
SUBJECTS: Final = ("unused", "costs")


def of_usage(cache: OpenCache, workers: Sequence[Worker], round_trip: float) -> list[Finding]:
    """Returns the faults that the counters of all processes show. ``round_trip``: the seconds of one, measured."""
    overloaded = sum(worker.stats.overloaded_loads for worker in workers)
    found = [_of_overload(overloaded, workers)] if overloaded else []
    return [*found, *_of_lookups(cache, workers, round_trip)]


def _of_overload(overloaded: int, workers: Sequence[Worker]) -> Finding:
    limits = {name for worker in workers for name, limit in worker.stats.load_limits.items() if limit < FEW_STATEMENTS}
    text = f"{overloaded} lookups of {_processes(workers)} have waited for a statement for longer than load_wait"
    text += f"; {', '.join(sorted(limits))} is given fewer than {FEW_STATEMENTS} at once" if limits else ""
    return Finding(
        "error", "overload", text, "Give the database more room, or fill the cache at deploy:", ("aiomodelcache warm",)
    )


def _of_lookups(cache: OpenCache, workers: Sequence[Worker], round_trip: float) -> list[Finding]:
    if not workers:
        text, remedy = "not known, because no process publishes its counters", "To let doctor judge, open the cache by:"
        return [Finding("ok", each, text, remedy, ("ModelCache(url, publish_stats=True)",)) for each in SUBJECTS]
    counters = totals_by_class(workers)
    lookups = sum(_lookups(each) for each in counters.values())
    if lookups < MIN_LOOKUPS:
        text = f"not known before {MIN_LOOKUPS} lookups: {_processes(workers)} had {lookups}"
        return [Finding("ok", each, text) for each in SUBJECTS]
    trips = sum(worker.stats.round_trips for worker in workers)
    found = [*_unused(cache, counters, lookups, workers), *_costly(cache, counters, trips * round_trip)]
    if not any(each.subject == "unused" for each in found):
        found.append(Finding("ok", "unused", f"no key, in {lookups} lookups of {_processes(workers)}"))
    if not any(each.subject == "costs" for each in found):
        found.append(Finding("ok", "costs", "no cache costs more than it saves"))
    return found


def totals_by_class(workers: Iterable[Worker]) -> dict[str, Counters]:
    """Returns the counters of each class, added up over the processes."""
    found: dict[str, Counters] = {}
    for worker in workers:
        for name, counters in worker.stats.by_cache.items():
            total = found.setdefault(name, Counters(name=name))
            total.hits += counters.hits + counters.stale
            total.misses += counters.misses
            total.seconds += counters.seconds
    return found


def _lookups(counters: Counters) -> int:
    return counters.hits + counters.misses


def _processes(workers: Sequence[Worker]) -> str:
    return counted(len(workers), "process", "processes")


def _unused(
    cache: OpenCache, counters: dict[str, Counters], lookups: int, workers: Sequence[Worker]
) -> Iterable[Finding]:
    advice = advise(cache, [], {name: _lookups(each) for name, each in counters.items()}, least=1)
    since = f"in {lookups} lookups of {_processes(workers)}"
    for model, setting, key in advice.remove:
        text = f"({', '.join(key)}) in {setting} of {model.__name__} was never asked for, {since}"
        yield Finding("warning", "unused", text, "Each write pays for it. Remove it:", _lists(advice, model))
    for name in advice.unused:
        yield Finding("warning", "unused", f"{name} was never asked for, {since}", "Remove its declaration.")


def _costly(cache: OpenCache, counters: dict[str, Counters], seconds: float) -> Iterable[Finding]:
    """Yields the classes whose share in the time of all round trips is more than their hits have saved."""
    whole = sum(map(_trips, counters.values()))
    costly: dict[str, str] = {}
    for name, each in counters.items():
        if _lookups(each) < MIN_LOOKUPS or not each.misses or not each.seconds:
            continue
        saved, cost = each.hits * each.seconds / each.misses, seconds * _trips(each) / whole
        if cost > saved:
            ratio = each.hits / _lookups(each)
            costly[name] = f"{ratio:.1%} hits have saved {saved:.2g} s, and its round trips took about {cost:.2g} s"
    advice = _advice_without(cache, costly)
    names = {
        entry_set.counters.name: (model, setting, getattr(entry_set, "fields", ()))
        for model, entries in cache.models.items()
        for setting, keys in (("get_key_fields_list", entries.gets), ("filter_key_fields_list", entries.filters))
        for entry_set in keys.values()
    }
    for name, text in costly.items():
        place = names.get(name)
        if place in advice.remove:
            remedy = f"Let its entries live longer, or remove the key from {place[0].__name__}:"
            yield Finding("warning", "costs", f"{name}: {text}", remedy, _lists(advice, place[0]))
        else:
            remedy = "Cache it no more, or let its entries live longer:"
            yield Finding("warning", "costs", f"{name}: {text}", remedy, ('timeout = "1d"',))


def _trips(counters: Counters) -> int:
    return _lookups(counters) + TRIPS_OF_MISS * counters.misses


def _advice_without(cache: OpenCache, names: Collection[str]) -> Advice:
    """Returns the advice that leaves out the keys of these names."""
    return advise(cache, [], {name: int(name not in names) for name in cache.stats.by_cache}, least=1)


def _lists(advice: Advice, model: type) -> tuple[str, ...]:
    return tuple(pasted(advice.lists[model]))
