"""Walks: from the rows of a lookup along relations to other rows.

Nothing of a walk is stored: it goes over the entries of rows and indexes, each of which is as fresh as ever, so
that no writer has to find out which walks a row is part of. All that a walk read last time it reads ahead at once,
in one request; what was read so is checked like anything else and decides nothing by having been guessed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tortoise.models import Model

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.indexes import rows_at, rows_by_index
from aiomodelcache.plans.requests import Plan, Read, T
from aiomodelcache.plans.rows import row_by_pk, rows_by_pk, values_of
from aiomodelcache.plans.steps import ahead_of

Make = Callable[[EntrySet, Any], Model]
"""Makes the instance of a row that was found by a source."""


class Hop(NamedTuple):
    """One relation on the way: to the rows that ``entry_set`` finds by the values of ``attribute`` here."""

    name: str
    attribute: str
    entry_set: EntrySet
    single: bool
    """Whether there is at most one such row."""

    def value(self, row: Any) -> Any:
        """What a row is followed by, as the source looks it up; None leads nowhere."""
        try:
            value = values_of(row)[self.attribute]
        except KeyError:
            raise ValueError(
                f"The relation {self.name!r} cannot be followed from a row that was loaded without {self.attribute}: "
                "let the model's manager load that column too."
            ) from None
        if isinstance(self.entry_set, ManyToManyEntries):
            return self.entry_set.owner_value(value)
        return self.entry_set.schema.normalise(self.entry_set.attributes[0], value)


class Branch(NamedTuple):
    """A relation to be attached to instances, and those to be attached to what it leads to."""

    hop: Hop
    then: "tuple[Branch, ...]"


class RelationPath(NamedTuple):
    """A cache class that follows relations: ``hops`` to the rows that it is about, ``branches`` to attach to these."""

    name: str
    base: EntrySet
    hops: tuple[Hop, ...] = ()
    branches: tuple[Branch, ...] = ()

    @property
    def end(self) -> type[Model]:
        """The model of the rows that it leads to."""
        return (self.hops[-1].entry_set if self.hops else self.base).schema.model

    def key(self, base: bytes) -> bytes:
        """What one walk is remembered by in this process, given the key that it begins at. Nothing is stored there."""
        return b"w:%b:%b" % (self.name.encode(), base)


class PathRun:
    """One run of a walk: what was read ahead for it, and what it came by."""

    def __init__(self, key: bytes, predictions: Predictions) -> None:
        self.predictions = predictions
        self._key = key
        self._read: dict[bytes, bytes | None] = {}
        self._steps: list[tuple[EntrySet, Sequence[Values], Sequence[Any]]] = []

    def read_ahead(self) -> Plan[None]:
        """Reads what the walk came by last time."""
        keys = self.predictions.predict(self._key).keys
        if keys:
            self._read = dict(zip(keys, (yield Read(keys)), strict=True))

    def ahead(self, plan: Plan[T]) -> Plan[T]:
        """Runs the plan of a step on what was read ahead, each value once in a step.

        As soon as one asks for more, the rest is not used: later steps must not be answered by what was read before
        that, or a row may be seen in a state before that of the row which led to it.
        """
        return ahead_of(plan, dict(self._read), self._read.clear)

    def passed(self, entry_set: EntrySet, wanted: Sequence[Values], rows: Sequence[Any]) -> None:
        """Notes that a source found rows by these values."""
        self._steps.append((entry_set, wanted, rows))

    def end(self) -> list[bytes]:
        """Remembers for the next time what there is to read, and returns the keys that the answer depends on."""
        if self._read:  # nothing else was needed
            return list(self._read)
        keys: dict[bytes, None] = {}
        for entry_set, wanted, rows in self._steps:
            asked = [
                entry_set.key(each[0]) if isinstance(entry_set, RowEntries) else entry_set.key(each) for each in wanted
            ]
            predicted = [each for key in asked for each in self.predictions.predict(key).keys]
            found = [entry_set.rows.key(values_of(row)[entry_set.schema.pk]) for row in rows]
            keys.update(dict.fromkeys([entry_set.rows.epoch_key, *asked, *predicted, *found]))
        self.predictions.learn_keys(self._key, Prediction([], list(keys)))
        return list(keys)


def follow_path(
    path: RelationPath, values: Values, key: bytes, predictions: Predictions, make: Make
) -> Plan[tuple[list[Model], list[bytes]]]:
    """Goes a walk from the rows with these values, which are found under ``key``.

    Returns what it leads to, in order and each once, and the keys of all entries that this depends on.
    """
    run = PathRun(path.key(key), predictions)
    yield from run.read_ahead()
    entry_set = path.base
    first = (
        row_by_pk(entry_set, values[0], key)
        if isinstance(entry_set, RowEntries)
        else rows_at(entry_set, values, key, predictions)
    )
    rows = yield from run.ahead(first)
    run.passed(entry_set, [values], rows)
    for hop in path.hops:
        entry_set = hop.entry_set
        found = yield from _followed(hop, rows, run)
        rows = list({values_of(each)[entry_set.schema.pk]: each for each in _in_order(hop, rows, found)}.values())
    instances = [make(entry_set, row) for row in rows]
    yield from _attach(path.branches, instances, run, make)
    return instances, run.end()


def _attach(branches: Iterable[Branch], instances: Sequence[Model], run: PathRun, make: Make) -> Plan[None]:
    """Gives instances their related ones, as if these had been fetched with them."""
    for hop, then in branches:
        found = yield from _followed(hop, instances, run)
        related = {value: make(hop.entry_set, rows[0]) for value, rows in found.items() if rows}
        for instance in instances:
            vars(instance)[f"_{hop.name}"] = related.get(hop.value(instance))
        yield from _attach(then, list(related.values()), run, make)


def _followed(hop: Hop, rows: Iterable[Any], run: PathRun) -> Plan[dict[Any, list[Any]]]:
    """Follows a relation of rows. Returns the related ones by the values that lead to them, in their order."""
    wanted = list(dict.fromkeys([value for row in rows if (value := hop.value(row)) is not None]))
    if not wanted:
        return {}
    step = (
        _by_pk(hop.entry_set, wanted)
        if isinstance(hop.entry_set, RowEntries)
        else _by_index(hop.entry_set, wanted, run.predictions)
    )
    found = yield from run.ahead(step)
    run.passed(hop.entry_set, [(value,) for value in wanted], [row for rows in found.values() for row in rows])
    return found


def _by_pk(rows: RowEntries, pks: list[Any]) -> Plan[dict[Any, list[Any]]]:
    return {pk: [row] for pk, row in (yield from rows_by_pk(rows, pks)).items()}


def _by_index(index: IndexEntries, wanted: list[Any], predictions: Predictions) -> Plan[dict[Any, list[Any]]]:
    found = yield from rows_by_index(index, [(value,) for value in wanted], predictions)
    return {value: rows for (value,), rows in found.items()}


def _in_order(hop: Hop, rows: Iterable[Any], found: dict[Any, list[Any]]) -> Iterable[Any]:
    return [related for row in rows for related in found.get(hop.value(row), ())]
