"""A process that forks while it has a cache open, and reports what both processes saw: ``fork``.

The test's own process must not fork: it has threads, and event loops of pytest.
"""

import asyncio
import gc
import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from aiomodelcache import CacheNotOpen, ModelCache, RedisBackend
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.models import User
from tests.support.warm import ROOT, run

MODULE = "tests.support.models.models"
CHILDREN = ("os.fork", "os.fork in a thread", "multiprocessing")


def fork(database: DatabaseUrl, store: str, child: str, **settings: Any) -> dict[str, Any]:
    """Runs this module as a process, and returns its report."""
    given = json.dumps([str(database), database.dialect, store, child, settings])
    status, out, err = run("tests.support.forking", [given], ROOT, os.environ)
    assert status == 0, err
    assert "Traceback" not in err, err
    report: dict[str, Any] = json.loads(out)
    return report


async def _refusal(lookup: Any) -> str:
    try:
        await lookup
    except CacheNotOpen as error:
        return str(error)
    return "none"


class Parent:
    """The process that forks."""

    def __init__(self, database: DatabaseUrl, store: str, child: str, settings: dict[str, Any]) -> None:
        self.database = database
        self.child = child
        backend = settings.pop("backend", False)
        self.cache = ModelCache(RedisBackend(store) if backend else store, **settings)
        self.store = store

    async def run(self) -> dict[str, Any]:
        async with tortoise_on(self.database, MODULE, create=False):
            await User.create(id=1, username="ada")
            async with self.cache:
                seen = [(await User.cache.get(id=1)).username for _ in range(2)]
                from_child = await asyncio.to_thread(self._report_of_child) if self.child == CHILDREN[1] else None
                from_child = from_child or self._report_of_child()
                asked, statements = User.cache.get(id=1), self.cache.stats.statements
                seen += [(await asked).username, (await asked).username]
                await User.filter(id=1).update(username="parent")
                seen.append((await asked).username)
                stats = self.cache.stats
                return {
                    "parent": seen,
                    "statements": stats.statements - statements,
                    "errors": stats.backend_errors + stats.undelivered,
                    "child": from_child,
                }

    def _report_of_child(self) -> dict[str, Any]:
        reading, writing = os.pipe()

        def work() -> None:
            with os.fdopen(writing, "w") as pipe:
                json.dump(asyncio.run(self._in_child()), pipe)

        if self.child == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=work)
            process.start()
            end: Callable[[], object] = process.join
        else:
            pid = os.fork()
            if not pid:
                _exit_after(work)
            end = lambda: os.waitpid(pid, 0)  # noqa: E731
        os.close(writing)
        with os.fdopen(reading) as pipe:
            report: dict[str, Any] = json.loads(pipe.read() or "null")
        end()
        return report

    async def _in_child(self) -> dict[str, Any]:
        report: dict[str, Any] = {}
        async with tortoise_on(self.database, MODULE, create=False):
            report["inherited"] = await _refusal(User.cache.get(id=1))
            report["by its manager"] = await _refusal(self.cache.manager(User).get(id=1))
            report["clear"] = await _refusal(self.cache.clear_all())
            await User.filter(id=1).update(team=0)  # no cache that could fail
            for cache in (self.cache, ModelCache(self.store)):
                async with cache:
                    names = [(await User.cache.get(id=1)).username for _ in range(2)]
                    user = await User.get(id=1)
                    user.username += "+"
                    await user.save()
                    names.append((await User.cache.get(id=1)).username)
                    report.setdefault("names", []).append(names)
                    report["hits"] = cache.stats.by_cache["User"].hits
                gc.collect()  # of connections, too, which the parent's event loop must not notice
                await asyncio.sleep(0)
            report["closed"] = await _refusal(User.cache.get(id=1))
        return report


def _exit_after(work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


class Closing(Parent):
    """A parent whose child only leaves the block in which the parent opened the cache."""

    async def _in_child(self) -> dict[str, Any]:
        await self.cache.close()
        await self.cache.close()
        gc.collect()
        return {"threads": threading.active_count()}


if __name__ == "__main__":
    database, dialect, store, child, settings = json.loads(sys.argv[1])
    made = Closing if settings.pop("closing", False) else Parent
    print(json.dumps(asyncio.run(made(DatabaseUrl(database, dialect), store, child, settings).run())))
