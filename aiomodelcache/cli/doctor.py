"""``aiomodelcache doctor``: examines the server, the store's keys and the databases for what harms a cache."""

import time
from dataclasses import asdict
from typing import Any

from redis.exceptions import RedisError

from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.cli.diagnosis import Finding, Namespaces, of_clocks, of_server
from aiomodelcache.cli.session import FOUND, Session, command
from aiomodelcache.cli.store import Store, connected
from aiomodelcache.exceptions import BackendError, CacheConfigurationError
from aiomodelcache.open_cache import OpenCache


@command("doctor", short_help="Examine the server, the keys and the databases for faults.")
async def doctor_command(session: Session) -> int:
    """Examines Redis, its keys and the databases, and names a remedy for each fault. Changes nothing.

    Ends with status 1 if there is an error. Warnings are for you to judge.
    """
    findings: list[Finding] = []
    try:
        async with session.declarations() as cache:
            view = cache.open_cache
            findings.append(Finding("ok", "declarations", f"{len(view.models)} cached models"))
            findings += await _databases(view)
            tables = {entries.schema.table: entries.schema.connection for entries in view.models.values()}
            near = any(entries.rows.near for entries in view.models.values())
    except CacheConfigurationError as error:
        findings.append(Finding("error", "declarations", str(error), "Correct the declaration."))
        tables, near = {}, False
    findings += await _store(session, tables, near=near)

    def show() -> None:
        for finding in findings:
            session.output.line(finding.level, f"{finding.subject}: {finding.text}")
            if finding.remedy:
                session.output.line("   ", finding.remedy)

    has_error = any(finding.level == "error" for finding in findings)
    session.output.emit({"ok": not has_error, "findings": [asdict(finding) for finding in findings]}, show)
    return FOUND if has_error else 0


async def _databases(cache: OpenCache) -> list[Finding]:
    """Asks each database, and each table of a cached model."""
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
            findings.append(Finding("error", "table", text, "Run the migrations."))
    return findings


async def _store(session: Session, tables: dict[str, str], *, near: bool) -> list[Finding]:
    url = session.settings.store_url()
    backend = RedisBackend(url)
    try:
        await backend.open()
    except BackendError as error:
        return [Finding("error", "store", str(error), "Correct the URL, or the permissions of its user.")]
    finally:
        await backend.close()
    async with connected(url) as store:
        findings = [Finding("ok", "store", f"Redis at {store.where} answers"), *await _server(store, near=near)]
        namespaces = Namespaces()
        try:
            async for chunk in store.scan(b""):
                namespaces.add(chunk)
        except BackendError as error:
            remedy = "Permit SCAN to this user, or run doctor as another one."
            return [*findings, Finding("warning", "namespaces", f"the keys cannot be listed: {error}", remedy)]
        return findings + namespaces.findings(session.settings.namespace, tables)


async def _server(store: Store, *, near: bool) -> list[Finding]:
    findings = [of_clocks(time.time(), await store.clock())]
    try:
        info = await store.info()
    except (BackendError, RedisError):
        text = "the server does not permit INFO to this user, so entries from before a restart would be used"
        return [*findings, Finding("error", "INFO", text, "Permit it: ACL SETUSER <name> +info.")]
    return findings + of_server(info, await store.config("save"), near=near)
