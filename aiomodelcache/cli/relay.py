"""``aiomodelcache relay``: invalidates what other programs write, until it is told to end."""

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack, suppress
from typing import Final, Literal

import click

from aiomodelcache.cli.output import counted
from aiomodelcache.cli.session import CommandSession, command
from aiomodelcache.config import Settings
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.relay.health import health_server
from aiomodelcache.relay.relay import Relay

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@command("relay", short_help="Invalidate what other programs write.")
@click.option(
    "--source",
    type=click.Choice(["triggers", "pgoutput"]),
    help="What it reads on PostgreSQL: the lines of triggers, or the WAL. By default, relay_source of the config.",
)
@click.option("--once", is_flag=True, help="Drain all present lines, and end.")
@click.option("--health", metavar="[HOST:]PORT", help="Serve the health over HTTP, and metrics under /metrics.")
async def relay_command(
    session: CommandSession, source: Literal["triggers", "pgoutput"] | None, once: bool, health: str | None
) -> None:
    """Invalidates the rows of models with relay = True that other programs write, until SIGTERM or Ctrl-C.

    Install first what it reads (aiomodelcache triggers install, or aiomodelcache publication install). Any number of
    relays may run: one of them works, and another one takes over when it ends. If a server does not answer, the relay
    tries again.
    """
    own: Settings = {} if source is None else {"relay_source": source}
    async with session.cache(own) as cache, AsyncExitStack() as stack:
        relay = Relay(cache)
        if once:
            await relay.drain()
            _show(session, relay)
            return
        logging.getLogger("aiomodelcache").setLevel(logging.WARNING)  # outages
        if health is not None:
            host, port = _address(health)
            try:
                served = await stack.enter_async_context(health_server(relay, host, port))
            except OSError as error:
                raise CommandError(f"--health is {health}: this address cannot be used: {error}.") from error
            _show_line(session, f"health at http://{host}:{served}/")
        for status in relay.statuses:
            _show_line(session, f"{counted(status.tables, 'table')} of {status.connection}, until SIGTERM")
        for number in _SIGNALS:
            with suppress(NotImplementedError):  # on Windows
                asyncio.get_running_loop().add_signal_handler(number, relay.stop)
        await relay.run()

    _show(session, relay)


def _show_line(session: CommandSession, text: str) -> None:
    if not session.output.as_json:
        session.output.line("ok", text)
        sys.stdout.flush()


def _show(session: CommandSession, relay: Relay) -> None:
    def show() -> None:
        for status in relay.statuses:
            lines, tables = counted(status.lines, "line"), counted(status.tables, "table")
            session.output.line("ok", f"invalidated {lines} of {tables} of {status.connection}")

    session.output.emit({"connections": [dict(status.data()) for status in relay.statuses]}, show)


def _address(health: str) -> tuple[str, int]:
    """Returns the host and the port of ``--health``. Raises ``CommandError``."""
    host, _, port = health.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise CommandError(f"--health is {health}: it must be a port, like 8080, or a host and a port.")
    return host.strip("[]") or "127.0.0.1", int(port)
