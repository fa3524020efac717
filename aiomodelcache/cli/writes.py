"""``aiomodelcache clear``, ``invalidate`` and ``refresh``: what a program does after writes behind the cache."""

from collections.abc import Sequence
from typing import Any, cast

import click
from tortoise.exceptions import DoesNotExist

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.cli.explain import ARGUMENTS, AS_LIST, TARGET
from aiomodelcache.cli.output import counted
from aiomodelcache.cli.session import CommandSession, command, opened
from aiomodelcache.client import ModelCache
from aiomodelcache.declare.manager import manager_of
from aiomodelcache.declare.values import BaseValueQuery
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.arguments import model_values, parse_arguments
from aiomodelcache.inspection.clearing import clear_targets, clearable
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.targets import find_target, query_of
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.explain import explain
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.query.many_to_many import ManyToManyQuery
from aiomodelcache.write.manual import invalidate_entries


@command("clear", short_help="Invalidate everything about models or cached functions.")
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option("--all", "everything", is_flag=True, help="All models and all cached functions.")
async def clear_command(session: CommandSession, targets: Sequence[str], everything: bool) -> None:
    """Invalidates everything about models, classes of values and cached functions, in all processes and in O(1).

    The entries stay in the store until they expire, and are not answered any more.
    """
    if bool(targets) == everything:
        raise CommandError("clear takes the names of models or cached functions, or --all.")
    async with session.cache() as cache:
        view = cache.open_cache.writable()
        found = [find_target(view, name) for name in targets] or clearable(view)
        names = await clear_targets(view, found)
        _check_delivered(cache)

    session.output.emit({"cleared": names}, lambda: session.output.line("ok", f"cleared {', '.join(names)}"))


@command("invalidate", short_help="Invalidate the entries of one lookup.")
@TARGET
@ARGUMENTS
async def invalidate_command(session: CommandSession, target: str, arguments: Sequence[str]) -> None:
    """Invalidates rows that were written behind the cache, or one result.

    Of a model, all entries of the rows with these values, and those under the values. Costs one statement, which reads
    the keys under which the rows are found now.
    """
    rows: int | None = None
    async with session.cache() as cache:
        view = opened(cache)
        found = find_target(view, target)
        given = parse_arguments(arguments)
        if found.model is not None:
            if not given:
                raise CommandError(
                    f"Which {found.name}? Pass values of a key. `clear {found.name}` is for all of them."
                )
            rows = await manager_of(found.model, view).invalidate(**model_values(found.model, given))
        else:
            await _invalidate(view, query_of(view, found, given))
        _check_delivered(cache)
    text = "invalidated" if rows is None else f"invalidated the entries of {counted(rows, 'row')}"
    session.output.emit({"target": found.name, "rows": rows}, lambda: session.output.line("ok", text))


@command("refresh", short_help="Read one lookup from the database, and store it again.")
@TARGET
@ARGUMENTS
@AS_LIST
async def refresh_command(session: CommandSession, target: str, arguments: Sequence[str], as_list: bool) -> None:
    """Reads the rows of a lookup from the database, or computes a result, and replaces the cached entries."""
    async with session.cache() as cache:
        view = opened(cache)
        found = find_target(view, target)
        query = query_of(view, found, parse_arguments(arguments), as_list=as_list)
        rows = await _refreshed(view, query)
        _check_delivered(cache)
        if isinstance(query, LookupQuery):
            explanation = await explain(view, query)
        else:
            explanation = await cast("BaseValueQuery[Any]", query).explain()
    stored = explanation.source == "cache"
    data = {"target": found.name, "rows": rows, "stored": stored, "reason": explanation.reason}

    def show() -> None:
        read = "computed" if rows is None else f"read {counted(rows, 'row')}"
        if stored:
            session.output.line("ok", f"{read}, and stored the answer")
        else:
            session.output.line("warning", f"{read}; the answer is not stored: {explanation.reason}")

    session.output.emit(data, show)


async def _refreshed(cache: OpenCache, query: Any) -> int | None:
    """Refreshes a query. Returns how many rows it has found, or None for a computed result."""
    if not isinstance(query, LookupQuery) or isinstance(query, ManyToManyQuery):
        await _invalidate(cache, query)
        result: Any = await query
        return len(result) if isinstance(query, ManyToManyQuery) else None
    model = query.locate(cache).entry_set.schema.model
    try:
        found: Any = await manager_of(model, cache).refresh(cast("Any", query))
    except DoesNotExist:
        return 0
    if isinstance(found, model):
        return 1
    return len(cast("list[object]", found)) if isinstance(found, list) else None


async def _invalidate(cache: OpenCache, query: Any) -> None:
    """Invalidates the entry of a query that is not one of a model's own keys."""
    if isinstance(query, ManyToManyQuery):
        _, entry_set, _, key = query.locate(cache)
        await invalidate_entries(cache, entry_set.rows, [Clear(key)], [])
    else:
        await query.invalidate()


def _check_delivered(cache: ModelCache) -> None:
    """Raises ``BackendError`` if an invalidation has not arrived: this process ends and cannot send it later."""
    if cache.open_cache.guarded.has_undelivered:
        raise BackendError("The store did not take the invalidation: run the command again.")
