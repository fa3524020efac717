"""The configured cache, opened for one command, and the frame that all commands share."""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Final, cast

import click
from tortoise.context import TortoiseContext
from tortoise.exceptions import BaseORMException, DBConnectionError, OperationalError

from aiomodelcache.cli.output import Output
from aiomodelcache.cli.settings import CommandSettings, read_settings
from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.exceptions import BackendError, CacheConfigurationError, CacheError
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.relay.triggers.definitions import driver_error, is_denied

FOUND: Final = 1
"""Exit status of a command that found faults, such as wrong declarations or stale entries."""
USAGE: Final = 2
"""Exit status if the command, its target or its configuration is wrong, or a user of the database lacks a right."""
UNREACHABLE: Final = 3
"""Exit status if the store or the database does not answer."""

Body = Callable[..., Coroutine[Any, Any, int | None]]
"""The coroutine function of a command. Takes a ``CommandSession`` and its own parameters, returns the status."""

_OPTIONS: Final = (
    click.option("--tortoise", metavar="PATH", help="Tortoise's configuration, like app.settings.TORTOISE_ORM."),
    click.option("--url", metavar="URL", help="The store, like redis://localhost:6379/0."),
    click.option("--namespace", metavar="NAME", help="The namespace of the application's keys."),
    click.option("--import", "imports", metavar="MODULE", multiple=True, help="A module with cached functions."),
    click.option("--config", metavar="PATH", help="The application's CacheConfig, like app.settings.CACHE."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
)


@dataclass(frozen=True, slots=True)
class CommandSession:
    """The settings and the output of one run of a command."""

    settings: CommandSettings
    output: Output

    @asynccontextmanager
    async def tortoise(self) -> AsyncGenerator[None, None]:
        """Initialises Tortoise and imports the declarations. Connects to no database."""
        config = self.settings.tortoise_config()
        context: Any = TortoiseContext()
        async with context:
            await context.init(config=config)
            self.settings.import_modules()
            yield

    @asynccontextmanager
    async def declarations(self) -> AsyncGenerator[ModelCache, None]:
        """Opens the declared caches without any server. Raises ``CacheConfigurationError``."""
        config = replace(self.settings.cache_config(), inspect_columns=False, secret=None)
        async with self.tortoise(), ModelCache("memory://", config=config, namespace=self.settings.namespace) as cache:
            yield cache

    @asynccontextmanager
    async def cache(self, settings: Settings | None = None) -> AsyncGenerator[ModelCache, None]:
        """Opens the application's cache, with some settings of the command's own.

        Raises ``BackendError`` if the store does not answer.
        """
        own: dict[str, Any] = {"require_backend": True, "near": False, "publish_stats": False, "relay": False}
        own |= settings or {}
        config = replace(self.settings.cache_config(), **own)
        url = self.settings.store_url()
        async with self.tortoise(), ModelCache(url, config=config, namespace=self.settings.namespace) as cache:
            yield cache


def opened(cache: ModelCache) -> OpenCache:
    """Returns the part of a cache that lookups use. Raises ``TenantError`` if it has tenants."""
    return cache.open_cache.usable()


def command(name: str, **settings: Any) -> Callable[[Body], click.Command]:
    """Makes a command of a coroutine function, with the options that all commands share."""

    def decorate(body: Body) -> click.Command:
        @wraps(body)
        def run(*, as_json: bool, **parameters: Any) -> None:
            options = {key: parameters.pop(key) for key in ("tortoise", "url", "namespace", "imports", "config")}
            sys.exit(_run(body, options, parameters, as_json=as_json))

        function: Any = run
        for option in reversed(_OPTIONS):
            function = option(function)
        make: Any = click.command(name, **settings)
        return cast("click.Command", make(function))

    return decorate


def _run(body: Body, options: dict[str, Any], parameters: dict[str, Any], *, as_json: bool) -> int:
    """Runs the body. Returns its status, or prints the error that ended it and returns the error's."""
    logger = logging.getLogger("aiomodelcache")
    level = logger.level
    logger.setLevel(logging.ERROR)  # a command says itself what it finds
    try:
        session = CommandSession(read_settings(options), Output(as_json=as_json))
        return asyncio.run(_to_the_end(body(session, **parameters))) or 0
    except CacheConfigurationError as error:
        return _fail(str(error), FOUND)
    except BackendError as error:
        return _fail(f"{error} The URL of the store is set by url, AIOMODELCACHE_URL or --url.", UNREACHABLE)
    except (OperationalError, DBConnectionError) as error:
        if is_denied(error):
            refusal = driver_error(error)
            return _fail(
                f"The database refuses it to this user: {refusal}. Grant the right, or use another user.", USAGE
            )
        return _fail(f"The database does not answer as expected: {error}.", UNREACHABLE)
    except (FileNotFoundError, PermissionError) as error:
        return _fail(f"A file cannot be used: {error}.", USAGE)
    except OSError as error:
        return _fail(f"A server cannot be reached: {error}.", UNREACHABLE)
    except (CommandError, CacheError, BaseORMException) as error:
        return _fail(str(error), USAGE)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # Python's own status for it is that of faults found
        traceback.print_exc()
        return _fail(f"{type(error).__name__} was raised, mostly by the application's own code: see above.", USAGE)
    finally:
        logger.setLevel(level)


async def _to_the_end(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Awaits work, and then the threads of aiosqlite, for at most a second.

    The thread of a connection that could not be made reports its end to the event loop, although nothing awaits that.
    """
    before = set(threading.enumerate())
    try:
        return await work
    finally:
        for thread in set(threading.enumerate()) - before:
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join, 1.0)


def _fail(message: str, status: int) -> int:
    click.echo(f"{click.style('error:', fg='red')} {message}", err=True)
    return status
