"""``aiomodelcache check``: resolves all declarations, as opening the cache does, without a server."""

from typing import Any

from aiomodelcache.cli.output import counted
from aiomodelcache.cli.session import FOUND, CommandSession, command
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.inspection.declarations import values_derived_from
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.connections import bound_models
from aiomodelcache.plans.paths import RelationPath


@command("check", short_help="Check the declarations, without a server.")
async def check_command(session: CommandSession) -> int:
    """Checks all declarations of caches, as opening the cache does, and lists them. Connects to no server.

    Ends with status 1 and names the class, the attribute and the remedy if a declaration is wrong.
    """
    output = session.output
    try:
        async with session.declarations() as cache:
            rows = _declared(cache.open_cache)
    except CacheConfigurationError as error:
        message = str(error)
        output.emit({"ok": False, "error": message, "caches": []}, lambda: output.line("error", message))
        return FOUND

    def show() -> None:
        names = ("name", "kind", "keys", "timeout", "invalidation")
        output.table(names, [[row[name] for name in names] for row in rows])
        output.line("ok", f"{counted(len(rows), 'declaration')}, no fault found")

    output.emit({"ok": True, "error": None, "caches": rows}, show)
    return 0


def _declared(cache: OpenCache) -> list[dict[str, Any]]:
    """Returns the declarations of a cache. Raises ``CacheConfigurationError`` for a wrong cached function."""
    rows = [_row(entries.schema.name, "model", entries.describe(), entries.rows) for entries in cache.models.values()]
    rows += [
        _row(f"{through.owner.name}.{through.relation.name}", "many-to-many", "list by (pk)", through)
        for through in cache.many_to_many
    ]
    for cls, bound in cache.classes.items():
        entry_set = bound.base if isinstance(bound, RelationPath) else bound
        kind = cls.__mro__[1].__name__
        rows.append(_row(cls.__name__, kind, f"({', '.join(getattr(cls, 'key_fields', ()))})", entry_set))
    for value in values_derived_from(bound_models()):
        arguments = ", ".join(name for name in value.declaration.signature.parameters if name != "self")
        kind = "ValueCache" if isinstance(value.source, type) else "@cached"
        row = _row(value.short, kind, f"({arguments})", value.declaration.result(cache))
        rows.append(row | {"invalidation": "tracked" if value.declaration.tracked else "off"})
    return rows


def _row(name: str, kind: str, keys: str, entry_set: EntrySet | ResultEntries) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "keys": keys,
        "timeout": entry_set.lifetimes.seconds(b"V"),
        "invalidation": entry_set.policy.invalidation.value,
    }
