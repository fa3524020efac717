"""``Near``: the entries that it keeps, and when it uses them. No server: the tests report the server's messages."""

from collections.abc import Callable
from typing import Any

import pytest

from aiomodelcache.backends import near as module
from aiomodelcache.backends.channels import Channel
from aiomodelcache.backends.frequency import COOLDOWN, MAX_UNUSED
from aiomodelcache.backends.near import OVERHEAD, Near

ROW = b"amc:r:default:event:1"
OTHER = b"amc:r:default:event:2"
EPOCH = b"amc:e:default:event"
VALUE, ABSENCE, VERSION = b"V" + bytes(60), b"N" + bytes(60), b"E" + bytes(16)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def make(clock: Clock, *, limit: int = 1_000_000, lag: float = 1.0) -> Near:
    """Returns a ``Near`` that keeps rows (100 s in the store), absences (10 s) and their epoch, with tracking."""
    near = Near(limit, lag)
    near.cover(b"amc:r:default:event:", 100, 10)
    near.cover_version(EPOCH)
    near.begin(clock.now, lambda: None)
    return near


def read(near: Near, found: dict[bytes, bytes | None]) -> None:
    """Reads without any change in between."""
    near.keep(near.expect(found), found)


def found(near: Near, keys: list[bytes]) -> list[bytes | None]:
    """Returns the kept values of these keys, which must all be there."""
    kept = near.find(keys)
    assert kept is not None
    assert list(kept) == keys
    return list(kept.values())


@pytest.mark.parametrize("entry", [VALUE, ABSENCE, VERSION])
def test_answers_are_kept(clock: Clock, entry: bytes) -> None:
    near = make(clock)
    read(near, {ROW: entry})
    assert found(near, [ROW]) == [entry]
    assert near.holds(ROW)


@pytest.mark.parametrize("entry", [None, b"", b"L" + bytes(16), b"W" + bytes(29), b"S" + bytes(60)])
def test_leases_intents_and_stale_copies_are_not_kept(clock: Clock, entry: bytes | None) -> None:
    near = make(clock)
    read(near, {ROW: entry})
    assert near.find([ROW]) is None


def test_find_returns_all_keys_or_none(clock: Clock) -> None:
    near = make(clock)
    read(near, {ROW: VALUE, EPOCH: VERSION})
    assert found(near, [EPOCH, ROW]) == [VERSION, VALUE]
    assert near.find([EPOCH, ROW, OTHER]) is None


def test_only_covered_keys_are_kept(clock: Clock) -> None:
    near = make(clock)
    read(near, {b"amc:r:default:user:1": VALUE})
    assert near.find([b"amc:r:default:user:1"]) is None


def test_the_longest_prefix_decides(clock: Clock) -> None:
    near = make(clock)
    near.cover(b"amc:r:default:event:2", 0, 0)
    read(near, {ROW: VALUE, OTHER: VALUE})
    assert near.holds(ROW)
    assert not near.holds(OTHER)


# Placeholders --------------------------------------------------------------------------------------


Forget = Callable[[Near], object]


@pytest.mark.parametrize(
    "forget",
    [
        lambda near: near.drop([ROW]),
        lambda near: near.invalidate([ROW]),
        lambda near: near.invalidate(None),
        lambda near: near.drop_all(),
        lambda near: near.begin(1_000.0, lambda: None),
    ],
    ids=["a writer", "the server", "all of it", "a failure", "a new connection"],
)
def test_a_key_that_changes_during_its_read_is_not_kept(clock: Clock, forget: Forget) -> None:
    near = make(clock)
    ticket = near.expect([ROW])
    forget(near)
    near.keep(ticket, {ROW: VALUE})
    assert near.find([ROW]) is None


def test_only_the_last_read_of_a_key_is_kept(clock: Clock) -> None:
    """The first read may have been answered before a change.

    Its placeholder was removed and replaced by the second read's.
    """
    near = make(clock)
    first = near.expect([ROW])
    near.drop([ROW])
    second = near.expect([ROW])
    near.keep(first, {ROW: VALUE})
    assert near.find([ROW]) is None
    near.keep(second, {ROW: ABSENCE})
    assert found(near, [ROW]) == [ABSENCE]


def test_a_failed_read_leaves_no_placeholder(clock: Clock) -> None:
    near = make(clock)
    near.keep(near.expect([ROW]), {})
    assert not near.expected


# The bound ------------------------------------------------------------------------------------------


def test_entries_are_used_until_the_lag_after_the_last_answer(clock: Clock) -> None:
    near = make(clock)
    read(near, {ROW: VALUE})
    clock.now += 0.999
    assert found(near, [ROW]) == [VALUE]
    clock.now += 0.001
    assert near.find([ROW]) is None
    assert not near.holds(ROW)


def test_the_next_answer_makes_entries_usable_again(clock: Clock) -> None:
    near = make(clock)
    read(near, {ROW: VALUE})
    clock.now += 5
    near.answered(clock.now - 0.4)  # the time of sending, not of the answer
    assert found(near, [ROW]) == [VALUE]
    clock.now += 0.6
    assert near.find([ROW]) is None


def test_the_server_is_pinged_once_after_half_the_lag(clock: Clock) -> None:
    near = make(clock)
    pings: list[float] = []
    near.ping = lambda: pings.append(clock.now)
    read(near, {ROW: VALUE})
    near.find([ROW])
    assert pings == []
    clock.now += 0.5
    assert found(near, [ROW]) == found(near, [ROW]) == [VALUE]
    assert pings == [1_000.5]
    near.answered(clock.now)
    clock.now += 0.5
    near.find([ROW])
    assert pings == [1_000.5, 1_001.0]


def test_without_a_connection_nothing_is_kept_or_found(clock: Clock) -> None:
    near = make(clock)
    read(near, {ROW: VALUE})
    ticket = near.expect([ROW])
    near.lost()
    assert near.find([ROW]) is None
    near.keep(ticket, {ROW: VALUE})
    read(near, {ROW: VALUE})
    assert near.find([ROW]) is None
    near.begin(clock.now, lambda: None)
    assert near.find([ROW]) is None
    assert near.counters.bytes == 0


# How long, and how much --------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "life"), [(VALUE, 10.0), (ABSENCE, 1.0)])
def test_an_entry_is_kept_for_a_tenth_of_its_lifetime(clock: Clock, entry: bytes, life: float) -> None:
    near = make(clock, lag=1_000)
    read(near, {ROW: entry})
    clock.now += life - 0.01
    assert found(near, [ROW]) == [entry]
    clock.now += 0.01
    assert near.find([ROW]) is None


def test_versions_do_not_expire(clock: Clock) -> None:
    near = make(clock, lag=1_000_000)
    read(near, {EPOCH: VERSION})
    clock.now += 100_000
    assert found(near, [EPOCH]) == [VERSION]


def size(*keys: bytes) -> int:
    return sum(len(key) + len(VALUE) + OVERHEAD for key in keys)


def test_a_key_that_is_read_more_often_replaces_one_that_is_not_used(clock: Clock) -> None:
    keys = [ROW + bytes([digit]) for digit in b"012"]
    near = make(clock, limit=size(*keys[:2]))
    for key in keys[:2]:
        read(near, {key: VALUE})
    near.find([keys[0]])
    read(near, {keys[2]: VALUE})
    assert [near.holds(key) for key in keys] == [True, True, False]
    read(near, {keys[2]: VALUE})
    assert [near.holds(key) for key in keys] == [True, False, True]
    assert near.counters.evicted == 2
    assert near.counters.bytes == size(*keys[:2])


def test_keys_that_are_read_once_do_not_replace_those_in_use(clock: Clock) -> None:
    keys = [b"%s:%02d" % (ROW, number) for number in range(50)]
    near = make(clock, limit=size(*keys))
    for key in keys:
        read(near, {key: VALUE})
    for number in range(2_000):
        near.find([keys[number % 50]])
        read(near, {b"%s:%d" % (OTHER, number): VALUE})
    assert sum(map(near.holds, keys)) >= 45
    assert near.counters.bytes <= size(*keys)


def test_keys_that_become_popular_replace_those_that_were(clock: Clock) -> None:
    former, latter = ([b"%s:%02d" % (row, number) for number in range(50)] for row in (ROW, OTHER))
    near = make(clock, limit=size(*former))
    for keys in (former, latter):
        for number in range(3_000):
            if near.find([keys[number % 50]]) is None:
                read(near, {keys[number % 50]: VALUE})
        assert sum(map(near.holds, keys)) >= 45


def test_one_new_entry_examines_few_others(clock: Clock) -> None:
    keys = [b"%s:%03d" % (ROW, number) for number in range(200)]
    near = make(clock, limit=size(*keys))
    for key in keys:
        read(near, {key: VALUE})
    near.find(keys)
    read(near, {OTHER: VALUE})
    assert sum(kept.used == 0 for kept in near._entries.values()) == 32


def test_a_key_that_is_always_written_before_it_is_used_is_not_kept_for_a_while(clock: Clock) -> None:
    near = make(clock)
    for number in range(MAX_UNUSED):
        read(near, {ROW: VALUE, OTHER: VALUE, EPOCH: VERSION})
        assert near.find_two(EPOCH, OTHER)
        assert near.holds(ROW), number
        near.invalidate([ROW, OTHER])
    read(near, {ROW: VALUE, OTHER: VALUE})
    assert not near.holds(ROW)
    assert near.holds(OTHER)
    clock.now += COOLDOWN
    near.answered(clock.now)
    read(near, {ROW: VALUE})
    assert near.find([ROW])  # tried again, and used this time
    near.invalidate([ROW])
    read(near, {ROW: VALUE})
    assert near.holds(ROW)
    near.invalidate([ROW])
    read(near, {ROW: VALUE})
    assert near.holds(ROW)


def test_an_entry_larger_than_the_limit_is_not_kept(clock: Clock) -> None:
    near = make(clock, limit=100)
    read(near, {ROW: VALUE})
    assert near.find([ROW]) is None
    assert near.counters.bytes == 0


@pytest.mark.parametrize(
    "forget", [lambda near: near.drop([ROW, OTHER]), lambda near: near.drop_all(), lambda near: near.lost()]
)
def test_dropped_entries_take_no_memory(clock: Clock, forget: Any) -> None:
    near = make(clock)
    read(near, {ROW: VALUE, OTHER: VALUE})
    read(near, {ROW: VALUE})
    assert near.counters.bytes == size(ROW, OTHER)
    forget(near)
    assert near.counters.bytes == 0
    assert near.find([ROW]) is None


def test_drops_are_counted(clock: Clock) -> None:
    near = make(clock)
    read(near, {ROW: VALUE})
    near.invalidate([ROW, OTHER])
    assert near.counters.invalidated == 1
    read(near, {ROW: VALUE})
    near.invalidate(None)
    near.invalidate(None)
    assert near.counters.dropped == 1


def test_a_refusal_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    near = Near(1_000, 1.0)
    near.refused("ERR unknown command")
    near.refused("ERR unknown command")
    assert near.counters.refused == 2
    assert len(caplog.records) == 1
    assert "ERR unknown command" in caplog.text


def of_two_servers(clock: Clock) -> tuple[Near, list[Channel], list[bytes]]:
    """Returns a near cache with a key of each of two servers, their channels, and what they are pinged about."""
    near, channels, pinged = make(clock), list[Channel](), list[bytes]()
    for key in (ROW, OTHER):
        channels.append(channel := Channel(near))
        channel.begin(clock.now, pinged.append)
        near.tracked_slot = lambda _, channel=channel: channel.slot(0)
        read(near, {key: VALUE})
    return near, channels, pinged


def test_a_server_of_several_is_pinged_also_after_a_time_without_lookups(clock: Clock) -> None:
    """Otherwise every lookup of the other servers' keys would look at the time of each server."""
    near, channels, pinged = of_two_servers(clock)
    clock.now += 5
    near.answered(clock.now)
    channels[0].answered(clock.now)
    for _ in range(2):
        assert near.find([ROW]) == {ROW: VALUE}
        assert near.find([OTHER]) is None
    assert pinged == [OTHER]
    channels[1].answered(clock.now)
    assert near.find([OTHER]) == {OTHER: VALUE}


# Order ---------------------------------------------------------------------------------------------


def test_answers_wait_for_a_request_that_was_sent_after_an_answer_of_the_database(clock: Clock) -> None:
    near, pings = make(clock), list[float]()
    near.begin(clock.now, lambda: pings.append(clock.now))
    read(near, {ROW: VALUE})
    early = clock.now
    clock.now += 0.1
    since = near.catch_up()
    assert pings == [since]
    assert found(near, [ROW]) == [VALUE]  # the lookup has not returned yet
    near.require(since)
    assert near.find([ROW]) is None
    assert near.find_two(ROW, ROW) is None
    near.answered(early)
    assert near.find([ROW]) is None
    assert not near.holds(ROW)
    near.answered(since)
    assert found(near, [ROW]) == [VALUE]


def test_no_lookup_waits_if_the_ping_was_answered_before_the_lookup_returned(clock: Clock) -> None:
    near = make(clock)
    read(near, {ROW: VALUE})
    since = near.catch_up()
    clock.now += 0.1
    near.answered(since)
    near.require(since)
    assert found(near, [ROW]) == [VALUE]


@pytest.mark.parametrize(
    ("value", "answers"), [(VALUE, True), (VALUE + b"!", False), (None, False), (b"W" + bytes(29), False)]
)
def test_a_kept_key_that_was_read_elsewhere_is_compared(clock: Clock, value: bytes | None, answers: bool) -> None:
    near = make(clock)
    read(near, {ROW: VALUE, OTHER: VALUE})
    clock.now += 0.1
    read(near, {ROW: value, b"amc:r:default:user:1": VALUE})
    assert (near.find([OTHER]) is not None) is answers
    near.answered(clock.now)
    assert near.find([OTHER]) is not None


def test_a_key_that_was_dropped_while_it_was_read_elsewhere_counts_as_another(clock: Clock) -> None:
    near = make(clock)
    keys = {ROW: VALUE, b"amc:r:default:user:1": VALUE}
    read(near, {ROW: VALUE, OTHER: VALUE})
    clock.now += 0.1
    ticket = near.expect(keys)
    near.invalidate([ROW])
    near.keep(ticket, keys)
    assert near.find([OTHER]) is None


def test_each_server_of_several_answers_a_ping_after_an_answer_of_the_database(clock: Clock) -> None:
    near, channels, pinged = of_two_servers(clock)
    early = clock.now
    clock.now += 0.1
    near.require(since := near.catch_up())
    assert pinged == [ROW, OTHER]
    channels[0].answered(since)
    channels[1].answered(early)
    assert near.find([ROW]) == {ROW: VALUE}
    assert near.find([OTHER]) is None
