"""``aiomodelcache top``: shows, again and again, how much the processes look up, and which keys are read most."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Final

import click
from rich.console import Group
from rich.live import Live

from aiomodelcache.cli.explain import VALUES
from aiomodelcache.cli.output import Output, styled
from aiomodelcache.cli.session import CommandSession, command
from aiomodelcache.client import ModelCache
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.hottest import HottestKeys
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.rates import WINDOW, RateWindow
from aiomodelcache.inspection.store import Store, connected

MAX_SHOWN: Final = 10
"""Number of classes and of keys that are shown to people."""
_UNPUBLISHED: Final = "no process publishes its counters: open its ModelCache with publish_stats=True"


@command("top", short_help="Show what the processes look up, live.")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds between two.")
@click.option("--once", is_flag=True, help=f"Measure for {WINDOW:g} seconds, show it, and end.")
@click.option("--watch", default=0.0, metavar="SECONDS", type=click.FloatRange(0, 1), help="Count reads by MONITOR.")
@VALUES
async def top_command(session: CommandSession, interval: float, once: bool, watch: float, values: bool) -> None:
    """Shows lookups per second, the hit ratio, the slowest classes and the hottest keys, until you press Ctrl-C.

    The rates are those of all processes that publish their counters (publish_stats), over the last seconds. A lookup by
    an index counts for the index and for its rows. With --json, or piped, each refresh is one line or one block.

    The server tells how hot keys are only with an LFU policy of eviction. With --watch 0.05, the reads of 50 ms of each
    refresh are counted instead. The server works slower meanwhile.
    """
    async with session.cache() as cache, connected(session.settings.store_url()) as store:
        top = _Top(cache, store, watch=watch, values=values)
        if once:
            await top.measure()
            await asyncio.sleep(WINDOW)
            _print(session.output, await top.measure())
            return
        with _screen(session) as show:
            while True:
                show(await top.measure())
                await asyncio.sleep(interval)


class _Top:
    """The measurements of one run of the command."""

    def __init__(self, cache: ModelCache, store: Store, *, watch: float, values: bool) -> None:
        self._cache = cache
        self._watch = watch
        self._window = RateWindow()
        self._hottest = HottestKeys(store, KeyMap(cache.open_cache), values=values)

    async def measure(self) -> dict[str, Any]:
        """Returns the rates and the hottest keys. A store that does not answer leaves both empty."""
        fleet = await self._cache.fleet()
        data: dict[str, Any] = {"time": round(time.time(), 3), "complete": fleet.complete}
        if fleet.complete:
            data |= self._window.add(time.monotonic(), fleet.others).data()
        try:
            return data | {"keys": await self._keys()}
        except BackendError:
            return data | {"complete": False, "keys": []}

    async def _keys(self) -> list[dict[str, Any]]:
        if self._watch:
            watched = await self._hottest.watch(MAX_SHOWN, self._watch)
            if watched is not None:
                return watched
            self._watch = 0.0  # MONITOR is not permitted
        return await self._hottest.measure(MAX_SHOWN)


@contextlib.contextmanager
def _screen(session: CommandSession) -> Generator[Callable[[dict[str, Any]], None]]:
    """Yields the function that shows a measurement: in place on a terminal, else below the last one."""
    output = session.output
    if not output.is_terminal:
        yield partial(_print, output)
        return

    def show(data: dict[str, Any]) -> None:
        parts = _parts(data)
        texts = [styled(part) if isinstance(part, str) else output.made_table(*part) for part in parts]
        live.update(Group(*texts), refresh=True)

    with Live(console=output.console, auto_refresh=False) as live:
        yield show


def _print(output: Output, data: dict[str, Any]) -> None:
    """Prints a measurement. Ends the command if nothing reads it any more."""
    try:
        if output.as_json:
            print(json.dumps(data, ensure_ascii=False))
        else:
            for part in _parts(data):
                if isinstance(part, str):
                    output.line(part)
                else:
                    output.table(*part)
            output.line()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        sys.exit(0)


def _parts(data: dict[str, Any]) -> Iterator[str | tuple[Sequence[str], list[list[object]]]]:
    """Yields lines, and tables as their columns and rows."""
    moment = time.strftime("%H:%M:%S", time.localtime(data["time"]))
    if not data["complete"]:
        yield f"{moment}  the store does not answer"
        return
    if not data["workers"]:
        yield f"{moment}  {_UNPUBLISHED}"
    else:
        errors = f"  errors {data['backend_errors']}" if data["backend_errors"] else ""
        yield (
            f"{moment}  processes {data['workers']}  lookups/s {data['lookups']:.0f}  "
            f"hits {_percent(data['hit_ratio'])}  SQL/s {data['statements']:.0f}  "
            f"requests/s {data['round_trips']:.0f}{errors}"
        )
        rows: list[list[object]] = [
            [rates["cache"], rates["lookups"], _percent(rates["hit_ratio"]), rates["miss_ms"], _busy(rates)]
            for rates in data["classes"][:MAX_SHOWN]
        ]
        yield ("slowest", "lookups/s", "hits", "ms/miss", "ms/s"), rows
    if data["keys"]:
        measure = "reads" if "reads" in data["keys"][0] else "heat"
        title = "reads/s" if measure == "reads" else "heat"
        yield ("hottest", title, "key"), [[each["cache"], each[measure], each["key"]] for each in data["keys"]]


def _busy(rates: dict[str, Any]) -> float:
    return round(1000 * float(rates["busy"]), 2)


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.1f} %"
