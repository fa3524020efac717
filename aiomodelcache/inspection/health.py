"""The health of the store and the databases: asks them, and has ``diagnosis`` judge the answers."""

import time
from typing import Any

from redis.exceptions import RedisError

from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.diagnosis import Finding, of_clocks, of_route, of_server
from aiomodelcache.inspection.store import Store
from aiomodelcache.open_cache import OpenCache


async def database_findings(cache: OpenCache) -> list[Finding]:
    """Returns whether each database answers, and each table of a cached model. Sends a statement for each."""
    findings: list[Finding] = []
    broken: set[str] = set()
    for schema in cache.connections:
        try:
            client: Any = schema.client
            await client.execute_query("SELECT 1")
        except Exception as error:  # of any driver
            broken.add(schema.connection)
            text = f"{schema.connection} does not answer ({type(error).__name__})"
            findings.append(Finding("error", "database", text, "Correct Tortoise's configuration, or start it."))
        else:
            findings.append(Finding("ok", "database", f"{schema.connection} answers"))
    for entries in cache.models.values():
        if entries.schema.connection in broken:
            continue
        try:
            await entries.schema.queryset(entries.schema.client).limit(1)
        except Exception as error:
            text = f"{entries.schema.table} of {entries.schema.name} cannot be read ({type(error).__name__})"
            findings.append(Finding("error", "table", text, "Run the migrations:", ("aerich upgrade",)))
    return findings


async def server_findings(store: Store, *, near: bool) -> list[Finding]:
    """Returns what the clock, the connections, INFO and CONFIG of the server show. ``near``: entries are kept near.

    Raises ``BackendError`` if it does not answer.
    """
    findings = [of_clocks(time.time(), await store.clock())]
    route = await store.route()
    if route is not None:
        findings.append(of_route(route))
    try:
        info = await store.info()
    except (BackendError, RedisError):
        text = "the server does not permit INFO to this user, so entries from before a restart would be used"
        return [*findings, Finding("error", "INFO", text, "Permit it:", ("ACL SETUSER <name> +info",))]
    return findings + of_server(info, await store.config("save"), near=near)


def relay_findings(cache: OpenCache) -> list[Finding]:
    """Returns whether a relay lives for each connection with relayed models, as the cache knows. No I/O."""
    relayed = cache.reader.relayed
    if relayed is None:
        return []
    lost = sorted(relayed.lost_connections())
    if not lost:
        return [Finding("ok", "relay", f"one lives for {', '.join(sorted(relayed.claims.by_connection))}")]
    effect = "answered by entries of any age" if relayed.serves else "read from the database"
    text = f"none lives for {', '.join(lost)}, so that models with relay = True are {effect}"
    remedy = "Install what captures the writes of these declarations, and run a relay with them:"
    what = "publication" if cache.config.relay_source == "pgoutput" else "triggers"
    return [Finding("error", "relay", text, remedy, (f"aiomodelcache {what} install", "aiomodelcache relay"))]
