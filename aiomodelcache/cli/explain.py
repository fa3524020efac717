"""``aiomodelcache explain``: where a lookup would be answered from, and why."""

from collections.abc import Sequence
from typing import Any

import click

from aiomodelcache.cli.output import duration
from aiomodelcache.cli.session import CommandSession, command, opened
from aiomodelcache.inspection.arguments import parse_arguments
from aiomodelcache.inspection.explained import explained_query
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.targets import find_target, query_of

TARGET = click.argument("target")
ARGUMENTS = click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
AS_LIST = click.option("--list", "as_list", is_flag=True, help="Of a model: the list with these values, not the row.")
VALUES = click.option("--values", is_flag=True, help="Show values of columns and arguments.")


@command("explain", short_help="Say where a lookup would be answered from, and why.")
@TARGET
@ARGUMENTS
@AS_LIST
@VALUES
async def explain_command(
    session: CommandSession, target: str, arguments: Sequence[str], as_list: bool, values: bool
) -> None:
    """Says where a lookup would be answered from, and why.

    TARGET is a model, a relation (Event.tags), a cache class, a class of values, or a cached function. NAME=VALUE is
    converted by the model's field or the function's annotation; NAME:=JSON is taken as it is, like venue:=null. Sends
    no SQL, and changes nothing.
    """
    async with session.cache() as cache:
        view = opened(cache)
        query = query_of(view, find_target(view, target), parse_arguments(arguments), as_list=as_list)
        data = await explained_query(view, query, KeyMap(view), values=values)
    _show(session, data)


def _show(session: CommandSession, data: dict[str, Any]) -> None:
    output = session.output

    def show() -> None:
        output.pairs((name, data[name]) for name in ("query", "source", "reason", "key"))
        if data["entries"]:
            output.line()
            rows = [
                [each["state"], each["cache"], duration(each["age"]), duration(each["expires_in"]), each["key"]]
                for each in data["entries"]
            ]
            output.table(("state", "cache", "age", "expires in", "key"), rows)
        if data["dependencies"]:
            output.line()
            rows = [[each["state"], each["cache"], each["key"]] for each in data["dependencies"]]
            output.table(("dependency", "cache", "key"), rows)

    output.emit(data, show)
