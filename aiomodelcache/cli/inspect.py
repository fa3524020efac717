"""``aiomodelcache inspect``: the bytes under a key, decoded."""

from collections.abc import Sequence
from typing import Any, cast

import click

from aiomodelcache.cli.explain import ARGUMENTS, AS_LIST, VALUES
from aiomodelcache.cli.output import duration, size
from aiomodelcache.cli.session import CommandSession, command, opened
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.store import connected
from aiomodelcache.inspection.stored import inspected_entry, key_of_target


@command("inspect", short_help="Decode the entry under a key.")
@click.argument("target", metavar="KEY|TARGET")
@ARGUMENTS
@AS_LIST
@VALUES
async def inspect_command(
    session: CommandSession, target: str, arguments: Sequence[str], as_list: bool, values: bool
) -> None:
    """Decodes the entry under a key: its state, age and expiry, and the names and types of what it holds.

    KEY is a key as Redis shows it. TARGET with NAME=VALUE is a lookup, as explain takes it. --values shows the values,
    too. Reads the store only, and changes nothing.
    """
    async with session.cache() as cache, connected(session.settings.store_url()) as store:
        view = opened(cache)
        key = key_of_target(view, target, arguments, as_list=as_list)
        data = await inspected_entry(view, store, KeyMap(view), key, cache.fleet, values=values)
    _show(session, data)


def _show(session: CommandSession, data: dict[str, Any]) -> None:
    output = session.output

    def show() -> None:
        names = "key", "cache", "kind", "state", "token", "owner"
        shown: list[tuple[str, object]] = [(name, data[name]) for name in names]
        shown += [("age", duration(data["age"])), ("expires in", duration(data["expires_in"]))]
        shown += [("size", size(data["size"])), ("epoch", data["epoch"])]
        content = data["content"]
        output.pairs(shown if isinstance(content, dict) else [*shown, ("content", content)])
        if isinstance(content, dict):
            output.line()
            output.pairs(cast("dict[str, Any]", content).items())
        if data["intents"]:
            output.line()
            rows = [
                [
                    each["token"],
                    each["owner"] or "unknown",
                    duration(each["age"]),
                    duration(each["expires_in"]) if each["live"] else "expired",
                ]
                for each in data["intents"]
            ]
            output.table(("intent", "process", "age", "expires in"), rows)
        if data["dependencies"]:
            output.line()
            rows = [[each["state"], each["cache"], each["key"]] for each in data["dependencies"]]
            output.table(("dependency", "cache", "key"), rows)

    output.emit(data, show)
