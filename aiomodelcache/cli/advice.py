"""Advice on keys: those to declare by the statements that were observed, those to remove by the counts of lookups.

Pure: knows declarations, statements and counts. The saving is predicted, not measured. A lookup by values that were
asked for before is taken for a hit, and each write of the table for one more miss.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tortoise.models import Model

from aiomodelcache.cli.statements import Observed
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.connections import bound_models
from aiomodelcache.orm.meta import (
    attributes_of,
    column_attribute,
    field_names,
    is_relation,
    pk_of,
    table_of,
    unique_keys,
)

_PASTED_WIDTH: Final = 72
"""Maximum length of a list to paste that is written in one line."""
GET: Final = "get_key_fields_list"
FILTER: Final = "filter_key_fields_list"
KeyFields = tuple[str, ...]
"""The fields of a key, as they are declared."""


@dataclass(slots=True)
class TableReads:
    """The statements that read one table by the same columns."""

    model: type[Model]
    attributes: tuple[str, ...]
    fields: tuple[str, ...]
    """The key as it would be declared."""
    kind: str
    """``get_key_fields_list`` or ``filter_key_fields_list``."""
    calls: int = 0
    seconds: float | None = None
    values: set[str] = field(default_factory=set[str])
    values_known: bool = True
    writes: int = 0
    """The statements that write the table."""

    @property
    def saved(self) -> int:
        """The statements that the cache would answer. At most as many, if the values are not known."""
        distinct = len(self.values) if self.values_known else 1
        return max(0, self.calls - distinct - self.writes)

    @property
    def saved_seconds(self) -> float | None:
        """The time that the database would be spared, if known."""
        return None if self.seconds is None else self.seconds * self.saved / self.calls

    def add(self, observed: Observed) -> None:
        """Adds a statement."""
        self.calls += observed.calls
        if observed.seconds is not None:
            self.seconds = (self.seconds or 0.0) + observed.seconds
        if observed.values is None:
            self.values_known = False
        else:
            self.values.add(observed.values)

    def data(self) -> dict[str, Any]:
        """Returns the reads and their saving for JSON."""
        return {
            "model": self.model.__name__,
            "setting": self.kind,
            "key": list(self.fields),
            "statements": self.calls,
            "writes": self.writes,
            "saved": self.saved,
            "saved_is_a_bound": not self.values_known,
            "saved_seconds": self.saved_seconds,
        }


@dataclass(slots=True)
class Advice:
    """The result for one application."""

    statements: int = 0
    """The statements that read a table of the application's models."""
    observed: bool = False
    """True if statements were observed, of any kind."""
    declare: list[TableReads] = field(default_factory=list[TableReads])
    """Keys to declare, those that save most first. The primary key stands for caching the model at all."""
    declared: list[TableReads] = field(default_factory=list[TableReads])
    """Reads by keys that exist. The statements are misses, or come from code that does not ask the cache."""
    refused: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """Numbers of statements that no key would answer or that would save too little, by model and reason."""
    remove: list[tuple[type[Model], str, KeyFields]] = field(default_factory=list[tuple[type[Model], str, KeyFields]])
    """Keys that were never asked for: model, setting, key."""
    unused: list[str] = field(default_factory=list[str])
    """Other caches that were never asked for, by their names in the counts."""
    lists: dict[type[Model], dict[str, list[KeyFields]]] = field(
        default_factory=dict[type[Model], dict[str, list[KeyFields]]]
    )
    """The lists of keys to declare, for each model that has changes: those that exist, with all changes made."""

    writes: dict[type[Model], int] = field(default_factory=dict[type[Model], int])
    """The statements that write the table of each model. Each of them invalidates the entries of all its keys."""

    @property
    def saved(self) -> int:
        """The statements that all proposed keys would save."""
        return sum(reads.saved for reads in self.declare)


def advise(cache: OpenCache, observed: Iterable[Observed], counts: Mapping[str, int] | None, *, least: int) -> Advice:
    """Returns the advice for the models of a cache.

    ``counts``: the lookups of each cache by its name. None proposes no removals. ``least``: the number of statements
    that a key must have, and must save half of.
    """
    advice = Advice()
    models: dict[str, type[Model]] = {}
    for bound in [*cache.models, *bound_models()]:
        models.setdefault(table_of(bound), bound)
    found: dict[tuple[type[Model], frozenset[str], str], TableReads] = {}
    writes = advice.writes
    for each in observed:
        advice.observed = True
        model = models.get(each.statement.table)
        if model is None:
            continue
        if each.statement.writes:
            writes[model] = writes.get(model, 0) + each.calls
            continue
        advice.statements += each.calls
        attributes = [column_attribute(model, column) for column in each.statement.columns]
        reason = each.statement.reason
        if reason is None and None in attributes:
            reason = "it compares a column that the model does not have"
        if reason is not None:
            _refuse(advice, model, reason, each.calls)
            continue
        names = frozenset(name for name in attributes if name is not None)
        kind = GET if names in unique_keys(model) or each.limit == 2 else FILTER  # get() asks for two rows
        _reads(found, model, names, kind).add(each)
    for reads in found.values():
        reads.writes = writes.get(reads.model, 0)
        _propose_key(advice, cache, reads, least)
    advice.declare.sort(key=lambda reads: -reads.saved)
    if counts is not None:
        _find_unused(advice, cache, counts)
    changed = dict.fromkeys([*[reads.model for reads in advice.declare], *[model for model, _, _ in advice.remove]])
    advice.lists = {model: _lists(advice, cache.models.get(model), model) for model in changed}
    return advice


def _reads(
    found: dict[tuple[type[Model], frozenset[str], str], TableReads],
    model: type[Model],
    names: frozenset[str],
    kind: str,
) -> TableReads:
    reads = found.get((model, names, kind))
    if reads is None:
        relations = {attributes_of(model, [name])[0]: name for name in field_names(model) if is_relation(model, name)}
        attributes = tuple(sorted(names))
        fields = tuple([relations.get(name, name) for name in attributes])
        reads = found[model, names, kind] = TableReads(model, attributes, fields, kind)
    return reads


def _propose_key(advice: Advice, cache: OpenCache, reads: TableReads, least: int) -> None:
    """Proposes a key, or says why not."""
    entries, names = cache.models.get(reads.model), frozenset(reads.attributes)
    keys = {} if entries is None else entries.gets if reads.kind == GET else entries.filters
    if names in keys or (entries is not None and names == frozenset([pk_of(reads.model)])):
        advice.declared.append(reads)
    elif reads.calls < least:
        _refuse(advice, reads.model, f"fewer than {least} by one key", reads.calls)
    elif reads.saved * 2 < reads.calls:
        _refuse(advice, reads.model, "writes and new values would leave less than half to save", reads.calls)
    else:
        advice.declare.append(reads)


def _refuse(advice: Advice, model: type[Model], reason: str, calls: int) -> None:
    key = model.__name__, reason
    advice.refused[key] = advice.refused.get(key, 0) + calls


def _find_unused(advice: Advice, cache: OpenCache, counts: Mapping[str, int]) -> None:
    declared: set[str] = set()
    for model, entries in cache.models.items():
        for setting, keys in ((GET, entries.gets), (FILTER, entries.filters)):
            for names, entry_set in keys.items():
                name = entry_set.counters.name
                declared.add(name)
                if isinstance(entry_set, IndexEntries) and names != frozenset([pk_of(model)]) and not counts.get(name):
                    advice.remove.append((model, setting, entry_set.fields))
        declared.add(entries.rows.counters.name)
    others = [name for name in cache.stats.by_cache if name not in declared and not counts.get(name)]
    advice.unused = sorted(others)


def _lists(advice: Advice, entries: ModelEntries | None, model: type[Model]) -> dict[str, list[KeyFields]]:
    """Returns the lists of keys of a model with all changes. The primary key needs no declaration."""
    lists: dict[str, list[KeyFields]] = {}
    for setting in (GET, FILTER):
        existing = {} if entries is None else entries.gets if setting == GET else entries.filters
        declared = [entry_set.fields for names, entry_set in existing.items() if names != frozenset([pk_of(model)])]
        keys = [key for key in declared if (model, setting, key) not in advice.remove]
        keys += [reads.fields for reads in advice.declare if reads.model is model and reads.kind == setting]
        keys = [key for key in keys if key != (pk_of(model),)]
        if keys or declared:
            lists[setting] = keys
    return lists


def pasted(lists: dict[str, list[KeyFields]]) -> list[str]:
    """Returns lists of keys as lines of a ``CacheMeta``."""
    lines: list[str] = []
    for setting, keys in lists.items():
        texts = ["(" + ", ".join(f'"{name}"' for name in key) + ("," if len(key) == 1 else "") + ")" for key in keys]
        line = f"{setting} = [{', '.join(texts)}]"
        short = len(line) <= _PASTED_WIDTH
        lines += [line] if short else [f"{setting} = [", *[f"    {text}," for text in texts], "]"]
    return lines
