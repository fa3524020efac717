"""``Alarms``: judges the entries that ``ModelCache(verify=...)`` calls stale, by a lookup that the checker judges.

An alarm is followed by two reads of the same key: one from the database, and one from the cache. Both are logged as any
read is. If the entry is really stale, the second one is a violation, so the checker finds it. An alarm whose lookup the
history allows is a false one.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from aiomodelcache import ModelCache
from aiomodelcache.query.verification import is_still_answered
from soak.log import Kind, Log
from soak.model import Item
from soak.subjects import Library, Seen, Subject, seen
from soak.workload import words_of

KINDS = {"id": Kind.BY_PK, "slug": Kind.BY_SLUG, "team": Kind.BY_TEAM}
"""The kinds of reads, by the column of the entries that answer them."""


class Alarms:
    """The alarms of one process."""

    def __init__(self, subject: Subject, log: Log) -> None:
        self._subject = subject
        self._log = log

    def watch(self, cache: ModelCache) -> None:
        """Judges each alarm of a cache before the cache invalidates the entry."""
        views: Any = cache._views
        verifier = views._verifier
        if verifier is not None:
            verifier._report = partial(self._judge, verifier._report)

    async def _judge(self, report: Callable[..., Awaitable[None]], view: Any, read: Any, differs: list[str]) -> None:
        start, kind, key = time.monotonic_ns(), 0, 0
        if read.entry_set.schema.model is Item:
            name, value = read.entry_set.attributes[0], read.values[0]
            kind, key = KINDS[name], int(str(value).removeprefix("s"))
            rows = [seen(item) for item in await Item.filter(**{name: value}).order_by("id")]
            self._add(kind, start, key, rows)
            start = time.monotonic_ns()
            self._add(kind, start, key, await self._looked_up(kind, key))
        unchanged = kind and await is_still_answered(view, read, time.monotonic())
        self._log.add(Kind.ALARM, start, key, [kind, int(bool(unchanged))])
        await report(view, read, differs)

    async def _looked_up(self, kind: Kind, key: int) -> list[Seen]:
        """Makes a plain lookup, which the entry itself answers. Those of the subject may be of derived entries."""
        subject = cast("Library", self._subject)
        if kind is Kind.BY_TEAM:
            return (await Library.by_team(subject, [key]))[0]
        return await (Library.by_pk if kind is Kind.BY_PK else Library.by_slug)(subject, [key])

    def _add(self, kind: Kind, start: int, key: int, rows: list[Seen]) -> None:
        if kind is Kind.BY_TEAM:
            self._log.add(kind, start, key, [word for row in rows for word in row])
        else:
            self._log.add(kind, start, 0, words_of([key], rows or [(0, 0)]))
