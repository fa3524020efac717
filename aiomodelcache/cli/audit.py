"""``aiomodelcache audit``: compares another cache of an application with its database."""

import asyncio
import difflib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import click
from tortoise.fields import DatetimeField
from tortoise.models import Model

from aiomodelcache.cli.explain import VALUES
from aiomodelcache.cli.output import Output, counted, duration
from aiomodelcache.cli.session import FOUND, CommandSession, command
from aiomodelcache.cli.settings import import_path
from aiomodelcache.cli.verify import percent, upper_bound
from aiomodelcache.inspection.audit import Audit, StaleEntry
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.foreign_caches import (
    CODECS,
    PLACE,
    ChoosePks,
    ForeignCache,
    read_by_function,
    read_by_get,
    stored_pks,
    string_reader,
)
from aiomodelcache.inspection.store import connected
from aiomodelcache.orm.connections import bound_models
from aiomodelcache.orm.meta import attributes_of, column_names, field_class, field_names, full_name
from aiomodelcache.orm.samples import AuditedRows

ROWS_AT_ONCE: Final = 100
"""Number of rows that are compared at once. They are read with one statement."""
LEAST_FOR_HINT: Final = 5
"""Number of compared entries from which a column that differs in all of them is taken for another form of values."""


@command("audit", short_help="Compare another cache with the database.")
@click.argument("target", metavar="MODEL")
@click.argument("source", metavar="[SOURCE]", required=False)
@click.option("--key", "template", metavar="KEY", help="The key of an entry, like event:{pk}.")
@click.option("--codec", type=click.Choice([*CODECS]), help="The form of entries. pickle runs code that they name.")
@click.option("--sample", "number", default=1_000, show_default=True, type=click.IntRange(min=1), help="Rows to take.")
@click.option("--stored", is_flag=True, help="Take keys that Redis holds instead of rows, by --key and --codec.")
@click.option("--recent", is_flag=True, help="Take the rows that were changed last, by --updated. Else at random.")
@click.option(
    "--seconds", default=60.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Longest time."
)
@click.option("--updated", metavar="FIELD", help="The column with the time of a row's last write.")
@click.option("--ignore", "ignored", multiple=True, metavar="FIELD", help="A column that is not compared.")
@click.option(
    "--max-stale", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Accepted share of stale entries."
)
@VALUES
async def audit_command(
    session: CommandSession,
    target: str,
    source: str | None,
    template: str | None,
    codec: str | None,
    number: int,
    stored: bool,
    recent: bool,
    seconds: float,
    updated: str | None,
    ignored: Sequence[str],
    max_stale: float,
    values: bool,
) -> int:
    """Compares another cache of the application with the database. Ends with status 1 if too many entries are stale.

    MODEL is any model of Tortoise. SOURCE is an async function of a primary key, like app.caches:cached_event. It
    returns the row's instance, a dict of its columns, or None if it is not cached. With --key, SOURCE is an object
    whose get takes the key, such as the cache of cashews or aiocache. With --key and --codec alone, the keys are read
    from the Redis at --url.

    An entry that differs from its row is read again, with the row. It is stale only if neither has changed.
    """
    complete = False
    async with session.tortoise():
        model = _find_model(target)
        rows, timestamp = AuditedRows(model), _timestamp(model, updated)
        async with _opened(session, model, source, template, codec) as cache:
            choose = _choice(cache, rows, timestamp, recent=recent, stored=stored)
            audit = Audit(cache, rows, {_column(model, "--ignore", name) for name in ignored}, timestamp)
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    pks = await choose(number)
                    for at in range(0, len(pks), ROWS_AT_ONCE):
                        await audit.compare(pks[at : at + ROWS_AT_ONCE])
                    complete = True
            except TimeoutError:
                if not limit.expired():
                    raise
    if not audit.compared:
        raise CommandError(_nothing_compared(audit, target, seconds, complete=complete))
    share = len(audit.stale) / audit.compared
    bound = None if recent else upper_bound(len(audit.stale), audit.compared)
    session.output.emit(
        _data(audit, share, bound, complete=complete, values=values),
        lambda: _show(
            session.output, audit, share, bound, max_stale, seconds=None if complete else seconds, values=values
        ),
    )
    return FOUND if share > max_stale else 0


def _find_model(name: str) -> type[Model]:
    """Returns the model of this name, which needs no cache. Raises ``CommandError``."""
    by_name: dict[str, list[type[Model]]] = {}
    for model in bound_models():
        for each in (model.__name__, full_name(model), f"{model.__module__}.{model.__name__}"):
            by_name.setdefault(each, []).append(model)
    found = by_name.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"Several models are called {name}: name one of {', '.join(sorted(map(full_name, found)))}.")
    close = difflib.get_close_matches(name, by_name, n=3) or sorted(each for each in by_name if "." not in each)
    raise CommandError(f"No model is called {name}. There are: {', '.join(close)}.")


def _column(model: type[Model], option: str, name: str) -> str:
    """Returns the attribute of the column that an option names. Raises ``CommandError``."""
    columns = column_names(model)
    [attribute] = attributes_of(model, [name]) if name in field_names(model) else [name]
    if attribute not in columns:
        raise CommandError(
            f"{option}: {model.__name__} has no column {name}. Its columns: {', '.join(sorted(columns))}."
        )
    return attribute


def _timestamp(model: type[Model], name: str | None) -> str | None:
    if name is None:
        return None
    attribute = _column(model, "--updated", name)
    if not issubclass(field_class(model, attribute), DatetimeField):
        raise CommandError(
            f"--updated: {model.__name__}.{attribute} is no DatetimeField: name the time of the last write."
        )
    return attribute


def _choice(cache: ForeignCache, rows: AuditedRows, updated: str | None, *, recent: bool, stored: bool) -> ChoosePks:
    """Returns the function that chooses the primary keys to compare. Raises ``CommandError``."""
    if recent and stored:
        raise CommandError("--recent takes rows and --stored takes keys: pass one of them.")
    if recent:
        if updated is None:
            raise CommandError(
                "--recent takes the rows that were changed last: name the column with that time by --updated."
            )
        return partial(rows.newest_pks, updated=updated)
    if not stored:
        return rows.random_pks
    if cache.stored_pks is None:
        raise CommandError("--stored takes keys that Redis holds: name them by --key and --codec, without SOURCE.")
    return cache.stored_pks


@asynccontextmanager
async def _opened(
    session: CommandSession, model: type[Model], source: str | None, template: str | None, codec: str | None
) -> AsyncGenerator[ForeignCache, None]:
    """Yields the cache that the arguments name. Raises ``CommandError``."""
    if template is not None and PLACE not in template:
        raise CommandError(
            f"--key is {template}, without {PLACE}: put it in the place of the primary key, like event:{PLACE}."
        )
    if source is not None:
        found: Any = import_path("SOURCE", source)
        if template is None and callable(found):
            read = read_by_function(source, found)
        elif template is not None and callable(getattr(found, "get", None)):
            read = read_by_get(source, found, template)
        else:
            remedy = f"pass --key, like event:{PLACE}" if template is None else "leave out --key if it is a function"
            raise CommandError(f"{source} is no {'function' if template is None else 'object with get'}: {remedy}.")
        yield ForeignCache(model, source, read, codec)
    elif template is None or codec is None:
        raise CommandError(
            "Which cache is it? Name a function, like app.caches:cached_event, or keys in Redis by "
            f"--key event:{PLACE} and --codec."
        )
    else:
        async with connected(session.settings.store_url()) as store:
            cache = ForeignCache(model, f"Redis at {store.where}", string_reader(store, template), codec)
            cache.stored_pks = partial(stored_pks, store, template, model)
            yield cache


def _nothing_compared(audit: Audit, target: str, seconds: float, *, complete: bool) -> str:
    """Returns the error of an audit that has measured nothing, with the remedy."""
    if not audit.sampled:
        return (
            f"{target} has no rows, or no keys with --stored."
            if complete
            else f"No rows were compared within {seconds:g} s: raise --seconds."
        )
    if audit.unreadable:
        [(reason, _)] = audit.unreadable.most_common(1)
        return f"None of the entries of {target} could be compared: {reason}. Name another --codec, or a function."
    if audit.changed:
        return f"All entries of {target} that differed changed meanwhile, and none agreed: run the command again."
    return (
        f"None of {audit.sampled} rows of {target} is cached, so nothing was measured: correct the key or the "
        "function, raise --sample, or run the command while the cache is warm."
    )


def _data(audit: Audit, share: float, bound: float | None, *, complete: bool, values: bool) -> dict[str, Any]:
    return {
        "model": full_name(audit.rows.model),
        "sampled": audit.sampled,
        "complete": complete,
        "not_cached": audit.not_cached,
        "compared": audit.compared,
        "agree": audit.agree,
        "stale": len(audit.stale),
        "share": share,
        "stale_at_most": bound,
        "changed_meanwhile": audit.changed,
        "not_compared": dict(audit.unreadable),
        "differs": dict(audit.differing),
        "late_at_least": dict(zip(("p50", "max"), audit.late, strict=True)) if audit.late else None,
        "columns_not_held": _not_held(audit),
        "entries": [_entry(each, values=values) for each in audit.stale],
    }


def _entry(entry: StaleEntry, *, values: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"differs": entry.differs, "late_at_least": entry.late}
    return {"pk": entry.pk, **known, "cached": entry.cached, "stored": entry.stored} if values else known


def _not_held(audit: Audit) -> list[str]:
    """Returns the columns that were not compared, because no entry has them. The primary key has led to the entries."""
    return sorted({*audit.rows.columns} - audit.held - {*audit.ignored, audit.rows.pk})


def _show(
    output: Output,
    audit: Audit,
    share: float,
    bound: float | None,
    max_stale: float,
    *,
    seconds: float | None,
    values: bool,
) -> None:
    number, stale = audit.compared, len(audit.stale)
    if stale and values:
        cells = [
            (each.pk, name, *[_value(row, name) for row in (each.cached, each.stored)])
            for each in audit.stale
            for name in each.differs
        ]
        output.table(("pk", "differs in", "cached", "in the database"), cells)
    elif stale:
        output.table(("differs in", "entries"), audit.differing.most_common())
    if stale:
        output.line()
        word = "error" if share > max_stale else "warning"
        at_most = f", so at most {percent(bound)} of all (95 % confidence)" if bound is not None else ""
        output.line(word, f"{stale} of {number} entries are stale{at_most}")
    else:
        fewer = f", so fewer than {percent(bound)} of all are stale (95 % confidence)" if bound is not None else ""
        output.line("ok", f"{counted(number, 'entry agrees', 'entries agree')} with the database{fewer}")
    if audit.late:
        median, longest = map(duration, audit.late)
        output.line(f"half of them are stale for {median} or longer, one for {longest} or longer, by {audit.updated}")
    if audit.not_cached:
        output.line(f"{audit.not_cached} of {audit.sampled} rows are not cached")
    if audit.changed:
        output.line(f"{audit.changed} not compared: they changed meanwhile")
    for reason, unreadable in sorted(audit.unreadable.items()):
        output.line(f"{unreadable} not compared: {reason}")
    if _not_held(audit):
        output.line(f"not compared: {', '.join(_not_held(audit))}, which no entry holds")
    for name, found in audit.differing.items():
        if found == number >= LEAST_FOR_HINT and name in audit.rows.columns:
            output.line(
                "warning", f"{name} differs in all entries: if they hold it in another form, pass --ignore {name}"
            )
    if seconds is not None:
        output.line("warning", f"ended after {seconds:g} s with {audit.sampled} rows: to compare more, raise --seconds")


def _value(row: Any, name: str) -> str | None:
    return repr(row[name]) if row is not None and name in row else None
