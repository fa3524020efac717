"""Walks: from the rows of a look-up along relations to other rows.

Nothing of a walk is stored: it goes over the entries of rows and indexes, each of which is as fresh as ever, so
that no writer has to find out which walks a row is part of. All that a walk read last time it reads ahead at once,
in one request; what was read so is checked like anything else and decides nothing by having been guessed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tortoise.models import Model

from aiomodelcache.entries.indexes import Index
from aiomodelcache.entries.many_to_many import Through
from aiomodelcache.entries.model import Source
from aiomodelcache.entries.predictions import Guess, Guesses
from aiomodelcache.entries.rows import Rows
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.indexes import rows_at, rows_by_index
from aiomodelcache.plans.requests import Plan, Read, T
from aiomodelcache.plans.rows import row_by_pk, rows_by_pk, values_of
from aiomodelcache.plans.steps import ahead_of

Make = Callable[[Source, Any], Model]
"""Makes the instance of a row that was found by a source."""


class Hop(NamedTuple):
    """One relation on the way: to the rows that ``source`` finds by the values of ``attribute`` here."""

    name: str
    attribute: str
    source: Source
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
        if isinstance(self.source, Through):
            return self.source.owner_value(value)
        return self.source.schema.normalise(self.source.attributes[0], value)


class Branch(NamedTuple):
    """A relation to be attached to instances, and those to be attached to what it leads to."""

    hop: Hop
    then: "tuple[Branch, ...]"


class Walk(NamedTuple):
    """A cache class that follows relations: ``path`` to the rows that it is about, ``branches`` to attach to these."""

    name: str
    base: Source
    path: tuple[Hop, ...] = ()
    branches: tuple[Branch, ...] = ()

    @property
    def end(self) -> type[Model]:
        """The model of the rows that it leads to."""
        return (self.path[-1].source if self.path else self.base).schema.model

    def key(self, base: bytes) -> bytes:
        """What one walk is remembered by in this process, given the key that it begins at. Nothing is stored there."""
        return b"w:%b:%b" % (self.name.encode(), base)


class Trail:
    """One run of a walk: what was read ahead for it, and what it came by."""

    def __init__(self, key: bytes, guesses: Guesses) -> None:
        self.guesses = guesses
        self._key = key
        self._read: dict[bytes, bytes | None] = {}
        self._steps: list[tuple[Source, Sequence[Values], Sequence[Any]]] = []

    def read_ahead(self) -> Plan[None]:
        """Reads what the walk came by last time."""
        keys = self.guesses.recall(self._key).keys
        if keys:
            self._read = dict(zip(keys, (yield Read(keys)), strict=True))

    def ahead(self, plan: Plan[T]) -> Plan[T]:
        """Runs the plan of a step on what was read ahead, each value once in a step.

        As soon as one asks for more, the rest is not used: later steps must not be answered by what was read before
        that, or a row may be seen in a state before that of the row which led to it.
        """
        return ahead_of(plan, dict(self._read), self._read.clear)

    def passed(self, source: Source, wanted: Sequence[Values], rows: Sequence[Any]) -> None:
        """Notes that a source found rows by these values."""
        self._steps.append((source, wanted, rows))

    def end(self) -> list[bytes]:
        """Remembers for the next time what there is to read, and returns the keys that the answer depends on."""
        if self._read:  # nothing else was needed
            return list(self._read)
        keys: dict[bytes, None] = {}
        for source, wanted, rows in self._steps:
            asked = [source.key(each[0]) if isinstance(source, Rows) else source.key(each) for each in wanted]
            guessed = [each for key in asked for each in self.guesses.recall(key).keys]
            found = [source.rows.key(values_of(row)[source.schema.pk]) for row in rows]
            keys.update(dict.fromkeys([source.rows.epoch_key, *asked, *guessed, *found]))
        self.guesses.note(self._key, Guess([], list(keys)))
        return list(keys)


def walked(
    walk: Walk, values: Values, key: bytes, guesses: Guesses, make: Make
) -> Plan[tuple[list[Model], list[bytes]]]:
    """Goes a walk from the rows with these values, which are found under ``key``.

    Returns what it leads to, in order and each once, and the keys of all entries that this depends on.
    """
    trail = Trail(walk.key(key), guesses)
    yield from trail.read_ahead()
    source = walk.base
    first = row_by_pk(source, values[0], key) if isinstance(source, Rows) else rows_at(source, values, key, guesses)
    rows = yield from trail.ahead(first)
    trail.passed(source, [values], rows)
    for hop in walk.path:
        source = hop.source
        found = yield from _followed(hop, rows, trail)
        rows = list({values_of(each)[source.schema.pk]: each for each in _in_order(hop, rows, found)}.values())
    instances = [make(source, row) for row in rows]
    yield from _attach(walk.branches, instances, trail, make)
    return instances, trail.end()


def _attach(branches: Iterable[Branch], instances: Sequence[Model], trail: Trail, make: Make) -> Plan[None]:
    """Gives instances their related ones, as if these had been fetched with them."""
    for hop, then in branches:
        found = yield from _followed(hop, instances, trail)
        related = {value: make(hop.source, rows[0]) for value, rows in found.items() if rows}
        for instance in instances:
            vars(instance)[f"_{hop.name}"] = related.get(hop.value(instance))
        yield from _attach(then, list(related.values()), trail, make)


def _followed(hop: Hop, rows: Iterable[Any], trail: Trail) -> Plan[dict[Any, list[Any]]]:
    """Follows a relation of rows. Returns the related ones by the values that lead to them, in their order."""
    wanted = list(dict.fromkeys([value for row in rows if (value := hop.value(row)) is not None]))
    if not wanted:
        return {}
    step = _by_pk(hop.source, wanted) if isinstance(hop.source, Rows) else _by_index(hop.source, wanted, trail.guesses)
    found = yield from trail.ahead(step)
    trail.passed(hop.source, [(value,) for value in wanted], [row for rows in found.values() for row in rows])
    return found


def _by_pk(rows: Rows, pks: list[Any]) -> Plan[dict[Any, list[Any]]]:
    return {pk: [row] for pk, row in (yield from rows_by_pk(rows, pks)).items()}


def _by_index(index: Index, wanted: list[Any], guesses: Guesses) -> Plan[dict[Any, list[Any]]]:
    found = yield from rows_by_index(index, [(value,) for value in wanted], guesses)
    return {value: rows for (value,), rows in found.items()}


def _in_order(hop: Hop, rows: Iterable[Any], found: dict[Any, list[Any]]) -> Iterable[Any]:
    return [related for row in rows for related in found.get(hop.value(row), ())]
