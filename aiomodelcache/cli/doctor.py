"""``aiomodelcache doctor``: examines the server, the store's keys and the databases for what harms a cache."""

from dataclasses import asdict

from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.cli.session import FOUND, Session, command
from aiomodelcache.exceptions import BackendError, CacheConfigurationError
from aiomodelcache.inspection.diagnosis import Finding, Namespaces
from aiomodelcache.inspection.health import database_findings, server_findings
from aiomodelcache.inspection.store import connected


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
            findings += await database_findings(view)
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
        findings = [Finding("ok", "store", f"Redis at {store.where} answers"), *await server_findings(store, near=near)]
        namespaces = Namespaces()
        try:
            async for chunk in store.scan(b""):
                namespaces.add(chunk)
        except BackendError as error:
            remedy = "Permit SCAN to this user, or run doctor as another one."
            return [*findings, Finding("warning", "namespaces", f"the keys cannot be listed: {error}", remedy)]
        return findings + namespaces.findings(session.settings.namespace, tables)
