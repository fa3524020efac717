"""The faults that a server's INFO, its keys and the way to it show. Pure: no I/O."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

MIN_REDIS_VERSION: Final = 5
"""The oldest major version of Redis that the library works with."""
NEAR_VERSION: Final = 6
"""The oldest major version of Redis that tells its clients of changes."""
MAX_DRIFT: Final = 5.0
"""Seconds by which this machine's clock may differ from the server's. Beyond it, ages and lifetimes mislead."""

MAX_FULL: Final = 0.9
"""Fraction of ``maxmemory`` that may be used. Beyond it, the server evicts soon or does already."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One item that was examined. ``remedy`` is empty if nothing is wrong."""

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str
    remedy: str = ""
    paste: tuple[str, ...] = ()
    """Lines that are the remedy, or a part of it, to paste."""


def of_server(info: Mapping[str, str], save: str | None, *, near: bool) -> list[Finding]:
    """Returns what INFO shows. ``save``: the setting of that name, if known. ``near``: entries are kept near."""
    found = [_version(info.get("redis_version", ""), near=near), _role(info), _policy(info)]
    found += [*_memory(info), _persistence(info, save)]
    evicted = int(info.get("evicted_keys", "0"))
    if evicted:
        text = f"the server has evicted {evicted} keys since it started"
        remedy = "Give Redis more memory: it may evict marks of writers, too."
        found.append(Finding("warning", "evictions", text, remedy, _more_memory(info)))
    return found


def _settings(*lines: str) -> tuple[str, ...]:
    """Returns the commands that change settings of a running server. The same settings belong into redis.conf."""
    return tuple([f"redis-cli CONFIG SET {line}" for line in lines])


def _version(version: str, *, near: bool) -> Finding:
    major = int(version.partition(".")[0]) if version[:1].isdigit() else 0
    if major and major < MIN_REDIS_VERSION:
        return Finding("error", "version", f"Redis {version} is too old", f"Use Redis {MIN_REDIS_VERSION} or newer.")
    if major and near and major < NEAR_VERSION:
        remedy = f"Use Redis {NEAR_VERSION} or newer, or remove near."
        return Finding("warning", "version", f"Redis {version} cannot report changes, which near needs", remedy)
    return Finding("ok", "version", f"Redis {version or 'of an unknown version'}")


def _role(info: Mapping[str, str]) -> Finding:
    if info.get("role") == "slave":
        where = f"{info.get('master_host')}:{info.get('master_port')}"
        return Finding("error", "role", "the URL leads to a replica", f"Use the URL of the primary, {where}.")
    return Finding("ok", "role", "a primary")


_EVICTING_MARKS: Final = {
    "lfu": "evicts keys that were read seldom first, as are the marks of writers on rows that are not cached",
    "random": "evicts any key, the marks of writers among them, even if old entries could be evicted",
}
"""Why a policy of eviction may take marks of writers, by the end of its name."""


def _policy(info: Mapping[str, str]) -> Finding:
    limit, policy = int(info.get("maxmemory", "0")), info.get("maxmemory_policy", "noeviction")
    remedy, paste = "Evict what was not used for longest:", _settings("maxmemory-policy allkeys-lru")
    if policy == "volatile-ttl":
        return Finding("error", "eviction", "volatile-ttl evicts the marks of writers first", remedy, paste)
    if not limit:
        text = "the memory has no limit, so it can take all of the machine's"
        remedy = "Set a limit, and evict what was not used for longest:"
        return Finding("warning", "eviction", text, remedy, _settings("maxmemory 256mb") + paste)
    if policy == "noeviction":
        text = "noeviction refuses marks and entries once the memory is full"
        return Finding("warning", "eviction", text, remedy, paste)
    fault = _EVICTING_MARKS.get(policy.rpartition("-")[2])
    if fault is not None:
        return Finding("warning", "eviction", f"{policy} {fault}", remedy, paste)
    return Finding("ok", "eviction", f"{policy} within {limit} bytes")


def _memory(info: Mapping[str, str]) -> list[Finding]:
    """Returns how near the memory is to its limit. Nothing if there is no limit."""
    limit, used = int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if not limit:
        return []
    text = f"{used / limit:.0%} of maxmemory is used"
    if used < limit * MAX_FULL:
        return [Finding("ok", "memory", text)]
    remedy = "Give Redis more memory, or shorten timeout: a mark of a writer that is evicted protects no reader."
    return [Finding("warning", "memory", text, remedy, _more_memory(info))]


def _more_memory(info: Mapping[str, str]) -> tuple[str, ...]:
    megabytes = int(info.get("maxmemory", "0")) // 2**20
    return _settings(f"maxmemory {max(256, 2 * megabytes)}mb")


def _persistence(info: Mapping[str, str], save: str | None) -> Finding:
    aof = info.get("aof_enabled") == "1"
    if aof or save:
        name = "appendonly" if aof else "save"
        text = f"{name} stores entries on disk, which are not used after a restart"
        remedy = "Store nothing, so that no old entry can come back:"
        return Finding("warning", "persistence", text, remedy, _settings('save ""', "appendonly no"))
    if save is None:
        return Finding("ok", "persistence", "of snapshots is not known, because CONFIG does not tell")
    return Finding("ok", "persistence", "off")


@dataclass(frozen=True, slots=True)
class Route:
    """The way to the server, as seen from its two ends."""

    own_address: str
    """The address of this end of a connection, or empty if it is not of TCP."""
    seen_address: str | None
    """The address from which the server sees that connection; None if it does not tell."""
    ids: tuple[object, object]
    """The server's identifiers of two connections. A server of Redis 5 or newer gives each its own."""
    later_ids: tuple[object, object]
    """The same, asked again."""


def of_route(route: Route) -> Finding:
    """Returns whether anything between this machine and the server passes on, shares or repeats requests."""
    remedy = (
        "Use the URL of the server itself. A proxy that repeats a request lets old rows in: a lease that arrives twice "
        "may be granted twice."
    )
    refused = next((each for each in route.ids if not isinstance(each, int)), None)
    if refused is not None:
        if "NOPERM" in str(refused) or "permission" in str(refused):
            return Finding("ok", "proxy", "not known, because CLIENT ID is not permitted")
        text = f"CLIENT ID is refused ({refused}), as a proxy does"
        return Finding("warning", "proxy", text, remedy)
    if route.ids != route.later_ids:
        return Finding("error", "proxy", "requests of one connection arrive on several: a proxy has a pool", remedy)
    if route.ids[0] == route.ids[1]:
        return Finding("error", "proxy", "two connections arrive as one: a proxy shares it", remedy)
    if route.own_address and route.seen_address is not None and route.own_address != route.seen_address:
        text = f"the server sees {route.seen_address} where this machine has {route.own_address}"
        other = "Translation of addresses, as by Docker, is harmless. If it is a proxy, it must not repeat requests."
        return Finding("warning", "proxy", text, f"{other} {remedy}")
    return Finding("ok", "proxy", "none in between")


def of_clocks(own: float, server: float) -> Finding:
    """Returns whether this machine's clock agrees with the server's. Both are seconds since the Unix epoch."""
    drift = own - server
    if abs(drift) > MAX_DRIFT:
        text = f"this machine's clock and the server's differ by {abs(drift):.0f} s"
        remedy = "Let both follow NTP: entries seem younger or older than they are."
        return Finding("warning", "clocks", text, remedy, ("sudo timedatectl set-ntp true",))
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
                        (f'ModelCache(url, namespace="{own}")',),
                    )
                )
        return found or [Finding("ok", "namespaces", f"no table has entries outside of namespace {own!r}")]
