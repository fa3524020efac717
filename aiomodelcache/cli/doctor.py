"""``aiomodelcache doctor``: examines an application, its servers and its counters for what harms a cache."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Final

import click

from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.cli.model_faults import of_collations, of_models
from aiomodelcache.cli.output import counted
from aiomodelcache.cli.raw_sql import MAX_FILES, Unnoticed, search
from aiomodelcache.cli.session import FOUND, CommandSession, command
from aiomodelcache.cli.usage import of_usage
from aiomodelcache.exceptions import BackendError, CacheConfigurationError
from aiomodelcache.inspection.diagnosis import Finding, Namespaces
from aiomodelcache.inspection.health import database_findings, relay_findings, server_findings
from aiomodelcache.inspection.replication import replication_findings
from aiomodelcache.inspection.store import connected
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.catalogue import inspect_columns

MAX_REPORTED_WRITES: Final = 50
"""Maximum number of writes in the source that are reported. Beyond it, they are only counted."""
MEASURED: Final = 15
"""Number of round trips of which the median is taken."""
_CODE: Final = click.Path(exists=True, path_type=Path)


@command("doctor", short_help="Examine the application, its servers and its counters for faults.")
@click.option("--code", multiple=True, type=_CODE, help="A folder of source, by default that of pyproject.toml.")
async def doctor_command(session: CommandSession, code: Sequence[Path]) -> int:
    """Examines Redis, its keys, the databases, the declarations, the source and the counters that processes publish.

    Names a remedy for each fault, with what to paste. Changes nothing. Ends with status 1 if there is an error.
    Warnings are for you to judge.
    """
    findings: list[Finding] = []
    tables: dict[str, str] = {}
    near = False
    try:
        async with session.declarations() as cache:
            view = cache.open_cache
            findings.append(Finding("ok", "declarations", counted(len(view.models), "cached model")))
            findings += of_models(view)
            findings += _source(view, code or [session.settings.folder])
            findings += await _databases(view)
            tables = {entries.schema.table: entries.schema.connection for entries in view.models.values()}
            near = any(entries.rows.near for entries in view.models.values())
    except CacheConfigurationError as error:
        findings.append(Finding("error", "declarations", str(error), "Correct the declaration."))
    findings += await _store(session, tables, near=near)
    if not any(each.level == "error" and each.subject in ("declarations", "database", "store") for each in findings):
        findings += await _usage(session)

    def show() -> None:
        for finding in findings:
            session.output.line(finding.level, f"{finding.subject}: {finding.text}")
            if finding.remedy:
                session.output.line("   ", finding.remedy)
            for line in finding.paste:
                session.output.line("       ", line)

    has_error = any(finding.level == "error" for finding in findings)
    session.output.emit({"ok": not has_error, "findings": [asdict(finding) for finding in findings]}, show)
    return FOUND if has_error else 0


def _source(cache: OpenCache, folders: Sequence[Path]) -> list[Finding]:
    """Searches the application's source for writes that the cache does not notice."""
    tables = {entries.schema.table: entries.schema.name for entries in cache.models.values()}
    tables |= {through.relation.table: through.owner.name for through in cache.many_to_many}
    source = search(folders, tables)
    found = [_unnoticed(each, tables, folders) for each in source.found[:MAX_REPORTED_WRITES]]
    more = len(source.found) - MAX_REPORTED_WRITES
    if more > 0:
        found.append(Finding("warning", "source", f"{more} more writes like these", "Begin with those above."))
    if not source.complete:
        text = f"only the first {MAX_FILES} files were read"
        found.append(Finding("warning", "source", text, "Name the folders of your code:", ("doctor --code src",)))
    return found or [
        Finding(
            "ok", "source", f"{counted(source.files, 'file has', 'files have')} no write that the cache does not notice"
        )
    ]


def _unnoticed(write: Unnoticed, tables: dict[str, str], folders: Sequence[Path]) -> Finding:
    shown = write.file
    for folder in folders:
        if write.file.is_relative_to(folder):
            shown = write.file.relative_to(folder)
    model = tables[write.table]
    if write.by == "SQL" or write.by.endswith("()"):
        text = f"{shown}:{write.line} writes {write.table} by {write.by}, which is not noticed"
        paste = (f"await {model}.cache.invalidate(...)  # or", f"await {model}.cache.clear()")
        return Finding("warning", "source", text, "Invalidate the rows right after it, in the same function:", paste)
    text = f"{shown}:{write.line} has {write.by}, whose writes are not noticed"
    return Finding("warning", "source", text, "Write by the model's own manager:", (f"{model}.all()",))


async def _databases(cache: OpenCache) -> list[Finding]:
    """Examines the databases, and the real types of their columns if all answer."""
    findings = await database_findings(cache)
    if any(each.subject == "database" and each.level == "error" for each in findings):
        return findings
    await inspect_columns([entries.schema for entries in cache.models.values()])
    return findings + of_collations(cache)


async def _store(session: CommandSession, tables: dict[str, str], *, near: bool) -> list[Finding]:
    url = session.settings.store_url()
    backend = RedisBackend(url)
    try:
        await backend.open()
    except BackendError as error:
        return [Finding("error", "store", str(error), "Correct the URL, or the permissions of its user.")]
    finally:
        await backend.close()
    async with connected(url) as store:
        findings = [Finding("ok", "store", f"Redis at {store.where} answers"), *await server_findings(store, near=near)]
        namespaces = Namespaces()
        try:
            async for chunk in store.scan(b""):
                namespaces.add(chunk)
        except BackendError as error:
            remedy = "Permit SCAN to this user, or run doctor as another one."
            text = f"the keys cannot be listed: {error}"
            return [*findings, Finding("warning", "namespaces", text, remedy, ("ACL SETUSER <name> +scan",))]
        return findings + namespaces.findings(session.settings.namespace, tables)


async def _usage(session: CommandSession) -> list[Finding]:
    """Judges the relays, and the counters of the processes by the time that a round trip takes."""
    async with session.cache() as cache, connected(session.settings.store_url()) as store:
        workers = (await cache.fleet()).others
        times: list[float] = []
        for _ in range(MEASURED):
            start = time.perf_counter()
            await store.clock()
            times.append(time.perf_counter() - start)
        relays = [*relay_findings(cache.open_cache), *await replication_findings(cache.open_cache)]
        return [*relays, *of_usage(cache.open_cache, workers, median(times))]
