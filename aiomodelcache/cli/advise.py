"""``aiomodelcache advise``: proposes keys to declare and to remove, by what was observed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import click
from tortoise.connection import get_connection
from tortoise.exceptions import ConfigurationError, OperationalError
from tortoise.models import Model

from aiomodelcache.cli.advice import Advice, KeyFields, advise, pasted
from aiomodelcache.cli.output import counted, duration
from aiomodelcache.cli.session import CommandSession, command
from aiomodelcache.cli.statements import Observed, observed_in_log, parsed
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.open_cache import OpenCache

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_ASKED: Final = ("hits", "misses", "stale")
"""The counts of lookups."""
_STATISTICS: Final = """
    SELECT query, calls, total_exec_time FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@command("advise", short_help="Propose keys to declare and to remove.")
@click.option("--log", "logs", type=_FILE, multiple=True, help="A log of Tortoise's logger tortoise.db_client.")
@click.option("--statements", metavar="CONNECTION", help="Read pg_stat_statements on this connection of Tortoise.")
@click.option("--counts", type=_FILE, multiple=True, help="cache.stats of a process as JSON, to find unused keys.")
@click.option("--published", is_flag=True, help="Use the counts that processes publish (publish_stats).")
@click.option("--least", default=10, show_default=True, type=click.IntRange(min=1), help="Statements that a key needs.")
async def advise_command(
    session: CommandSession,
    logs: Sequence[Path],
    statements: str | None,
    counts: Sequence[Path],
    published: bool,
    least: int,
) -> None:
    """Proposes keys to declare, and keys to remove, with lists to paste into each model's CacheMeta.

    Give it statements that the application has sent, as a log or by pg_stat_statements, and the counts of its
    processes. The saving is predicted. Values that were asked for before would be hits, and each write of the table one
    more miss. Savings by pg_stat_statements are upper bounds, as it does not tell the values.
    """
    if not logs and statements is None and not counts and not published:
        raise CommandError("advise needs something observed: pass --log, --statements, --counts or --published.")
    found = [*map(_counts_in, counts), *(await _published(session) if published else [])]
    async with session.declarations() as cache:
        observed = [each for path in logs for each in _logged(path)]
        if statements is not None:
            observed += await _statistics(statements)
        lookups = _lookups(found) if found else None
        advice = advise(cache.open_cache, observed, lookups, least=least)
        session.output.emit(_data(advice), lambda: _show(session, advice, cache.open_cache))


def _logged(path: Path) -> Iterator[Observed]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        yield from observed_in_log(lines)


async def _statistics(name: str) -> list[Observed]:
    """Returns the statements of ``pg_stat_statements``. Raises ``CommandError`` if the database has none."""
    try:
        client: Any = get_connection(name)
    except (ConfigurationError, KeyError) as error:
        raise CommandError(f"Tortoise has no connection {name!r}: pass the name of one to --statements.") from error
    if client.capabilities.dialect != "postgres":
        raise CommandError(f"{name} is no PostgreSQL, which alone has pg_stat_statements: pass a --log instead.")
    try:
        rows: list[Any] = await client.execute_query_dict(_STATISTICS)
    except OperationalError as error:
        raise CommandError(
            "pg_stat_statements cannot be read: add it to shared_preload_libraries, restart PostgreSQL, and run CREATE "
            "EXTENSION pg_stat_statements in this database, as a user who may read it."
        ) from error
    return [Observed(parsed(row["query"]), row["calls"], row["total_exec_time"] / 1000) for row in rows]


async def _published(session: CommandSession) -> list[dict[str, int]]:
    """Returns the numbers of lookups by cache of all processes that publish. Raises ``CommandError`` if none does."""
    async with session.cache() as cache:
        workers = (await cache.fleet()).others
    if not workers:
        raise CommandError("No process publishes its counts: open its ModelCache with publish_stats=True.")
    return [
        {name: sum(getattr(counters, each) for each in _ASKED) for name, counters in worker.stats.by_cache.items()}
        for worker in workers
    ]


def _counts_in(path: Path) -> dict[str, int]:
    """Returns the numbers of lookups by cache that a file holds. Raises ``CommandError`` for another file."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
        by_cache = cast("dict[str, dict[str, int]]", content["by_cache"])
        return {name: sum(int(counts.get(each, 0)) for each in _ASKED) for name, counts in by_cache.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "write it by json.dumps(dataclasses.asdict(cache.stats), default=list)"
        raise CommandError(f"{path} does not hold the counts of a cache: {remedy}.") from error


def _lookups(found: Sequence[dict[str, int]]) -> dict[str, int]:
    """Returns the numbers of lookups of each cache in all processes. Raises ``CommandError`` if there is none."""
    total: dict[str, int] = {}
    for counts in found:
        for name, number in counts.items():
            total[name] = total.get(name, 0) + number
    if not any(total.values()):
        raise CommandError("The counts have no lookup at all: take them from processes that have served requests.")
    return total


def _data(advice: Advice) -> dict[str, Any]:
    return {
        "statements": advice.statements,
        "saved": advice.saved,
        "declare": [reads.data() for reads in advice.declare],
        "remove": [
            {
                "model": model.__name__,
                "setting": setting,
                "key": list(key),
                "marks_saved": advice.writes.get(model, 0) if advice.observed else None,
            }
            for model, setting, key in advice.remove
        ],
        "never_asked_for": advice.unused,
        "declared": [reads.data() for reads in advice.declared],
        "not_proposed": [
            {"model": model, "reason": reason, "statements": calls}
            for (model, reason), calls in sorted(advice.refused.items())
        ],
        "paste": {model.__name__: pasted(lists) for model, lists in advice.lists.items()},
    }


def _show(session: CommandSession, advice: Advice, cache: OpenCache) -> None:
    output = session.output
    if advice.declare:
        names = ["declare", "key", "statements", "writes", "would save"]
        timed = any(reads.seconds is not None for reads in advice.declare)
        rows = [
            [
                reads.model.__name__,
                f"{'get' if reads.kind.startswith('get') else 'filter'} ({', '.join(reads.fields)})",
                reads.calls,
                reads.writes,
                f"{'' if reads.values_known else 'at most '}{reads.saved}",
                *([duration(reads.saved_seconds)] if timed else []),
            ]
            for reads in advice.declare
        ]
        output.table([*names, "time"] if timed else names, rows)
        output.line()
    for model, setting, key in advice.remove:
        text = f"{model.__name__}: ({', '.join(key)}) of {setting} was never asked for: remove it"
        writes = advice.writes.get(model, 0)
        saved = f", so that {writes} writes mark one key less" if writes else ""
        output.line("warning", text + saved)
    for name in advice.unused:
        output.line("warning", f"{name} was never asked for")
    for model, lists in advice.lists.items():
        _show_paste(session, model, lists, cached=model in cache.models)
    for reads in advice.declared:
        text = f"by ({', '.join(reads.fields)}): declared, so misses or plain queries"
        output.line(f"{reads.model.__name__}: {counted(reads.calls, 'statement')} {text}")
    for (name, reason), calls in sorted(advice.refused.items()):
        output.line(f"{name}: {counted(calls, 'statement')} without a proposal: {reason}")
    percent = f" ({advice.saved / advice.statements:.0%})" if advice.statements else ""
    output.line("ok", f"{advice.saved} of {advice.statements} statements{percent} would be saved")


def _show_paste(
    session: CommandSession, model: type[Model], lists: dict[str, list[KeyFields]], *, cached: bool
) -> None:
    line = session.output.line
    line(f"class {model.__name__}({'...' if cached else 'CachedModel'}):")
    line("    class CacheMeta:")
    for each in pasted(lists) or ["pass"]:
        line(f"        {each}")
    line()
