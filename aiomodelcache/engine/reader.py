"""Drives plans: merges the requests of all that wait in one tick, and answers them.

All ``Read``s of a tick become one MGET, all ``Take``s one pipeline, all ``Load``s of one key one SQL statement, all
``Store``s one pipeline. A single look-up, a gather and a batch are the same code path. What a look-up means
is in ``plans``; here is only when things are sent, and what happens if that fails.
"""

import asyncio
import random
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.backends.breaker import Link
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.layout import LEASE, is_lease, new_token
from aiomodelcache.engine.batch_read import Found, Reads
from aiomodelcache.engine.batching import Collector, Turns
from aiomodelcache.engine.loader import ComputedValue, answers_many, load
from aiomodelcache.engine.tasks import Tasks
from aiomodelcache.entries.base import Nothing
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.exceptions import BackendError, CacheError, CacheNotOpen
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.requests import Attempt, Call, Load, Look, Plan, Read, Request, Spawn, Store, Take, Taken, Wait
from aiomodelcache.scopes.bypass import Disabled, Switch

T = TypeVar("T")
Done = Callable[[Any, BaseException | None], None]
"""Called once with a plan's result, or with what it raised."""


class NotCached(Exception):
    """The cache cannot answer, and asking the database was not allowed."""


def settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    """Gives whoever awaits a look-up what came of it."""
    if not future.done():  # its caller may have been cancelled
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class Looks:
    """Look-ups that are read together, and for each its taker: what ``settle`` is given with what came of it.

    One object for all of a tick, because each that waits is a burden to Python's garbage collector.
    """

    __slots__ = ("context", "looks", "only_cache", "settle", "takers")

    def __init__(
        self, context: Any, settle: Callable[[Any, Any, BaseException | None], None], *, only_cache: bool = False
    ) -> None:
        self.context = context
        self.settle = settle
        """Called for a taker once, or again when the cache closes; then it is to do nothing."""
        self.only_cache = only_cache
        self.looks: list[Look] = []
        self.takers: list[Any] = []


class Run:
    """A plan on its way."""

    __slots__ = ("background", "bypass", "done", "far", "only_cache", "plan")

    def __init__(
        self, plan: Plan[Any], done: Done, only_cache: bool = False, bypass: bool = False, background: bool = False
    ) -> None:
        self.plan = plan
        self.done = done
        self.only_cache = only_cache
        self.bypass = bypass
        """Whether it does without the store, as if that were not there."""
        self.far = False
        """Whether it has asked the database: then what is kept in this process may be older than the answer."""
        self.background = background
        """Whether nobody waits for it: without the store it has nothing to do."""


FEW: Final = 128
"""Look-ups that are answered all at once."""
SLICE: Final = 32
"""How many of more are, in one turn of the event loop."""
BACKGROUND_LIMIT: Final = 1_000
"""Plans that nobody waits for, at once; there are no more than so many, however much is stale."""
PAUSE: Final = 0.5
"""Seconds in which an entry is not tried again by this process if another one refreshes it, or if that failed."""
FIRST_PAUSE: Final = 0.00625
"""Seconds after which it is first looked, on average, whether another process has filled a key."""
OUTWAITED: Final = 10_000
"""Leases remembered because they were waited for in vain, at most."""
AGEING: Final = 1.0
"""Seconds after which it is found out anew which entries are near their end."""


class Reader:
    """Answers the look-ups of one open cache."""

    def __init__(
        self, link: Link, config: CacheConfig, tasks: Tasks, switch: Switch, lifetimes: Iterable[Lifetimes] = ()
    ) -> None:
        self._link = link
        self._near = link.near
        self._near.tick = self._age
        self._switch = switch
        self._config = config
        self._tasks = tasks
        self._running: set[Run] = set()
        self._reading: set[Looks] = set()
        self._awaited: Looks | None = None
        """Those that are awaited one by one, as long as more of them can join."""
        self._flights: dict[bytes, asyncio.Future[None] | None] = {}
        """Keys that this process is filling, with a future for those that look-ups wait for."""
        self._watched: dict[bytes, asyncio.Future[None]] = {}
        """Keys that other processes fill, for which look-ups of this one wait."""
        self._outwaited: dict[bytes, bytes] = {}
        """Such keys with the leases that were waited for in vain."""
        self._lifetimes = list(lifetimes)
        self._aged_at = 0.0
        self._in_background = 0
        self._tried: set[bytes] = set()
        """Entries that are being refreshed, or were tried to be, since ``_tried_since``: their keys and beginnings."""
        self._tried_since = 0.0
        self._reads = Reads(link, tasks, self._age)
        self._takes = Collector(self._take, tasks)
        self._loads = Collector(self._load, tasks)
        self._statements = Turns(self._load_source, tasks)
        self._calls = Collector(self._call, tasks)
        self._stores = Collector(self._store, tasks)
        self._waits = Collector(self._wait, tasks)
        tasks.failed = self.fail

    # Driving -------------------------------------------------------------------------------------

    def start(self, plan: Plan[Any], done: Done, *, only_cache: bool = False, bypass: bool = False) -> None:
        """Runs a plan together with all others of this tick; ``done`` is called at its end.

        ``only_cache``: without the database; ``bypass``: without the store.
        """
        run = Run(plan, done, only_cache, bypass)
        self._running.add(run)
        self._advance(run, None)

    def start_look(self, look: Look, context: Any, future: "asyncio.Future[Any]") -> None:
        """The same for a ``Look``, for whoever awaits ``future``."""
        awaited = self._awaited
        if awaited is None:
            awaited = Looks(context, settle)
        if (self._near.on or not self._link.sound) and self._need_not_ask(look, awaited, future):
            return
        awaited.looks.append(look)
        awaited.takers.append(future)
        if self._awaited is None:
            self._awaited = awaited
            self._queue(awaited)

    def start_looks(self, looks: Looks) -> None:
        """The same for several."""
        if self._near.on or not self._link.sound:
            both = list(zip(looks.looks, looks.takers, strict=True))
            left = [(look, taker) for look, taker in both if not self._need_not_ask(look, looks, taker)]
            looks.looks, looks.takers = [look for look, _ in left], [taker for _, taker in left]
        if looks.looks:
            self._queue(looks)

    def _queue(self, looks: Looks) -> None:
        self._reading.add(looks)
        self._reads.add(partial(self._ask, looks), partial(self._answer, looks))

    def _need_not_ask(self, look: Look, looks: Looks, taker: Any) -> bool:
        """Answers a look-up now, or starts its plan, if the store is not to be asked or this process keeps it all."""
        if not self._link.sound:
            self.start(look.begin(looks.context), partial(looks.settle, taker), only_cache=looks.only_cache)
            return True
        found = self._nearby(look, looks.context)
        if found is None:
            return False
        self._give(look, looks, taker, found)
        return True

    def near_answer(self, look: Look, context: Any) -> Any:
        """The result of a ``Look``, if what is kept in this process is all that it takes, or else a miss."""
        if not self._near.on or not self._link.sound:  # whether that can be used again, only a request finds out
            return Nothing.MISS
        keys: dict[bytes, None] = {}
        look.ask(context, keys)
        found = self._near.find(keys)
        result = Nothing.MISS if found is None else look.answer(context, found)
        if result is not Nothing.MISS:
            self._near.counters.hits += 1
        return result

    def _nearby(self, look: Look, context: Any) -> Found | None:
        """What is kept in this process of what a look-up asks for, if all of it is."""
        keys: dict[bytes, None] = {}
        look.ask(context, keys)
        found = self._near.find(keys) if self._near.on else None
        if found is not None:
            self._near.counters.hits += 1
        return found

    def _ask(self, looks: Looks, wanted: dict[bytes, None]) -> None:
        """Adds the keys that look-ups need; nobody can join them any more."""
        if looks is self._awaited:
            self._awaited = None
        context = looks.context
        for look in looks.looks:
            look.ask(context, wanted)

    def _answer(self, looks: Looks, found: Found) -> Iterator[None]:
        """Gives look-ups what was read, many of them in slices. Those that this does not answer go on as plans."""
        pause = SLICE if len(looks.looks) > FEW else len(looks.looks)
        for at, (look, taker) in enumerate(zip(looks.looks, looks.takers, strict=True)):
            if at % pause == 0:
                if at:
                    yield
                if looks not in self._reading:  # failed meanwhile
                    return
            self._give(look, looks, taker, found)
        self._reading.discard(looks)

    def _give(self, look: Look, looks: Looks, taker: Any, found: Found) -> None:
        try:
            result = look.answer(looks.context, found)
        except Exception as error:
            looks.settle(taker, None, error)
            return
        if result is not Nothing.MISS:
            looks.settle(taker, result, None)
            return
        plan = look.begin(looks.context)
        run = Run(plan, partial(looks.settle, taker), looks.only_cache)
        self._running.add(run)
        keys = cast("Read", plan.send(None)).keys
        if found.keys() >= set(keys):
            self._advance(run, [found[key] for key in keys])
        else:  # it guesses otherwise by now
            run.plan = look.begin(looks.context)
            self._advance(run, None)

    def start_background(self, plan: Plan[Any], counters: Counters, entry: bytes | None = None) -> None:
        """Runs a plan that nobody waits for. What it raises is counted and logged; without the cache it ends.

        Where it is to replace an ``entry``, it is not begun twice.
        """
        if entry is not None and not self._try(entry):
            plan.close()
        elif self._in_background >= BACKGROUND_LIMIT:
            counters.unrefreshed += 1
            plan.close()
        else:
            self._in_background += 1
            run = Run(plan, partial(self._end_background, counters), background=True)
            self._running.add(run)
            self._advance(run, None)

    def watch(self, lifetimes: Lifetimes) -> None:
        """Finds out from time to time which entries of a class are near their end."""
        self._lifetimes.append(lifetimes)
        lifetimes.age()

    @property
    def busy(self) -> bool:
        """Whether any look-up is on its way, those that nobody waits for included."""
        return bool(self._running or self._reading)

    def forget_attempts(self) -> None:
        """Lets keys be refreshed again that another process was about, or where it failed, just now."""
        self._tried.clear()

    def _try(self, entry: bytes) -> bool:
        now = time.monotonic()
        if now >= self._tried_since + PAUSE:
            self._tried, self._tried_since = set(), now
        if entry in self._tried:
            return False
        self._tried.add(entry)
        return True

    def _end_background(self, counters: Counters, result: Any, error: BaseException | None) -> None:
        self._in_background -= 1
        if error is not None and not isinstance(error, NotCached | CacheNotOpen):
            counters.unrefreshed += 1
            counters.complain("unrefreshed", "aiomodelcache: an entry could not be refreshed: %r", error)

    async def run_directly(self, plan: Plan[T], client: BaseDBAsyncClient) -> T:
        """Runs a plan on the database alone, in the caller's own transaction. Nothing is filled."""
        answer: Any = None
        try:
            while True:
                request = plan.send(answer)
                if isinstance(request, Load):
                    try:
                        answer = await self._select(request.source, request.wanted, client)
                    except Exception as error:
                        answer = _refusal(plan.throw(error))
                elif isinstance(request, Call):
                    try:
                        answer = ComputedValue(await request.compute(client))
                    except Exception as error:
                        answer = _refusal(plan.throw(error))
                else:
                    answer = _refusal(request)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _advance(self, run: Run, answer: Any) -> None:
        """Sends a plan its answer and queues what it asks for next."""
        try:
            request = run.plan.send(answer)
            while True:
                if type(request) is Read:
                    if not run.bypass and self._link.readable():
                        found = self._near.find(request.keys) if self._near.on and not run.far else None
                        if found is None:
                            keys = request.keys
                            self._reads.add(partial(_add, keys), partial(self._go_on, run, keys))
                            return
                        self._near.counters.hits += 1
                        request = run.plan.send([found[key] for key in request.keys])
                        continue
                    self._link.stats.bypassed += 1
                elif type(request) is Spawn:
                    if run.only_cache:  # the database is not to be asked
                        request.plan.close()
                    else:
                        self.start_background(request.plan, request.counters, request.entry)
                elif run.only_cache:
                    raise NotCached
                elif type(request) is Load:
                    run.far = True
                    self._loads.add((run, request))
                    return
                elif type(request) is Call:
                    run.far = True
                    self._calls.add((run, request))
                    return
                elif type(request) is Wait:
                    self._waits.add((run, request))
                    return
                elif type(request) is Take:
                    if not run.bypass and self._link.readable():
                        self._takes.add((run, request))
                        return
                    if run.background and request.deadline is None:  # else it has leases to give back
                        raise NotCached
                elif type(request) is Store:
                    if not run.bypass and self._link.readable():
                        self._stores.add((run, request))
                        return
                    self._land(key for attempt, key, _, _ in request.fills if not attempt.held)
                request = run.plan.send(_refusal(request))
        except StopIteration as stop:
            self._end(run, stop.value, None)
        except Exception as error:
            self._end(run, None, error)

    def _fail(self, run: Run, error: Exception) -> None:
        """Tells a plan that its ``Load`` or ``Call`` failed, and lets it clean up."""
        try:
            request = run.plan.throw(error)
        except StopIteration as stop:
            self._end(run, stop.value, None)
        except Exception as raised:
            self._end(run, None, raised)
        else:
            self._stores.add((run, cast("Store", request)))  # all that a plan does then: give leases back

    def _end(self, run: Run, result: Any, error: Exception | None) -> None:
        if run in self._running:  # else failed meanwhile
            self._running.discard(run)
            run.done(result, error)

    # Answering -----------------------------------------------------------------------------------

    def _age(self) -> None:
        now = time.monotonic()
        if now >= self._aged_at + AGEING:
            self._aged_at = now
            for each in self._lifetimes:
                each.age()

    def _go_on(self, run: Run, keys: list[bytes], found: Found) -> Iterator[None]:
        """Gives a plan what was read."""
        self._advance(run, [found[key] for key in keys])
        return iter(())

    async def _take(self, asked: list[tuple[Run, Take]]) -> None:
        now, usual = time.monotonic(), self._config.lease_ttl
        for (deadline, ttl), group in _grouped(
            asked, lambda request: (request.deadline or now + (request.ttl or usual), request.ttl or usual)
        ).items():
            self._tasks.start(self._lease(Attempt(new_token(), deadline), ttl, group))

    async def _lease(self, attempt: Attempt, ttl: float, group: list[tuple[Run, Take]]) -> None:
        leases = {key: Lease(key, replacing) for _, request in group for key, replacing in request.keys}
        versions = list(dict.fromkeys([key for _, request in group for key in request.versions]))
        values: dict[bytes, bytes | None] = dict.fromkeys(leases, b"")
        stamps: dict[bytes, bytes | None] = dict.fromkeys(versions)
        if time.monotonic() < attempt.deadline:
            ttl_ms = int(ttl * 1000)
            try:
                leased = await self._link.call(
                    self._link.backend.lease(list(leases.values()), attempt.token, ttl_ms, versions)
                )
            except BackendError:
                pass
            else:
                values = dict(zip(leases, leased.values, strict=True))
                stamps = dict(zip(versions, leased.versions, strict=True))
        own = LEASE + attempt.token
        granted = [key for key, value in values.items() if value == own]
        # A lease that a writer took away is another's now: whoever waited for its fill would wait for nothing.
        self._land(granted)
        self._flights.update(dict.fromkeys(granted))
        for run, request in group:
            held = [values[key] for key, _ in request.keys]
            self._advance(run, Taken(attempt, held, [stamps[key] for key in request.versions]))

    async def _store(self, asked: list[tuple[Run, Store]]) -> None:
        now = time.monotonic()
        # A slow reader's lease may have gone, and a writer come and gone since: it must not fill.
        fills = {
            (key, attempt.token): Fill(key, attempt.held or LEASE + attempt.token, value, ttl_ms)
            for _, request in asked
            for attempt, key, value, ttl_ms in request.fills
            if now < attempt.deadline
        }
        stored: dict[tuple[bytes, bytes], bool] = {}
        try:
            accepted = await self._link.call(self._link.backend.fill(list(fills.values()))) if fills else []
            stored = dict(zip(fills, accepted, strict=True))
        except BackendError:
            pass
        for run, request in asked:
            self._land(key for attempt, key, _, _ in request.fills if not attempt.held)
            self._advance(run, [stored.get((key, attempt.token), False) for attempt, key, _, _ in request.fills])

    def _land(self, keys: Iterable[bytes]) -> None:
        """Ends the wait of those who wait for this process to fill these keys."""
        for key in keys:
            flight = self._flights.pop(key, None)
            if flight is not None:
                flight.set_result(None)

    def _flight(self, key: bytes) -> asyncio.Future[None]:
        """What ends when this process has filled a key, or has given that up."""
        flight = self._flights[key]
        if flight is None:
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
        return flight

    async def _load(self, asked: list[tuple[Run, Load]]) -> None:
        for asking, group in _grouped(asked, lambda request: (request.source, request.replica)).items():
            if answers_many(asking[0]):
                self._statements.add(asking, group)
            else:
                self._tasks.start(self._load_source(asking, group))

    async def _load_source(self, asking: tuple[Any, bool], group: list[tuple[Run, Load]]) -> None:
        source, replica = asking
        wanted = list(dict.fromkeys([values for _, request in group for values in request.wanted]))
        try:
            client = source.schema.replica() if replica else source.schema.client
            answers = await self._select(source, wanted, client)
        except Exception as error:
            if len(group) == 1:
                self._fail(group[0][0], error)
                return
            # One look-up's bad value must not fail the others, nor a slow failure be waited for again and again.
            await asyncio.gather(*[self._load_source(asking, [one]) for one in group])
            return
        except BaseException:  # cancelled, by the driver or because the cache closes
            for run, _ in group:
                self._fail(run, CacheError("The statement was cancelled."))
            raise
        for run, request in group:
            self._advance(run, {values: answers[values] for values in request.wanted})

    async def _call(self, asked: list[tuple[Run, Call]]) -> None:
        for off in (False, True):
            alike = [(run, request) for run, request in asked if run.bypass is off]
            for group in _grouped(alike, lambda request: request.key).values():
                self._tasks.start(self._compute(group, off))

    async def _compute(self, group: list[tuple[Run, Call]], off: bool) -> None:
        try:
            with Disabled(self._switch) if off else nullcontext():  # look-ups that it makes are the caller's, too
                computed = ComputedValue(await group[0][1].compute(None))
        except Exception as error:
            for run, _ in group:
                self._fail(run, error)
        except BaseException:  # cancelled, by the user's own code or because the cache closes
            for run, _ in group:
                self._fail(run, CacheError("The computation was cancelled."))
            raise
        else:
            for run, _ in group:
                self._advance(run, computed)

    async def _select(self, source: Any, wanted: list[Values], client: BaseDBAsyncClient) -> dict[Values, Any]:
        return await load(source, wanted, client, self._link.stats, self._config.batch_size)

    async def _wait(self, asked: list[tuple[Run, Wait]]) -> None:
        """Lets look-ups wait until keys are no longer leased: for this process's own fills, or a little for others'.

        However many wait for the same keys of others, each is looked at once in a while, and none when nobody does.
        A lease that was waited for in vain is not waited for again: who took it may be dead.
        """
        loop = asyncio.get_running_loop()
        new: dict[bytes, bytes] = {}
        for run, request in asked:
            ends = [self._flight(key) for key in request.keys if key in self._flights]
            longest = (request.longest or self._config.lease_ttl) if ends else None
            if not ends:
                leases = dict(zip(request.keys, request.leases, strict=True))
                waiting = {key: lease for key, lease in leases.items() if self._outwaited.get(key) != lease}
                unwatched = waiting.keys() - self._watched.keys()
                self._watched.update({key: loop.create_future() for key in unwatched})
                new.update({key: waiting[key] for key in unwatched})
                ends = [self._watched[key] for key in waiting]
            if ends:
                self._tasks.start(self._wait_for(run, ends, longest))
            else:
                self._advance(run, None)
        if new:
            self._tasks.start(self._watch(new))

    async def _wait_for(self, run: Run, ends: list[asyncio.Future[None]], longest: float | None) -> None:
        await asyncio.wait(ends, timeout=longest)
        self._advance(run, None)

    async def _watch(self, leases: dict[bytes, bytes]) -> None:
        """Looks whether others have filled these keys, for a while."""
        keys: list[bytes] = list(leases)
        longest = self._config.lease_wait
        held: dict[bytes, bytes | None] = {}
        try:
            until = time.monotonic() + longest
            pause = min(longest / 8, FIRST_PAUSE)
            while keys and (left := until - time.monotonic()) > 0 and self._link.readable():
                await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.5)))
                pause *= 2
                held = dict(zip(keys, await self._link.call(self._link.backend.read(keys)), strict=True))
                self._unwatch(key for key in held if not is_lease(held[key]))
                keys = [key for key in keys if key in self._watched]
        except BackendError:
            pass
        finally:
            if len(self._outwaited) + len(keys) > OUTWAITED:
                self._outwaited.clear()
            self._outwaited.update({key: leases[key] for key in keys if held.get(key) == leases[key]})
            self._unwatch(keys)

    def _unwatch(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._watched.pop(key).set_result(None)

    def fail(self, error: Exception) -> None:
        """Fails every look-up that is still on its way, so that nobody waits for ever."""
        for run in list(self._running):
            run.plan.close()
            self._end(run, None, error)
        reading, self._reading, self._awaited = self._reading, set(), None
        for looks in reading:
            for taker in looks.takers:
                looks.settle(taker, None, error)

    def close(self) -> None:
        """Fails what is left when the cache has closed."""
        self.fail(CacheNotOpen("The cache was closed before this look-up was answered."))


def _add(keys: list[bytes], wanted: dict[bytes, None]) -> None:
    for key in keys:
        wanted[key] = None


def _refusal(request: Request) -> Any:
    """The answer that a plan gets where the cache cannot be used: nothing there, nothing granted."""
    if isinstance(request, Read):
        return [None] * len(request.keys)
    if isinstance(request, Take):
        return Taken(Attempt(b"", 0.0), [b""] * len(request.keys), [None] * len(request.versions))
    if isinstance(request, Store):
        return [False] * len(request.fills)
    return None


R = TypeVar("R", Take, Load, Call)
G = TypeVar("G", bound=Hashable)


def _grouped(asked: Iterable[tuple[Run, R]], key: Callable[[R], G]) -> dict[G, list[tuple[Run, R]]]:
    groups: dict[G, list[tuple[Run, R]]] = {}
    for run, request in asked:
        groups.setdefault(key(request), []).append((run, request))
    return groups
