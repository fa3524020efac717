"""Two caches on one database, whose relays delete the same lines: every interleaving of a small model.

The model of ``relay.ownership``. Each cache has an entry and a claim of its own. A relay makes the steps of
``Drain.drain``. No hit may hold a version that was replaced more than ``BOUND`` ticks before, as long as the claim of
its cache lives. Relays may end at any step, and several may belong to one cache.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.exhaustive(because="tries every order of two relays, a writer and a reader")

BOUND = 1
LAST_TICK = 2
CACHES = (0, 1)

Owner = tuple[int, int]
"""The cache that lines are drained for, and the number of its takeover."""


class Relay(NamedTuple):
    cache: int
    left: int
    """Drains that it will still make."""
    step: str = "clock"
    started: int = 0
    owner: Owner | None = None
    """The owner that it has seen."""
    lines: frozenset[int] = frozenset()
    seen: Owner | None = None
    """The owner when it last claimed."""
    claims: bool = True
    """False for a drain between two claims, which begins with the SELECT."""


class World(NamedTuple):
    now: int = 0
    history: tuple[int, ...] = (0,)
    """The time of the commit of each version."""
    lines: frozenset[int] = frozenset()
    entries: tuple[int | None, ...] = (0, 0)
    """The version that each cache holds."""
    alive: tuple[int, ...] = (BOUND, BOUND)
    owner: Owner = (0, 0)
    takeovers: int = 0
    known: frozenset[Owner] = frozenset([(0, 0)])
    """The owners that a relay has claimed under, as its store remembers them."""
    relays: tuple[Relay, ...] = ()
    writes: int = 1
    reads: tuple[int, ...] = (1, 1)
    crashes: int = 1


def with_entry(world: World, cache: int, entry: int | None) -> World:
    return world._replace(entries=tuple(entry if each == cache else world.entries[each] for each in CACHES))


def steps_of_relay(world: World, at: int, broken: str) -> Iterator[World]:
    """Yields what follows from the next step of a relay."""
    relay = world.relays[at]

    def go(after: World, **changes: Any) -> World:
        changed = relay._replace(**changes)
        return after._replace(relays=(*world.relays[:at], changed, *world.relays[at + 1 :]))

    cache = relay.cache
    match relay.step:
        case "clock":
            yield go(world, step="check", started=world.now)
        case "check":
            yield go(world, step="select", owner=world.owner) if world.owner[0] == cache else go(world, step="adopt")
        case "adopt":
            number = world.takeovers + 1
            owner = (cache, 0 if broken == "takeovers have no name" else number)
            yield go(world._replace(owner=owner, takeovers=number), step="select", owner=owner)
        case "select":
            after = "confirm" if relay.claims and broken != "no look after the SELECT" else "invalidate"
            yield go(world, step=after, lines=world.lines)
        case "confirm":
            lost = world.owner != relay.owner
            yield go(world, step="end") if lost else go(world, step="invalidate")
        case "invalidate":
            yield go(with_entry(world, cache, None) if relay.lines else world, step="delete")
        case "delete":
            holds = world.owner == relay.owner or broken == "anyone deletes"
            yield go(
                world._replace(lines=world.lines - relay.lines) if holds else world,
                step="clear" if relay.claims else "end",
            )
        case "clear":
            new = relay.owner != relay.seen and (relay.seen is not None or relay.owner not in world.known)
            clears = new and broken != "a takeover clears nothing"
            yield go(with_entry(world, cache, None) if clears else world, step="claim", seen=relay.owner)
        case "claim":
            assert relay.owner is not None
            ends = [
                max(world.alive[each], relay.started + BOUND) if each == cache else world.alive[each] for each in CACHES
            ]
            after_claim = world._replace(alive=tuple(ends), known=world.known | {relay.owner})
            yield go(after_claim, step="clock" if relay.left > 1 else "end", left=relay.left - 1)
    if world.crashes and relay.step != "end":
        yield go(world._replace(crashes=world.crashes - 1), step="end")


def steps(world: World, broken: str) -> Iterator[World | None]:
    """Yields what follows from each step. None: a hit that is too old."""
    latest = len(world.history) - 1
    if world.writes:
        number = len(world.history)
        committed = world._replace(writes=world.writes - 1, history=(*world.history, world.now))
        yield committed._replace(lines=world.lines | {number})
    for cache in CACHES:
        if world.reads[cache]:
            reads = tuple(world.reads[each] - (each == cache) for each in CACHES)
            entry = world.entries[cache]
            if world.now < world.alive[cache] and entry is not None:
                late = entry < latest and world.history[entry + 1] < world.now - BOUND
                yield None if late else world._replace(reads=reads)
            else:
                yield with_entry(world, cache, latest)._replace(reads=reads)
    for at in range(len(world.relays)):
        yield from steps_of_relay(world, at, broken)
    if world.now < LAST_TICK:
        yield world._replace(now=world.now + 1)


def can_fail(world: World) -> bool:
    """Returns False if no later hit can be too old: no read is left for it, or no commit is early enough."""
    early, latest = LAST_TICK - BOUND, len(world.history) - 1
    next_write = world.now if world.writes else LAST_TICK
    for entry, reads in zip(world.entries, world.reads, strict=True):
        if reads > 1 and next_write < early:
            return True
        if reads and entry is not None and (world.history[entry + 1] if entry < latest else next_write) < early:
            return True
    return False


def is_safe(start: World, broken: str = "") -> bool:
    """Returns False if some interleaving has a hit that is too old."""
    seen, pending = {start}, deque([start])
    while pending:
        for after in steps(pending.popleft(), broken):
            if after is None:
                return False
            if after not in seen and can_fail(after):
                seen.add(after)
                pending.append(after)
    return True


SHAPES = {
    "the one that loses": World(relays=(Relay(0, 2, seen=(0, 0)), Relay(1, 1)), reads=(1, 0)),
    "the one that takes over": World(relays=(Relay(0, 1, seen=(0, 0)), Relay(1, 1)), reads=(0, 1)),
    "the one that takes over from a drain between two claims": World(
        relays=(Relay(0, 1, "select", owner=(0, 0), claims=False), Relay(1, 2)), reads=(0, 2), crashes=0
    ),
}
BROKEN = ["takeovers have no name", "no look after the SELECT", "anyone deletes", "a takeover clears nothing"]


@pytest.mark.parametrize("name", SHAPES)
def test_no_hit_is_older_than_the_bound_although_two_caches_share_the_lines(name: str) -> None:
    assert is_safe(SHAPES[name])


@pytest.mark.parametrize("broken", BROKEN)
def test_each_rule_is_needed(broken: str) -> None:
    assert not all(is_safe(shape, broken) for shape in reversed(SHAPES.values()))  # the smallest one first
