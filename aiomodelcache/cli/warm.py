"""``aiomodelcache warm``: reads the rows of a model by its keys, so that lookups find them in the store."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aiomodelcache.cli.output import counted
from aiomodelcache.cli.session import CommandSession, command, opened
from aiomodelcache.declare.manager import manager_of
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.targets import find_target
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.key_values import distinct
from aiomodelcache.orm.schema import ModelSchema

_POSITIVE = click.IntRange(min=1)


@command("warm", short_help="Read a model's rows into the cache.")
@click.argument("target", metavar="MODEL")
@click.option("--by", "keys", multiple=True, metavar="FIELDS", help="A key to read by, like slug or organizer,state.")
@click.option("--batch", default=500, show_default=True, type=_POSITIVE, help="Rows that are read at once.")
@click.option("--rate", type=_POSITIVE, help="Maximum number of rows in a second. By default there is none.")
@click.option("--limit", type=_POSITIVE, help="Stop after as many rows.")
@click.option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="A file to continue from.")
async def warm_command(
    session: CommandSession,
    target: str,
    keys: Sequence[str],
    batch: int,
    rate: int | None,
    limit: int | None,
    checkpoint: Path | None,
) -> None:
    """Reads all rows of a model in the order of their primary keys, so that lookups find them in the store.

    By default they are read by primary key; --by names other keys, whose entries are stored, too. Entries that are
    there are kept. With --checkpoint, the position is kept in a file: a run that was interrupted continues there, and
    the file is removed at the end.
    """
    async with session.cache() as cache:
        view = opened(cache)
        model = find_target(view, target).model
        if model is None:
            raise CommandError(f"warm takes a model, and {target} is none.")
        entries = view.entries_of(model)
        plan = _Plan(view, entries, [key.split(",") for key in keys])
        position = _Position(entries.schema, checkpoint, plan.columns)
        before, failures, started, rows = cache.stats.statements, view.guarded.failures, time.monotonic(), 0
        total = await entries.schema.queryset(entries.schema.client).count()
        with _progress(session, min(total, limit or total)) as advance:
            async for found in _batches(entries.schema, plan.columns, position, batch, limit):
                await plan.read(found)
                if view.guarded.failures > failures:
                    raise BackendError("The store has stopped answering: run the command again.")
                rows += len(found)
                position.keep(found[-1][0])
                advance(len(found))
                if rate is not None:
                    await asyncio.sleep(max(0.0, rows / rate - (time.monotonic() - started)))
        if limit is None or rows < limit:
            position.remove()
        statements = cache.stats.statements - before
    data = {"target": model.__name__, "rows": rows, "statements": statements, "resumed": position.resumed}
    text = f"{counted(rows, 'row')} read, {counted(statements, 'statement')} for those that were not in the cache"
    session.output.emit(data, lambda: session.output.line("ok", text + (", continued" if position.resumed else "")))


class _Plan:
    """The lookups by which each batch is read."""

    def __init__(self, cache: OpenCache, entries: ModelEntries, keys: Sequence[Sequence[str]]) -> None:
        schema = entries.schema
        self._manager = manager_of(schema.model, cache)
        self._keys = [tuple([name.strip() for name in key]) for key in keys] or [(schema.pk,)]
        self._attributes: list[tuple[str, ...]] = []
        for key in self._keys:
            entry_set = entries.match_key("either", key).entry_set
            by_name = {schema.attribute(name) or name: name for name in key}
            self._attributes.append(tuple([each for each in by_name if each in entry_set.attributes]))
        named = [name for attributes in self._attributes for name in attributes if name != schema.pk]
        self.columns = [schema.pk, *dict.fromkeys(named)]
        """The columns to read of each row, the primary key first."""

    async def read(self, rows: Sequence[Sequence[Any]]) -> None:
        """Looks up the values of these rows. Lookups by all keys share their requests.

        On a Cluster, a lookup by another key than the primary one may store no rows. They are looked up in the end.
        """
        queries: list[Any] = []
        for key, attributes in zip(self._keys, self._attributes, strict=True):
            places = [self.columns.index(name) for name in attributes]
            values: list[Any] = [tuple([row[at] for at in places]) for row in rows]
            if len(places) == 1:
                values = [value for (value,) in values]
            queries.append(self._manager.get_many(distinct(values), key=key if len(places) > 1 else "".join(key)))
        await asyncio.gather(*queries)
        await self._manager.get_many([pk for pk, *_ in rows])


class _Position:
    """The primary key up to which rows were read, kept in a file if there is one."""

    def __init__(self, schema: ModelSchema, file: Path | None, columns: Sequence[str]) -> None:
        self._schema = schema
        self._file = file
        self._what = [schema.name, *columns]
        self.last: Any = None
        self.resumed = False
        if file is None or not file.exists():
            return
        try:
            kept = json.loads(file.read_text("utf-8"))
            what, text = kept["what"], kept["last"]
            [self.last] = schema.pks_codec.decode(bytes.fromhex(text))
        except Exception as error:
            raise CommandError(f"{file} is no checkpoint of warm: remove it, or name another file.") from error
        if what != self._what:
            raise CommandError(f"{file} is the checkpoint of another run: remove it, or name another file.")
        self.resumed = True

    def keep(self, pk: Any) -> None:
        """Records that the rows up to this one were read."""
        self.last = pk
        if self._file is not None:
            kept = {"what": self._what, "last": self._schema.pks_codec.encode([pk]).hex()}
            new = self._file.with_name(f"{self._file.name}.new")
            new.write_text(json.dumps(kept), "utf-8")
            new.replace(self._file)

    def remove(self) -> None:
        """Removes the file, because all rows were read."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


async def _batches(
    schema: ModelSchema, columns: Sequence[str], position: _Position, size: int, limit: int | None
) -> AsyncGenerator[list[Sequence[Any]], None]:
    """Yields the columns of all rows after a position, in the order of their primary keys."""
    left = limit
    while left is None or left > 0:
        query: Any = schema.queryset(schema.client).order_by(schema.pk)
        if position.last is not None:
            conditions = {f"{schema.pk}__gt": position.last}
            query = query.filter(**conditions)
        found: list[Sequence[Any]] = await query.limit(min(size, left or size)).values_list(*columns)
        if not found:
            return
        yield found
        left = None if left is None else left - len(found)


@contextmanager
def _progress(session: CommandSession, total: int) -> Generator[Callable[[int], None], None, None]:
    """Shows a bar on a terminal. Yields the function that moves it."""
    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=session.output.console, disable=not session.output.is_terminal) as progress:
        task = progress.add_task("rows", total=total)
        yield lambda number: progress.advance(task, number)
