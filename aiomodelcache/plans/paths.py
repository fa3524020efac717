"""Relation paths: from the rows of a lookup along relations to other rows.

A path stores nothing of its own. It reads the entries of rows and indexes, which are as fresh as in any other lookup.
Writers therefore need not find out which paths a row is part of. A run of a path prefetches all keys of the previous
run in one request. Prefetched values are checked like any others, so a wrong prediction cannot change the answer.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from tortoise.models import Model

from aiomodelcache.entries.base import count_undecodable
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.indexes import rows_at, rows_by_index
from aiomodelcache.plans.requests import Plan, Read, T
from aiomodelcache.plans.results import instance_of
from aiomodelcache.plans.rows import row_by_pk, row_values, rows_by_pk
from aiomodelcache.plans.steps import discard_entries, with_prefetched, without_store

MakeInstance = Callable[[EntrySet, Any], Model]
"""Makes the instance of a row that was found in an entry set."""


class Hop(NamedTuple):
    """One relation of a path: to the rows that ``entry_set`` finds by the values of ``attribute`` here."""

    name: str
    attribute: str
    entry_set: EntrySet
    single: bool
    """True if there is at most one such row."""

    def value(self, row: Any) -> Any:
        """Returns the value by which ``entry_set`` looks up the related rows. None leads nowhere."""
        try:
            value = row_values(row)[self.attribute]
        except KeyError:
            raise ValueError(
                f"The relation {self.name!r} cannot be followed from a row that was loaded without {self.attribute}: "
                "let the model's manager load that column too."
            ) from None
        if isinstance(self.entry_set, ManyToManyEntries):
            return self.entry_set.owner_value(value)
        return self.entry_set.schema.normalise(self.entry_set.attributes[0], value)

    def key(self, row: Any) -> bytes:
        """Returns the cache key under which ``entry_set`` finds the related rows."""
        return self.entry_set.key_of((self.value(row),))


class Branch(NamedTuple):
    """A relation to attach to instances, and the relations to attach to its targets."""

    hop: Hop
    then: "tuple[Branch, ...]"


class RelationPath(NamedTuple):
    """The relations of one cache class: ``hops`` to the rows of its result, ``branches`` to attach to these rows."""

    name: str
    base: EntrySet
    hops: tuple[Hop, ...] = ()
    branches: tuple[Branch, ...] = ()

    @property
    def end(self) -> type[Model]:
        """The model of the rows that the path leads to."""
        return (self.hops[-1].entry_set if self.hops else self.base).schema.model

    def key(self, base: bytes) -> bytes:
        """Returns the key of this process's prediction for a run from the key ``base``. The store never holds it."""
        return b"w:%b:%b" % (self.name.encode(), base)


class PathRun:
    """One run of a path: the values prefetched for it, and the lookups that it made."""

    def __init__(self, key: bytes, predictions: Predictions) -> None:
        self.predictions = predictions
        self._key = key
        self._prefetched: dict[bytes, bytes | None] = {}
        self._steps: list[tuple[EntrySet, Collection[bytes], Sequence[Any]]] = []

    def prefetch(self) -> Plan[None]:
        """Reads the keys of the previous run."""
        keys = self.predictions.predict(self._key).keys
        if keys:
            self._prefetched = dict(zip(keys, (yield Read(keys)), strict=True))

    def with_prefetched(self, plan: Plan[T]) -> Plan[T]:
        """Runs the plan of a step on the prefetched values. Each value is used once in a step.

        When a step requests more, the remaining prefetched values are dropped. They are older than that request: a
        later step could show a row in an earlier state than the row that led to it.
        """
        return with_prefetched(plan, dict(self._prefetched), self._prefetched.clear)

    def record(self, entry_set: EntrySet, keys: Collection[bytes], rows: Sequence[Any]) -> None:
        """Records the rows that an entry set returned for these keys."""
        self._steps.append((entry_set, keys, rows))

    def rows_from_store(self) -> list[bytes]:
        """Returns the keys of the row entries that the run has used so far."""
        return [
            entry_set.rows.key(row[entry_set.schema.pk])
            for entry_set, _, rows in self._steps
            for row in rows
            if not isinstance(row, Model)
        ]

    def finish(self) -> list[bytes]:
        """Stores the prediction for the next run, and returns the keys that the answer depends on."""
        if self._prefetched:  # the run needed no other keys
            return list(self._prefetched)
        keys: dict[bytes, None] = {}
        for entry_set, looked_up, rows in self._steps:
            predicted = [read for key in looked_up for read in self.predictions.predict(key).keys]
            found = [entry_set.rows.key(row_values(row)[entry_set.schema.pk]) for row in rows]
            used = [*looked_up, *predicted, *found]
            keys.update(dict.fromkeys([*entry_set.rows.partitions.epochs_of(used), *used]))
        self.predictions.learn_keys(self._key, Prediction([], list(keys)))
        return list(keys)


def follow_path(
    path: RelationPath, values: Values, key: bytes, predictions: Predictions, make_instance: MakeInstance
) -> Plan[tuple[list[Model], list[bytes]]]:
    """Follows a path from the rows with these values, which are found under ``key``.

    Returns the rows at its end, in order and without duplicates, and the keys of all entries that they depend on.
    """
    run = PathRun(path.key(key), predictions)
    try:
        return (yield from _run_path(path, values, key, run, make_instance))
    except Exception as error:
        row_keys = run.rows_from_store()
        if not row_keys:
            raise
        # Either the database fails, or an entry holds a value of a relation that no row can have.
        run = PathRun(path.key(key), predictions)
        answer = yield from without_store(
            _run_path(path, values, key, run, lambda entry_set, row: instance_of(entry_set.rows, row))
        )
        count_undecodable(path.base.counters, path.name, error)
        predictions.discard(path.key(key))
        yield from discard_entries(row_keys)
        return answer


def _run_path(
    path: RelationPath, values: Values, key: bytes, run: PathRun, make_instance: MakeInstance
) -> Plan[tuple[list[Model], list[bytes]]]:
    yield from run.prefetch()
    entry_set = path.base
    base_plan = (
        row_by_pk(entry_set, values[0], key)
        if isinstance(entry_set, RowEntries)
        else rows_at(entry_set, values, key, run.predictions)
    )
    rows = yield from run.with_prefetched(base_plan)
    run.record(entry_set, [key], rows)
    for hop in path.hops:
        entry_set = hop.entry_set
        found = yield from _follow_hop(hop, rows, run)
        related_rows = _in_order(hop, rows, found)
        rows = list({entry_set.rows.key(row_values(row)[entry_set.schema.pk]): row for row in related_rows}.values())
    instances = [make_instance(entry_set, row) for row in rows]
    yield from _attach(path.branches, instances, run, make_instance)
    return instances, run.finish()


def _attach(
    branches: Iterable[Branch], instances: Sequence[Model], run: PathRun, make_instance: MakeInstance
) -> Plan[None]:
    """Sets the relations of instances, as if the related instances had been fetched with them."""
    for hop, then in branches:
        found = yield from _follow_hop(hop, instances, run)
        related = {key: make_instance(hop.entry_set, rows[0]) for key, rows in found.items() if rows}
        for instance in instances:
            vars(instance)[f"_{hop.name}"] = related.get(hop.key(instance))
        yield from _attach(then, list(related.values()), run, make_instance)


def _follow_hop(hop: Hop, rows: Iterable[Any], run: PathRun) -> Plan[dict[bytes, list[Any]]]:
    """Follows a relation of rows.

    Returns the related rows by the keys that lead to them, in the order of the relation.
    """
    entry_set = hop.entry_set
    wanted = {entry_set.key_of((value,)): value for row in rows if (value := hop.value(row)) is not None}
    if not wanted:
        return {}
    hop_plan = (
        _by_pk(entry_set, wanted)
        if isinstance(entry_set, RowEntries)
        else rows_by_index(entry_set, {key: (value,) for key, value in wanted.items()}, run.predictions)
    )
    found = yield from run.with_prefetched(hop_plan)
    run.record(entry_set, wanted, [row for rows in found.values() for row in rows])
    return found


def _by_pk(rows: RowEntries, pks: dict[bytes, Any]) -> Plan[dict[bytes, list[Any]]]:
    return {key: [row] for key, row in (yield from rows_by_pk(rows, pks)).items()}


def _in_order(hop: Hop, rows: Iterable[Any], found: dict[bytes, list[Any]]) -> Iterable[Any]:
    return [related for row in rows for related in found.get(hop.key(row), ())]
