# ruff: noqa: F401, F811
"""Another program at every step of a relay that reads a slot, on the real server, and the guards that need it.

At one step of a drain, a row is written, another relay drains, the connection ends, the drain is cancelled, or the slot
is replaced or moved on, so that a change is lost. Changes may also come late. A claim must not hide a write from before
its clock. Once a drain has ended, every lookup is fresh. Without one of the guards, some case fails.
"""

import asyncio
from contextlib import suppress
from itertools import product
from typing import Any

import pytest

from aiomodelcache import BackendError, ModelCache
from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.relay import Drain
from tests.protocol.interleavings.guards import Guard
from tests.relay.test_relay import (
    Outside,
    answers,
    believe,
    captured,
    create_rows,
    drain,
    fresh,
    outside,
    relaying,
)
from tests.relay.test_stream import END, TAMPERED, capture, every_drain_claims
from tests.support.effort import share
from tests.support.models.relayed_models import Article

pytestmark = [
    pytest.mark.models("tests.support.models.relayed_models"),
    pytest.mark.only_on("postgres", because="only PostgreSQL has logical decoding"),
    pytest.mark.only_on("redis", because="the steps are the same on every store"),
]
STEPS = ("clock", "guard", "mark", "_start", "_receive", "deliver", "delete", "claim")
"""The calls of a drain before which another program acts, in their order. The first one reads the clock."""
CANCELLATIONS = ("a cancellation before it", "a cancellation while it waits", "a cancellation after it")
ACTS = {
    "a write": (),
    "another relay": (),
    "changes that come late": (),
    "an end of the connection": (END.format(""),),
    "another slot": TAMPERED["recreated"],
    "a slot that is moved on": TAMPERED["moved on"],
    **dict.fromkeys(CANCELLATIONS, ()),
}


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a drain whose slot is gone end soon."""
    monkeypatch.setattr("aiomodelcache.relay.stream.lines.MAX_MESSAGE_WAIT", 0.3)


async def assert_fresh(cache: ModelCache, drain: Drain, outside: Outside, step: str, act: str) -> None:
    """Lets another program write and act before a step of a drain, and checks the answers afterwards."""
    await create_rows()
    while not await drain.drain():
        pass
    await believe(cache)
    before = await answers()
    assert await answers() == before
    await drain.close()  # so that each step is made
    counting: Any = cache.open_cache.guarded.backend
    backend = counting.backend
    await backend.delete([drain.liveness_key])
    stream: Any = drain.source._lines
    owner: Any = {"clock": backend, "claim": backend, "deliver": cache.open_cache.writer}.get(step, stream)
    owner = drain.source if step == "delete" else owner
    original = getattr(owner, step)
    acted = False

    async def step_after_it(*arguments: Any, **keywords: Any) -> Any:
        nonlocal acted
        if not acted:
            acted = True
            await outside("UPDATE article SET title = 'second', author_id = 2 WHERE id = 1", *ACTS[act])
            if act == "changes that come late" and step == "_receive":
                return None
            if act == "another relay":
                async with relaying(cache) as other:
                    while not await other.drain():
                        pass
                await backend.delete([drain.liveness_key])
            if act in CANCELLATIONS[:2]:
                task.cancel()
            if act == "a cancellation before it":
                await asyncio.sleep(0)
            if act == "a cancellation after it":
                result = await original(*arguments, **keywords)
                task.cancel()
                return result
        return await original(*arguments, **keywords)

    await outside("UPDATE article SET title = 'first' WHERE id = 2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, step, step_after_it)
        task = asyncio.create_task(drain.drain())
        with suppress(RelayError, BackendError, asyncio.CancelledError):
            await task
    assert acted
    assert task.cancelled() == (act in CANCELLATIONS)
    if await drain.claim_left():
        await believe(cache)
        assert (await Article.cache.get(id=2)).title == "first", "the claim hides a write from before it"
        assert step != "clock" or await answers() == await fresh(cache), "the claim hides a write from before it"
    for _ in range(5):
        drain.claim_at_once()
        with suppress(RelayError, BackendError):
            if await drain.drain():
                break
        await drain.close()
    assert await drain.claim_left() > 0
    await believe(cache)
    assert await answers() == await fresh(cache) != before


@pytest.mark.exhaustive(because="lets others act before each step")
@pytest.mark.parametrize(("step", "act"), share(list(product(STEPS, ACTS)), one_in=4))
async def test_nothing_is_lost_whenever_another_program_acts(
    cache: ModelCache, drain: Drain, outside: Outside, step: str, act: str
) -> None:
    await assert_fresh(cache, drain, outside, step, act)


GUARDS = {
    "a relay waits for its own message": (
        Guard("relay.stream.lines:StreamLines.mark", "token.encode(), True", "token.encode(), False", ""),
        ("_receive", "changes that come late"),
    ),
    "a relay does not trust a slot that is further than recorded": (
        Guard("relay.stream.slot:SlotState.fault", "if self.confirmed > position:", "if False:", ""),
        ("clock", "another slot"),
    ),
    "a relay looks at the slot when it reads it": (
        Guard("relay.stream.lines:StreamLines._open", "if fault or self._known_as != known_as:", "if False:", ""),
        ("mark", "another slot"),
    ),
    "a line is deleted when it is delivered": (
        Guard(
            "relay.relay:Drain.drain",
            "await self._invalidator.invalidate(changes)",
            "await source.delete([change.id for change in changes]); await self._invalidator.invalidate(changes)",
            "",
        ),
        ("deliver", "a cancellation before it"),
    ),
    "a relay clears the models for a new slot": (
        Guard("relay.relay:Drain._confirm", "if checked == self._checked:", "if True:", ""),
        ("clock", "another slot"),
    ),
}


@pytest.mark.exhaustive(because="runs cases without their guards")
@pytest.mark.parametrize("name", GUARDS)
async def test_some_case_fails_without_a_guard(cache: ModelCache, drain: Drain, outside: Outside, name: str) -> None:
    guard, case = GUARDS[name]
    with guard.removed(), pytest.raises(AssertionError):
        await assert_fresh(cache, drain, outside, *case)
