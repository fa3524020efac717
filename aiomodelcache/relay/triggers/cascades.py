"""The rows of captured tables that MySQL changes along with a parent's row, without firing a trigger.

Follows the foreign keys of the catalogue from each parent down to captured tables. Pure: makes the FROM clauses by
which triggers of parents find the rows, before they are gone.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from aiomodelcache.relay.triggers.definitions import backquoted

_SILENT: Final = frozenset({"RESTRICT", "NO ACTION"})
"""The rules by which a foreign key refuses the parent's change."""

TableName = tuple[str, str]
"""The database and the name of a table, as the server spells them."""


class ForeignKeyRow(NamedTuple):
    """A foreign key of the catalogue."""

    child: TableName
    parent: TableName
    columns: Sequence[str]
    parent_columns: Sequence[str]
    on_delete: str
    on_update: str


class CascadeLine(NamedTuple):
    """Lines that a trigger of a parent writes for one captured table below it."""

    parent: TableName
    event: str
    """``delete`` or ``update``, of the parent."""
    child: TableName
    """The captured table."""
    alias: str
    """The alias of the captured table in ``rows``."""
    rows: str
    """The FROM and WHERE clauses that select the changed rows, or rows whose existence means that some are changed."""
    nulled: Sequence[str]
    """The columns of the captured table that become NULL. Empty if its rows are deleted."""
    whole: bool
    """True if the rows' values after the change are not known here, so that the line names the whole table."""


def cascade_lines(keys: Sequence[ForeignKeyRow], captured: Collection[TableName]) -> list[CascadeLine]:
    """Returns the lines that triggers of all parents have to write, each once."""
    by_parent: dict[TableName, list[ForeignKeyRow]] = {}
    for key in keys:
        by_parent.setdefault(key.parent, []).append(key)
    found: dict[CascadeLine, None] = {}
    for parent, below in by_parent.items():
        for key in below:
            if key.on_delete not in _SILENT:
                for line in _down(parent, "delete", [key], by_parent, captured):
                    found[line] = None
            if key.on_update not in _SILENT:
                for child in sorted(_reached(key, by_parent) & set(captured)):
                    found[_whole(parent, "update", [key], child)] = None
    return list(found)


def _down(
    parent: TableName,
    event: str,
    path: list[ForeignKeyRow],
    by_parent: Mapping[TableName, Sequence[ForeignKeyRow]],
    captured: Collection[TableName],
) -> Iterator[CascadeLine]:
    """Yields the lines for the rows at the end of a path of foreign keys, and for those below them."""
    key = path[-1]
    if key.on_delete != "CASCADE":
        if key.child in captured:
            yield CascadeLine(parent, event, key.child, _alias(path), _rows(path), tuple(key.columns), whole=False)
        # A changed column may be what others refer to.
        below = [each for each in by_parent.get(key.child, ()) if not set(each.parent_columns).isdisjoint(key.columns)]
        for each in below:
            for child in sorted(_reached(each, by_parent) & set(captured)):
                yield _whole(parent, event, path, child)
        return
    seen = {parent, *(each.child for each in path[:-1])}
    if key.child in seen:  # a tree, of any depth
        for child in sorted(_reached(key, by_parent) & set(captured)):
            yield _whole(parent, event, path, child)
        return
    if key.child in captured:
        yield CascadeLine(parent, event, key.child, _alias(path), _rows(path), (), whole=False)
    for each in by_parent.get(key.child, ()):
        if each.on_delete not in _SILENT:
            yield from _down(parent, event, [*path, each], by_parent, captured)


def _whole(parent: TableName, event: str, path: Sequence[ForeignKeyRow], child: TableName) -> CascadeLine:
    changed = ""
    if event == "update":
        same = " AND ".join(f"OLD.{backquoted(name)} <=> NEW.{backquoted(name)}" for name in path[0].parent_columns)
        changed = f" AND NOT ({same})"
    return CascadeLine(parent, event, child, _alias(path), _rows(path) + changed, (), whole=True)


def _reached(key: ForeignKeyRow, by_parent: Mapping[TableName, Sequence[ForeignKeyRow]]) -> set[TableName]:
    """Returns all tables that a change along a foreign key may change, in turn."""
    found = {key.child}
    pending = [key.child]
    while pending:
        for each in by_parent.get(pending.pop(), ()):
            if not {each.on_delete, each.on_update} <= _SILENT and each.child not in found:
                found.add(each.child)
                pending.append(each.child)
    return found


def _alias(path: Sequence[ForeignKeyRow]) -> str:
    return f"t{len(path)}"


def _rows(path: Sequence[ForeignKeyRow]) -> str:
    """Returns the clauses for the rows at the end of a path from ``OLD``."""
    tables = [f"{backquoted(*key.child)} t{at}" for at, key in enumerate(path, 1)]
    conditions: list[str] = []
    for at, key in enumerate(path):
        above = "OLD" if at == 0 else f"t{at}"
        pairs = zip(key.columns, key.parent_columns, strict=True)
        conditions += [f"t{at + 1}.{backquoted(own)} = {above}.{backquoted(its)}" for own, its in pairs]
    return f"FROM {', '.join(tables)} WHERE {' AND '.join(conditions)}"
