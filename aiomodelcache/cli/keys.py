"""``aiomodelcache keys`` and ``aiomodelcache stats``: the keys that the store holds, listed or counted."""

import time
from collections.abc import Sequence
from typing import Any, Final

import click

from aiomodelcache.cli.explain import VALUES
from aiomodelcache.cli.output import Output, duration, size
from aiomodelcache.cli.session import CommandSession, command
from aiomodelcache.encoding.keys import key_text
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.store import Store, connected
from aiomodelcache.inspection.summaries import SERVER, worker_data
from aiomodelcache.inspection.survey import FoundKey, Total, count_keys, survey_keys
from aiomodelcache.inspection.targets import FoundDeclaration, find_target
from aiomodelcache.observe.fleet import Worker

LIMIT: Final = 1_000
"""Maximum number of keys that ``keys --values`` lists by default. Further keys are counted."""


@command("keys", short_help="Count or list the keys of a model or a cached function.")
@click.argument("target")
@click.option("--limit", default=LIMIT, show_default=True, help="With --values: list at most as many keys.")
@VALUES
async def keys_command(session: CommandSession, target: str, limit: int, values: bool) -> None:
    """Counts the keys of a model, or of a cached function, by cache and by state.

    Keys contain the values that they were looked up by, so only --values lists the keys themselves. Scans all keys of
    the server, in small steps.
    """
    async with session.cache() as cache, connected(session.settings.store_url()) as store:
        view = cache.open_cache  # also of an application with tenants: keys tell theirs
        owner = owner_of(find_target(view, target))
        listed: list[dict[str, Any]] = []
        counted: dict[str, Total] = {}
        async for chunk in survey_keys(view, store, KeyMap(view), owner):
            count_keys(chunk, counted)
            if values:
                listed += await _listed(store, chunk[: max(0, limit - len(listed))])
    data: dict[str, Any] = {"target": owner, "totals": [_total_data(total) for total in _sorted(counted)]}
    if values:
        data["keys"] = listed

    def show() -> None:
        _show_totals(session.output, counted)
        if values:
            session.output.line()
            names = ("state", "age", "expires in", "key")
            rows = [[row["state"], duration(row["age"]), duration(row["expires_in"]), row["key"]] for row in listed]
            session.output.table(names, rows)
            left_out = sum(total.keys for total in counted.values()) - len(listed)
            if left_out > 0:
                session.output.line(f"{left_out} more keys: raise --limit to list them.")

    session.output.emit(data, show)


@command("stats", short_help="Count all keys, and show the server and the workers.")
async def stats_command(session: CommandSession) -> None:
    """Counts all keys of the application by cache and state, and shows the server's memory, hits and evictions.

    Shows the counters of all processes that publish them, by publish_stats or for Prometheus.

    Scans all keys of the server, in small steps.
    """
    async with session.cache() as cache, connected(session.settings.store_url()) as store:
        view = cache.open_cache  # also of an application with tenants: keys tell theirs
        counted: dict[str, Total] = {}
        async for chunk in survey_keys(view, store, KeyMap(view)):
            count_keys(chunk, counted)
        workers = (await cache.fleet()).others
        try:
            info: dict[str, str] | None = await store.info()
        except BackendError:
            info = None
    server = None if info is None else {name: info[name] for name in SERVER if name in info}
    data = {
        "namespace": session.settings.namespace,
        "server": server,
        "keys": sum(total.keys for total in counted.values()),
        "size": sum(total.size for total in counted.values()),
        "totals": [_total_data(total) for total in _sorted(counted)],
        "workers": [worker_data(worker) for worker in workers],
    }

    def show() -> None:
        if server is None:
            session.output.line("warning", "the server does not permit INFO to this user")
        else:
            session.output.pairs((label, _server_value(name, server.get(name))) for name, label in SERVER.items())
        session.output.line()
        _show_totals(session.output, counted)
        if workers:
            session.output.line()
            _show_workers(session.output, workers)

    session.output.emit(data, show)


def owner_of(target: FoundDeclaration) -> str:
    """Returns the declaration under which the keys of a target are counted."""
    if target.model is not None:
        return target.model.__name__
    if target.value is not None:
        return target.value.short
    raise CommandError(f"{target.name} has no keys of its own kind: name its model, or a cached function.")


async def _listed(store: Store, chunk: list[FoundKey]) -> list[dict[str, Any]]:
    times = await store.expires_in([found.key for found in chunk])
    return [
        {"key": key_text(found.key), "state": found.state, "age": found.age, "expires_in": left, "size": found.size}
        for found, left in zip(chunk, times, strict=True)
    ]


def _sorted(counted: dict[str, Total]) -> list[Total]:
    return sorted(counted.values(), key=lambda total: (-total.size, total.label))


def _total_data(total: Total) -> dict[str, Any]:
    return {
        "cache": total.label,
        "kind": total.kind,
        "keys": total.keys,
        "size": total.size,
        "oldest": total.oldest,
        "states": total.states,
    }


def _show_totals(output: Output, counted: dict[str, Total]) -> None:
    if not counted:
        output.line("No keys.")
        return
    rows = [
        [total.label, total.kind, total.keys, size(total.size), duration(total.oldest), _states(total)]
        for total in _sorted(counted)
    ]
    output.table(("cache", "kind", "keys", "size", "oldest", "states"), rows)


def _states(total: Total) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(total.states.items(), key=lambda pair: -pair[1]))


def _server_value(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if name in ("used_memory", "maxmemory"):
        return "none" if value == "0" else size(int(value))
    return duration(float(value)) if name == "uptime_in_seconds" else value


def _show_workers(output: Output, workers: Sequence[Worker]) -> None:
    rows: list[list[object]] = []
    for data in map(worker_data, workers):
        hits, misses = data["hits"], data["misses"]
        ratio = f"{100 * hits / (hits + misses):.1f} %" if hits + misses else None
        state = "bypassed" if data["breaker_open"] else "undelivered" if data["undelivered_keys"] else "ok"
        age = duration(max(0.0, time.time() - data["started"]))
        counts = [data["round_trips"], data["statements"], data["backend_errors"]]
        rows.append([f"{data['host']} {data['pid']}", age, hits, misses, ratio, *counts, state])
    columns = ("worker", "age", "hits", "misses", "ratio", "requests", "SQL", "errors", "state")
    output.table(columns, rows)
