"""The faults that a server's INFO and its keys show. Pure: no I/O."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

MIN_VERSION: Final = 5
"""The oldest major version of Redis that the library works with."""
NEAR_VERSION: Final = 6
"""The oldest major version of Redis that tells its clients of changes."""
MAX_DRIFT: Final = 5.0
"""Seconds by which this machine's clock may differ from the server's. Beyond it, ages and lifetimes mislead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined. ``remedy`` is empty if nothing is wrong."""

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str
    remedy: str = ""


def of_server(info: Mapping[str, str], save: str | None, *, near: bool) -> list[Finding]:
    """Returns what INFO shows. ``save``: the setting of that name, if known. ``near``: entries are kept near."""
    found = [_version(info.get("redis_version", ""), near=near), _role(info), _memory(info), _persistence(info, save)]
    evicted = int(info.get("evicted_keys", "0"))
    if evicted:
        text = f"the server has evicted {evicted} keys since it started"
        found.append(
            Finding("warning", "evictions", text, "Give Redis more memory: it may evict marks of writers, too.")
        )
    return found


def _version(version: str, *, near: bool) -> Finding:
    major = int(version.partition(".")[0]) if version[:1].isdigit() else 0
    if major and major < MIN_VERSION:
        return Finding("error", "version", f"Redis {version} is too old", f"Use Redis {MIN_VERSION} or newer.")
    if major and near and major < NEAR_VERSION:
        remedy = f"Use Redis {NEAR_VERSION} or newer, or remove near."
        return Finding("warning", "version", f"Redis {version} cannot report changes, which near needs", remedy)
    return Finding("ok", "version", f"Redis {version or 'of an unknown version'}")


def _role(info: Mapping[str, str]) -> Finding:
    if info.get("role") == "slave":
        where = f"{info.get('master_host')}:{info.get('master_port')}"
        return Finding("error", "role", "the URL leads to a replica", f"Use the URL of the primary, {where}.")
    return Finding("ok", "role", "a primary")


def _memory(info: Mapping[str, str]) -> Finding:
    limit, policy = int(info.get("maxmemory", "0")), info.get("maxmemory_policy", "noeviction")
    if policy == "volatile-ttl":
        remedy = "Set maxmemory-policy to allkeys-lru."
        return Finding("error", "eviction", "volatile-ttl evicts the marks of writers first", remedy)
    if not limit:
        remedy = "Set maxmemory, and maxmemory-policy to allkeys-lru."
        return Finding("warning", "eviction", "the memory has no limit, so it can take all of the machine's", remedy)
    if policy == "noeviction":
        remedy = "Set maxmemory-policy to allkeys-lru."
        text = "noeviction refuses marks and entries once the memory is full"
        return Finding("warning", "eviction", text, remedy)
    return Finding("ok", "eviction", f"{policy} within {limit} bytes")


def _persistence(info: Mapping[str, str], save: str | None) -> Finding:
    aof = info.get("aof_enabled") == "1"
    if aof or save:
        name = "appendonly" if aof else "save"
        remedy = 'Set save "" and appendonly no.'
        text = f"{name} stores entries on disk, which are not used after a restart"
        return Finding("warning", "persistence", text, remedy)
    if save is None:
        return Finding("ok", "persistence", "of snapshots is not known, because CONFIG does not tell")
    return Finding("ok", "persistence", "off")


def of_clocks(own: float, server: float) -> Finding:
    """Returns whether this machine's clock agrees with the server's. Both are seconds since the Unix epoch."""
    drift = own - server
    if abs(drift) > MAX_DRIFT:
        text = f"this machine's clock and the server's differ by {abs(drift):.0f} s"
        return Finding("warning", "clocks", text, "Let both follow NTP: entries seem younger or older than they are.")
    return Finding("ok", "clocks", "this machine's agrees with the server's")


_ENTRY: Final = re.compile(rb"(?:(.*):)?amc:[rim]:([^:]*):([^:]*):")


class Namespaces:
    """The namespaces and connections under which each table has entries in the store."""

    def __init__(self) -> None:
        self._found: dict[str, set[tuple[str, str]]] = {}

    def add(self, keys: Iterable[bytes]) -> None:
        """Looks at keys of any namespace."""
        for key in keys:
            match = _ENTRY.match(key)
            if match is not None:
                namespace, connection, table = [(part or b"").decode("utf-8", "replace") for part in match.groups()]
                self._found.setdefault(table, set()).add((namespace, connection))

    def findings(self, own: str, tables: Mapping[str, str]) -> list[Finding]:
        """Returns tables that have entries elsewhere. ``own``: the namespace; ``tables``: table -> connection."""
        found: list[Finding] = []
        for table, connection in sorted(tables.items()):
            others = sorted(self._found.get(table, set()) - {(own, connection)})
            for namespace, other in others:
                where = f"namespace {namespace!r}" if namespace != own else f"the connection {other!r}"
                found.append(
                    Finding(
                        "warning",
                        "namespaces",
                        f"rows of {table} are also cached under {where}",
                        "If that is the same database, use one namespace and one name of the connection everywhere: "
                        "writes of one are not noticed by the other.",
                    )
                )
        return found or [Finding("ok", "namespaces", f"no table has entries outside of namespace {own!r}")]
