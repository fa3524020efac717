"""The test suite that every backend must pass. The test of a new backend is a small subclass.

::

    class TestMyBackend(BackendConformance):
        async def make_backend(self) -> Backend:
            backend = MyBackend("address of a store that the test may write to")
            await backend.open()
            return backend

The suite knows the protocol (``aiomodelcache.backends.protocol``) and the layout of entries, but no backend. It needs
pytest and pytest-asyncio (``pip install "aiomodelcache[testing]"``), in any mode.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from aiomodelcache.backends.protocol import Backend, Clear, Fill, Lease, ReplacedEntry

MINUTE = 60_000
SHORT = 40
"""Time to live, in milliseconds, whose end tests wait for. On a busy machine it may end before the next operation, so
no test may depend on the entry still being there."""

EVERY_BYTE = bytes(range(256)) + b"\r\n\x00\r\n$-1\r\n*3\r\n"


def new_keys(count: int) -> list[bytes]:
    """Returns random keys, which no other test uses."""
    start = os.urandom(8)
    return [b"conformance:%b:%05d" % (start, number) for number in range(count)]


def new_key() -> bytes:
    """Returns a random key, which no other test uses."""
    return new_keys(1)[0]


def new_token() -> bytes:
    """Returns a random token."""
    return os.urandom(16)


def new_value(payload: bytes = b"payload") -> bytes:
    """Returns an entry with a token of its own before ``payload``."""
    return b"V" + new_token() + payload


async def held(backend: Backend, key: bytes) -> bytes | None:
    """Returns the value that ``key`` holds, or None."""
    [value] = await backend.read([key])
    return value


async def put(backend: Backend, key: bytes, value: bytes, ttl_ms: int = MINUTE) -> None:
    """Stores a value by leasing the key and filling it. The protocol has no other way."""
    token = new_token()
    assert (await backend.lease([Lease(key)], token, MINUTE)).values == [b"L" + token]
    assert await backend.fill([Fill(key, b"L" + token, value, ttl_ms)]) == [True]


def writers(value: bytes | None) -> dict[bytes, int]:
    """Returns the tokens of an entry that holds intents, each with the time when the intent expires (ms)."""
    assert value is not None
    assert value[:1] == b"W"
    assert (len(value) - 1) % 29 == 0
    intents = [value[at : at + 29] for at in range(1, len(value), 29)]
    expiries = {intent[:16]: int(intent[16:]) for intent in intents}
    assert len(expiries) == len(intents), "a writer is listed twice"
    return expiries


def is_version(value: bytes | None) -> bool:
    """Returns True if ``value`` is the value of a version key."""
    return value is not None and value[:1] == b"E" and len(value) == 17


class BackendConformance:
    """Base class of a backend's tests. Derive ``Test...`` from it and override ``make_backend``.

    The store need not be empty: keys are random, and tests use no other keys. A backend may also override ``advance``
    and ``many``. With a store that a fixture starts::

        class TestMyBackend(BackendConformance):
            @pytest.fixture(autouse=True)
            def store(self, my_server: Server) -> None:
                self.url = my_server.url

            async def make_backend(self) -> Backend:
                ...
    """

    pytestmark: ClassVar[Any] = pytest.mark.asyncio

    many: ClassVar[int] = 10_000
    """Number of keys in the largest batch."""

    async def make_backend(self) -> Backend:
        """Returns another open backend on the one store of this test: each client reads the writes of the others.

        A store inside this process, which two clients cannot share, may return the same object each time. The fixtures
        close the backends returned.
        """
        raise NotImplementedError(f"{type(self).__name__}: override make_backend, to return an open backend.")

    async def advance(self, seconds: float) -> None:
        """Lets ``seconds`` pass for the store. Sleeps by default; override it for a backend with a manual clock."""
        await asyncio.sleep(seconds)

    @pytest_asyncio.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        """The client under test."""
        backend = await self.make_backend()
        yield backend
        await backend.close()

    @pytest_asyncio.fixture
    async def other(self) -> AsyncIterator[Backend]:
        """A second client of the same store."""
        backend = await self.make_backend()
        yield backend
        await backend.close()

    async def becomes(self, backend: Backend, key: bytes, expected: bytes | None) -> None:
        """Waits until ``key`` holds ``expected``. Use it right after the expected expiry of the former value."""
        for _ in range(400):
            if await held(backend, key) == expected:
                return
            await self.advance(0.005)
        assert await held(backend, key) == expected

    async def expires(self, backend: Backend, key: bytes) -> None:
        """Waits until ``key``, which was stored for ``SHORT``, has expired."""
        await self.advance(SHORT / 1000)
        await self.becomes(backend, key, None)

    # Opening and closing

    async def test_closing_twice(self, backend: Backend) -> None:
        await backend.close()
        await backend.close()

    async def test_opening_again(self, backend: Backend) -> None:
        key, value = new_key(), new_value()
        await put(backend, key, value)
        await backend.close()
        await backend.open()
        assert await held(backend, key) == value

    async def test_closing_does_not_disturb_other_clients(self, backend: Backend, other: Backend) -> None:
        key, value = new_key(), new_value()
        await put(backend, key, value)
        await other.close()
        assert await held(backend, key) == value

    async def test_nothing_to_do(self, backend: Backend) -> None:
        token = new_token()
        assert await backend.read([]) == []
        assert await backend.lease([], token, MINUTE) == ([], [])
        assert await backend.fill([]) == []
        await backend.mark([], token, MINUTE)
        assert await backend.clear([], token) == []
        assert await backend.delete([]) == 0

    # Reading

    async def test_read_keeps_the_order(self, backend: Backend) -> None:
        first, absent, last = new_keys(3)
        values = [new_value(b"first"), new_value(b"last")]
        await put(backend, first, values[0])
        await put(backend, last, values[1])
        assert await backend.read([last, absent, first]) == [values[1], None, values[0]]

    async def test_read_the_same_key_twice(self, backend: Backend) -> None:
        key, value = new_key(), new_value()
        await put(backend, key, value)
        assert await backend.read([key, key]) == [value, value]

    async def test_reads_that_are_begun_at_once(self, backend: Backend, other: Backend) -> None:
        """Applies to backends that have ``start_read`` (``SupportsStartRead``) and can use it."""
        leased, filled, absent, marked, version, gone = keys = new_keys(6)
        await put(backend, filled, new_value(EVERY_BYTE))
        await put(backend, gone, new_value(), SHORT)
        await backend.mark([marked], new_token(), MINUTE)
        await backend.lease([Lease(leased)], new_token(), MINUTE, [version])
        await self.expires(other, gone)
        expected = await backend.read(keys)
        start: Any = getattr(backend, "start_read", None)
        by_key = dict(zip(keys, expected, strict=True))
        for batch in (keys, [filled], [absent, filled, filled]):
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            if start is not None and start(batch, answer.set_result):
                assert await answer == [by_key[key] for key in batch]
        assert [value and value[:1] for value in expected] == [b"L", b"V", None, b"W", b"E", None]

    # Leases

    async def test_lease_of_an_absent_key_is_granted(self, backend: Backend, other: Backend) -> None:
        key, token = new_key(), new_token()
        assert await backend.lease([Lease(key)], token, MINUTE) == ([b"L" + token], [])
        assert await held(other, key) == b"L" + token

    async def test_lease_of_a_held_key_is_refused(self, backend: Backend) -> None:
        leased, filled, marked = keys = new_keys(3)
        value = new_value()
        await backend.lease([Lease(leased)], new_token(), MINUTE)
        await put(backend, filled, value)
        await backend.mark([marked], new_token(), MINUTE)
        before = await backend.read(keys)
        answer = await backend.lease([Lease(key) for key in keys], new_token(), MINUTE)
        assert answer.values == before
        assert await backend.read(keys) == before

    async def test_lease_again_with_the_same_token(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        for _ in range(2):
            assert (await backend.lease([Lease(key)], token, MINUTE)).values == [b"L" + token]

    async def test_lease_of_a_key_twice_in_a_batch(self, backend: Backend) -> None:
        plain, replaced = new_keys(2)
        value, token = new_value(), new_token()
        await put(backend, replaced, value)
        leases = [Lease(plain), Lease(plain), Lease(replaced, value[:17]), Lease(replaced, value[:17])]
        assert (await backend.lease(leases, token, MINUTE)).values == [b"L" + token] * 4

    async def test_lease_replacing_what_was_read(self, backend: Backend) -> None:
        key, value, token = new_key(), new_value(), new_token()
        await put(backend, key, value)
        assert (await backend.lease([Lease(key, value[:17])], token, MINUTE)).values == [b"L" + token]
        assert await held(backend, key) == b"L" + token

    @pytest.mark.parametrize("size", [16, 17, 18])
    async def test_lease_replacing_around_the_size_of_the_prefix(self, backend: Backend, size: int) -> None:
        key, token = new_key(), new_token()
        value = new_value(b"more")[:size]
        await put(backend, key, value)
        assert (await backend.lease([Lease(key, value[:17])], token, MINUTE)).values == [b"L" + token]

    async def test_lease_replacing_another_value(self, backend: Backend) -> None:
        key, value = new_key(), new_value()
        await put(backend, key, value)
        for replacing in (new_value()[:17], b"N" + value[1:17], value[:16] + b"\x00"):
            answer = await backend.lease([Lease(key, replacing)], new_token(), MINUTE)
            assert answer.values == [value]
        assert await held(backend, key) == value

    async def test_lease_replacing_what_was_replaced_since(self, backend: Backend, other: Backend) -> None:
        key, stale, fresh, token = new_key(), new_value(b"stale"), new_value(b"fresh"), new_token()
        await put(backend, key, stale)
        await other.lease([Lease(key, stale[:17])], token, MINUTE)
        await other.fill([Fill(key, b"L" + token, fresh, MINUTE)])
        assert (await backend.lease([Lease(key, stale[:17])], new_token(), MINUTE)).values == [fresh]
        assert await held(backend, key) == fresh

    async def test_lease_replacing_what_a_writer_has_marked_since(self, backend: Backend) -> None:
        key, value, writer = new_key(), new_value(), new_token()
        await put(backend, key, value)
        await backend.mark([key], writer, MINUTE)
        [answer] = (await backend.lease([Lease(key, value[:17])], new_token(), MINUTE)).values
        assert writers(answer).keys() == {writer}
        assert await held(backend, key) == answer

    async def test_lease_replacing_what_is_gone(self, backend: Backend) -> None:
        key = new_key()
        assert (await backend.lease([Lease(key, new_value()[:17])], new_token(), MINUTE)).values == [None]
        assert await held(backend, key) is None

    async def test_lease_replacing_a_short_value(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await put(backend, key, b"junk")
        assert (await backend.lease([Lease(key, b"junk")], token, MINUTE)).values == [b"L" + token]

    async def test_a_short_value_is_compared_whole(self, backend: Backend) -> None:
        key = new_key()
        await put(backend, key, b"junk and more")
        for replacing in (b"junk", b"junk and more and more"):
            answer = await backend.lease([Lease(key, replacing)], new_token(), MINUTE)
            assert answer.values == [b"junk and more"]

    async def test_leases_of_both_kinds_keep_the_order(self, backend: Backend) -> None:
        absent, held_by_other, replaced, changed, gone = new_keys(5)
        values, token = [new_value(), new_value(), new_value()], new_token()
        for key, value in zip((held_by_other, replaced, changed), values, strict=True):
            await put(backend, key, value)
        answer = await backend.lease(
            [
                Lease(gone, new_value()[:17]),
                Lease(replaced, values[1][:17]),
                Lease(absent),
                Lease(changed, new_value()[:17]),
                Lease(held_by_other),
            ],
            token,
            MINUTE,
            new_keys(1),
        )
        mine = b"L" + token
        assert answer.values == [None, mine, mine, values[2], values[0]]
        assert is_version(answer.versions[0])

    async def test_lease_expires(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.lease([Lease(key)], new_token(), SHORT)
        await self.expires(backend, key)
        assert (await backend.lease([Lease(key)], token, MINUTE)).values == [b"L" + token]

    async def test_lease_does_not_inherit_the_time_to_live(self, backend: Backend) -> None:
        key, value = new_key(), new_value()
        await put(backend, key, value, MINUTE)
        await backend.lease([Lease(key, value[:17])], new_token(), SHORT)
        await self.expires(backend, key)

    # Versions

    async def test_versions_are_created_once(self, backend: Backend, other: Backend) -> None:
        keys = new_keys(2)
        _, versions = await backend.lease([], new_token(), SHORT, keys)
        assert all(map(is_version, versions))
        assert versions[0] != versions[1]
        assert (await other.lease([Lease(new_key())], new_token(), SHORT, keys)).versions == versions
        assert await backend.read(keys) == versions

    async def test_the_same_version_twice_in_a_batch(self, backend: Backend) -> None:
        key = new_key()
        first, second = (await backend.lease([], new_token(), MINUTE, [key, key])).versions
        assert first == second
        assert is_version(first)

    async def test_versions_do_not_expire_with_the_lease(self, backend: Backend) -> None:
        leased, key = new_keys(2)
        [version] = (await backend.lease([Lease(leased)], new_token(), SHORT, [key])).versions
        await self.expires(backend, leased)
        assert await held(backend, key) == version

    async def test_versions_are_read_after_the_leases(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        assert await backend.lease([Lease(key)], token, MINUTE, [key]) == ([b"L" + token], [b"L" + token])

    async def test_a_marked_version_is_returned_as_it_is(self, backend: Backend) -> None:
        key, writer = new_key(), new_token()
        await backend.mark([key], writer, MINUTE)
        [version] = (await backend.lease([], new_token(), MINUTE, [key])).versions
        assert writers(version).keys() == {writer}
        assert await held(backend, key) == version

    async def test_a_deleted_version_comes_back_as_another(self, backend: Backend) -> None:
        key = new_key()
        [before] = (await backend.lease([], new_token(), MINUTE, [key])).versions
        await backend.delete([key])
        [after] = (await backend.lease([], new_token(), MINUTE, [key])).versions
        assert is_version(after)
        assert after != before

    # Fills

    async def test_fill_needs_the_own_lease(self, backend: Backend) -> None:
        mine, theirs, filled, marked, _absent = keys = new_keys(5)
        token, value = new_token(), new_value()
        await backend.lease([Lease(theirs)], new_token(), MINUTE)
        await put(backend, filled, new_value())
        await backend.mark([marked], new_token(), MINUTE)
        before = await backend.read(keys)
        await backend.lease([Lease(mine)], token, MINUTE)
        stored = await backend.fill([Fill(key, b"L" + token, value, MINUTE) for key in keys])
        assert stored == [True, False, False, False, False]
        assert await backend.read(keys) == [value, *before[1:]]

    async def test_fill_happens_at_most_once(self, backend: Backend) -> None:
        key, token, first, second = new_key(), new_token(), new_value(), new_value()
        await backend.lease([Lease(key)], token, MINUTE)
        assert await backend.fill([Fill(key, b"L" + token, first, MINUTE)]) == [True]
        assert await backend.fill([Fill(key, b"L" + token, second, MINUTE)]) == [False]
        assert await held(backend, key) == first

    async def test_fill_twice_in_a_batch(self, backend: Backend) -> None:
        key, token, first, second = new_key(), new_token(), new_value(), new_value()
        await backend.lease([Lease(key)], token, MINUTE)
        fills = [Fill(key, b"L" + token, first, MINUTE), Fill(key, b"L" + token, second, MINUTE)]
        assert await backend.fill(fills) == [True, False]
        assert await held(backend, key) == first

    async def test_fill_after_a_writer_marked_and_cleared(self, backend: Backend) -> None:
        key, reader, writer = new_key(), new_token(), new_token()
        await backend.lease([Lease(key)], reader, MINUTE)
        await backend.mark([key], writer, MINUTE)
        assert await backend.fill([Fill(key, b"L" + reader, new_value(), MINUTE)]) == [False]
        await backend.clear([Clear(key)], writer)
        assert await backend.fill([Fill(key, b"L" + reader, new_value(), MINUTE)]) == [False]
        assert await held(backend, key) is None

    async def test_fill_with_nothing_gives_the_lease_back(self, backend: Backend) -> None:
        mine, theirs = new_keys(2)
        token, other_token = new_token(), new_token()
        await backend.lease([Lease(mine)], token, MINUTE)
        await backend.lease([Lease(theirs)], other_token, MINUTE)
        assert await backend.fill([Fill(mine, b"L" + token, b"", 0), Fill(theirs, b"L" + token, b"", 0)]) == [
            True,
            False,
        ]
        assert await backend.read([mine, theirs]) == [None, b"L" + other_token]

    async def test_fill_after_the_lease_has_expired(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.lease([Lease(key)], token, SHORT)
        await self.expires(backend, key)
        assert await backend.fill([Fill(key, b"L" + token, new_value(), MINUTE)]) == [False]
        assert await held(backend, key) is None

    async def test_a_fill_with_the_lease_itself_extends_it(self, backend: Backend) -> None:
        theirs, marked, gone = new_keys(3)
        token, writer = new_token(), new_token()
        own = b"L" + token
        await backend.lease([Lease(marked)], token, MINUTE)
        await backend.lease([Lease(theirs)], new_token(), MINUTE)
        await backend.mark([marked], writer, MINUTE)
        for ttl_ms in (SHORT, 10 * SHORT, 100 * SHORT):  # on a busy machine a short lease may end before the fill
            mine, other = new_keys(2)
            await backend.lease([Lease(mine), Lease(other)], token, ttl_ms)
            extended = await backend.fill([Fill(key, own, own, MINUTE) for key in (mine, theirs, marked, gone)])
            if extended[0]:
                break
        assert extended == [True, False, False, False]
        await self.expires(backend, other)
        [held_now, marked_now, gone_now] = await backend.read([mine, marked, gone])
        assert held_now == own
        assert writers(marked_now).keys() == {writer}
        assert gone_now is None
        assert await backend.fill([Fill(mine, own, new_value(), MINUTE)]) == [True]

    async def test_a_filled_value_expires(self, backend: Backend) -> None:
        key = new_key()
        await put(backend, key, new_value(), SHORT)
        await self.expires(backend, key)

    async def test_a_filled_value_outlives_its_lease(self, backend: Backend) -> None:
        key, leased, value = *new_keys(2), new_value()
        for _ in range(50):
            key, leased, token = *new_keys(2), new_token()
            await backend.lease([Lease(key), Lease(leased)], token, SHORT)
            if await backend.fill([Fill(key, b"L" + token, value, MINUTE)]) == [True]:
                break
        await self.expires(backend, leased)
        assert await held(backend, key) == value

    # Marks

    async def test_mark_replaces_anything(self, backend: Backend) -> None:
        _absent, leased, filled = keys = new_keys(3)
        token = new_token()
        await backend.lease([Lease(leased)], new_token(), MINUTE)
        await put(backend, filled, new_value())
        await backend.mark(keys, token, MINUTE)
        for value in await backend.read(keys):
            assert writers(value).keys() == {token}

    @pytest.mark.parametrize(
        "value",
        [
            b"W",
            b"Wrong",
            b"W" + bytes(29),
            b"Written by another program, and long enough for intents.",
            b"W" + b"9e99" * 8,
        ],
    )
    async def test_foreign_bytes_that_begin_like_intents_are_replaced(self, backend: Backend, value: bytes) -> None:
        marked, cleared = keys = new_keys(2)
        token = new_token()
        for key in keys:
            await put(backend, key, value)
        await backend.mark([marked], token, MINUTE)
        assert writers(await held(backend, marked)).keys() == {token}
        assert await backend.clear([Clear(marked), Clear(cleared)], token) == [True, False]
        assert await backend.read(keys) == [None, None]

    async def test_marks_of_several_writers_stay(self, backend: Backend, other: Backend) -> None:
        key, first, second = new_key(), new_token(), new_token()
        await backend.mark([key], first, MINUTE)
        before = await held(backend, key)
        await other.mark([key], second, MINUTE)
        after = await held(backend, key)
        assert before is not None
        assert after is not None
        assert after.startswith(before)
        assert list(writers(after)) == [first, second]

    async def test_mark_twice_in_a_batch(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key, key], token, MINUTE)
        assert writers(await held(backend, key)).keys() == {token}
        assert await backend.clear([Clear(key)], token) == [True]
        assert await held(backend, key) is None

    async def test_expiry_is_by_the_clock_of_the_store(self, backend: Backend) -> None:
        key, first, second = new_key(), new_token(), new_token()
        await backend.mark([key], first, 20_000)
        await backend.mark([key], second, 30_000)
        expiry = writers(await held(backend, key))
        assert 10_000 <= expiry[second] - expiry[first] < 15_000

    async def test_mark_again_renews(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], token, 20_000)
        before = writers(await held(backend, key))
        await backend.mark([key], token, 30_000)
        after = writers(await held(backend, key))
        assert before.keys() == after.keys() == {token}
        assert 10_000 <= after[token] - before[token] < 15_000

    async def test_a_renewed_mark_lives_longer(self, backend: Backend) -> None:
        renewed, left = new_keys(2)
        token = new_token()
        await backend.mark([renewed, left], token, SHORT)
        await backend.mark([renewed], token, MINUTE)
        await self.expires(backend, left)
        assert writers(await held(backend, renewed)).keys() == {token}

    async def test_mark_expires(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], new_token(), SHORT)
        await self.expires(backend, key)
        assert (await backend.lease([Lease(key)], token, MINUTE)).values == [b"L" + token]

    @pytest.mark.parametrize("short_first", [True, False])
    async def test_a_key_lives_as_long_as_its_longest_mark(self, backend: Backend, short_first: bool) -> None:
        key, control = new_keys(2)
        short, long = new_token(), new_token()
        for token in (short, long) if short_first else (long, short):
            await backend.mark([key], token, SHORT if token == short else MINUTE)
        await backend.mark([control], short, SHORT)
        await self.expires(backend, control)
        assert long in writers(await held(backend, key))

    async def test_mark_drops_what_has_expired(self, backend: Backend) -> None:
        key, control = new_keys(2)
        dead, living, new = new_token(), new_token(), new_token()
        await backend.mark([key], living, MINUTE)
        await backend.mark([key, control], dead, SHORT)
        await self.expires(backend, control)
        await backend.mark([key], new, MINUTE)
        assert list(writers(await held(backend, key))) == [living, new]

    # Entries that a mark replaced, and that a clear may store again as stale

    @pytest.mark.parametrize("state", [b"V", b"N", b"S"])
    async def test_mark_returns_what_is_to_be_kept(self, backend: Backend, state: bytes) -> None:
        allowed, not_allowed = keys = new_keys(2)
        values = [state + new_value(EVERY_BYTE)[1:] for _ in keys]
        for key, value in zip(keys, values, strict=True):
            await put(backend, key, value)
        kept = await backend.mark(keys, new_token(), MINUTE, {allowed: 5_000})
        assert {key: entry for key, (entry, _) in kept.items()} == {allowed: values[0]}
        again = await backend.mark([not_allowed], new_token(), MINUTE, {not_allowed: 5_000})
        assert again == {}, "an intent must not be kept"

    async def test_mark_keeps_no_lease_and_nothing_foreign(self, backend: Backend) -> None:
        _absent, leased, foreign, version = keys = new_keys(4)
        await backend.lease([Lease(leased)], new_token(), MINUTE, [version])
        await put(backend, foreign, b"junk")
        assert await backend.mark(keys, new_token(), MINUTE, dict.fromkeys(keys, 5_000)) == {}

    async def test_what_is_kept_ends_by_the_clock_of_the_store(self, backend: Backend) -> None:
        """A kept entry ends when the allowed time is over, but no later than it would have ended without the mark."""
        long, short = keys = new_keys(2)
        await put(backend, long, new_value(), 20_000)
        await put(backend, short, new_value(), 2_000)
        token = new_token()
        kept = await backend.mark(keys, token, 30_000, dict.fromkeys(keys, 10_000))
        expiry = writers(await held(backend, long))[token]
        assert 18_000 <= expiry - kept[long].until_ms <= 20_001
        assert 28_000 <= expiry - kept[short].until_ms <= 30_001

    async def test_a_hint_until_a_moment(self, backend: Backend) -> None:
        """A stale entry that is replaced and stored again and again does not live longer for that."""
        key, token = new_key(), new_token()
        await put(backend, key, new_value(), MINUTE)
        first = await backend.mark([key], token, MINUTE, {key: 5_000})
        stale, until_ms = b"S" + new_value()[1:], first[key].until_ms
        assert await backend.clear([Clear(key, stale, until_ms=until_ms)], token) == [True]
        assert await held(backend, key) == stale
        again = await backend.mark([key], token, MINUTE, {key: MINUTE})
        assert again == {key: ReplacedEntry(stale, again[key].until_ms)}
        assert until_ms - 1_000 < again[key].until_ms <= until_ms + 1

    async def test_a_hint_until_a_moment_that_has_come(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await put(backend, key, new_value(), MINUTE)
        [kept] = (await backend.mark([key], token, MINUTE, {key: SHORT})).values()
        await self.advance(SHORT / 1000)
        assert await backend.clear([Clear(key, kept.entry, until_ms=kept.until_ms)], token) == [True]
        assert await held(backend, key) is None

    async def test_a_hint_until_a_moment_expires(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await put(backend, key, new_value(), MINUTE)
        [kept] = (await backend.mark([key], token, MINUTE, {key: SHORT})).values()
        await backend.clear([Clear(key, kept.entry, until_ms=kept.until_ms)], token)
        await self.expires(backend, key)

    @pytest.mark.parametrize("state", [b"V", b"N", b"S"])
    async def test_fill_in_place_of_an_entry(self, backend: Backend, state: bytes) -> None:
        key, entry, value = new_key(), state + new_value()[1:], new_value()
        await put(backend, key, entry)
        for other in (new_value()[:17], b"L" + entry[1:17], entry[:16] + bytes([entry[16] ^ 1])):
            assert await backend.fill([Fill(key, other, value, MINUTE)]) == [False]
        assert await backend.fill([Fill(key, entry[:17], value, MINUTE)]) == [True]
        assert await backend.fill([Fill(key, entry[:17], b"", MINUTE)]) == [False]
        assert await held(backend, key) == value

    async def test_an_entry_that_a_writer_replaced_is_not_filled(self, backend: Backend, other: Backend) -> None:
        key, entry, writer = new_key(), new_value(), new_token()
        await put(backend, key, entry)
        kept = await other.mark([key], writer, MINUTE, {key: MINUTE})
        assert await backend.fill([Fill(key, entry[:17], new_value(), MINUTE)]) == [False]
        stale = b"S" + new_value()[1:]
        await other.clear([Clear(key, stale, until_ms=kept[key].until_ms)], writer)
        assert await backend.fill([Fill(key, entry[:17], new_value(), MINUTE)]) == [False]
        assert await held(backend, key) == stale

    # Clearing

    async def test_clear_leaves_nothing(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], token, MINUTE)
        assert await backend.clear([Clear(key)], token) == [True]
        assert await held(backend, key) is None

    async def test_clear_leaves_the_hint(self, backend: Backend) -> None:
        key, token, hint = new_key(), new_token(), new_value()
        await backend.mark([key], token, MINUTE)
        assert await backend.clear([Clear(key, hint, MINUTE)], token) == [True]
        assert await held(backend, key) == hint

    async def test_a_hint_expires(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], token, MINUTE)
        await backend.clear([Clear(key, new_value(), SHORT)], token)
        await self.expires(backend, key)

    async def test_a_hint_without_time_to_live_stays(self, backend: Backend) -> None:
        key, control, token, hint = *new_keys(2), new_token(), new_value()
        await backend.mark([key], token, MINUTE)
        await backend.clear([Clear(key, hint, 0)], token)
        await backend.mark([control], token, SHORT)
        await self.expires(backend, control)
        assert await held(backend, key) == hint

    async def test_clear_leaves_the_marks_of_others(self, backend: Backend, other: Backend) -> None:
        key, mine, theirs, hint = new_key(), new_token(), new_token(), new_value()
        await other.mark([key], theirs, MINUTE)
        before = await held(backend, key)
        await backend.mark([key], mine, MINUTE)
        assert await backend.clear([Clear(key, hint, MINUTE)], mine) == [True]
        assert await held(backend, key) == before
        assert await other.clear([Clear(key, hint, MINUTE)], theirs) == [True]
        assert await held(backend, key) == hint

    async def test_clear_without_a_mark_of_ones_own(self, backend: Backend) -> None:
        key, theirs = new_key(), new_token()
        await backend.mark([key], theirs, MINUTE)
        before = await held(backend, key)
        assert await backend.clear([Clear(key, new_value(), MINUTE)], new_token()) == [False]
        assert await held(backend, key) == before

    async def test_clear_of_a_lost_mark_deletes_what_is_there(self, backend: Backend) -> None:
        leased, filled, _absent = keys = new_keys(3)
        await backend.lease([Lease(leased)], new_token(), MINUTE)
        await put(backend, filled, new_value())
        clears = [Clear(key, new_value(), MINUTE) for key in keys]
        assert await backend.clear(clears, new_token()) == [False, False, False]
        assert await backend.read(keys) == [None, None, None]

    async def test_clear_of_an_expired_mark_deletes_what_was_filled_since(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], token, SHORT)
        await self.expires(backend, key)
        await put(backend, key, new_value(b"read before the commit"))
        assert await backend.clear([Clear(key)], token) == [False]
        assert await held(backend, key) is None

    async def test_clear_drops_what_has_expired(self, backend: Backend) -> None:
        key, control = new_keys(2)
        dead, token, hint = new_token(), new_token(), new_value()
        await backend.mark([key], token, MINUTE)
        await backend.mark([key, control], dead, SHORT)
        await self.expires(backend, control)
        assert await backend.clear([Clear(key, hint, MINUTE)], token) == [True]
        assert await held(backend, key) == hint

    async def test_clear_of_an_expired_mark_among_living(self, backend: Backend) -> None:
        key, control = new_keys(2)
        dead, living = new_token(), new_token()
        await backend.mark([key], living, MINUTE)
        await backend.mark([key, control], dead, SHORT)
        await self.expires(backend, control)
        assert await backend.clear([Clear(key, new_value(), MINUTE)], dead) == [True]
        assert list(writers(await held(backend, key))) == [living]

    async def test_clear_shortens_the_life_of_the_key(self, backend: Backend) -> None:
        key, long, short = new_key(), new_token(), new_token()
        await backend.mark([key], long, MINUTE)
        await backend.mark([key], short, SHORT)
        await backend.clear([Clear(key)], long)
        await self.expires(backend, key)

    async def test_clear_twice_in_a_batch(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], token, MINUTE)
        # The second clear finds no intent, so it deletes the hint that the first one stored.
        assert await backend.clear([Clear(key, new_value(), MINUTE)] * 2, token) == [True, False]
        assert await held(backend, key) is None

    async def test_clear_keeps_the_order(self, backend: Backend) -> None:
        marked, unmarked, also_marked = new_keys(3)
        token = new_token()
        await backend.mark([marked, also_marked], token, MINUTE)
        clears = [Clear(marked), Clear(unmarked), Clear(also_marked)]
        assert await backend.clear(clears, token) == [True, False, True]

    # Stamps

    async def test_stamps_are_changed(self, backend: Backend, other: Backend) -> None:
        stamps, token = new_keys(2), new_token()
        before = (await backend.lease([], new_token(), MINUTE, stamps)).versions
        assert await other.clear([], token, stamps) == []
        after = (await backend.lease([], new_token(), MINUTE, stamps)).versions
        assert all(map(is_version, after))
        assert len({*before, *after}) == 4

    async def test_stamps_are_created(self, backend: Backend) -> None:
        stamp = new_key()
        await backend.clear([], new_token(), [stamp, stamp])
        assert is_version(await held(backend, stamp))

    async def test_stamps_are_changed_though_the_mark_was_lost(self, backend: Backend) -> None:
        stamp = new_key()
        await backend.clear([], new_token(), [stamp])
        before = await held(backend, stamp)
        assert await backend.clear([Clear(new_key())], new_token(), [stamp]) == [False]
        assert await held(backend, stamp) != before

    async def test_stamps_are_changed_before_clearing(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], token, MINUTE)
        # The stamp replaces the intent, so the clear does not find the intent.
        assert await backend.clear([Clear(key)], token, [key]) == [False]
        assert await held(backend, key) is None

    # Deleting

    async def test_delete_counts_what_was_there(self, backend: Backend) -> None:
        filled, leased, marked, version, _absent = keys = new_keys(5)
        await put(backend, filled, new_value())
        await backend.lease([Lease(leased)], new_token(), MINUTE, [version])
        await backend.mark([marked], new_token(), MINUTE)
        assert await backend.delete(keys) == 4
        assert await backend.read(keys) == [None] * 5
        assert await backend.delete(keys) == 0

    async def test_delete_the_same_key_twice_in_a_batch(self, backend: Backend) -> None:
        key = new_key()
        await put(backend, key, new_value())
        assert await backend.delete([key, key]) == 1

    async def test_delete_does_not_count_what_has_expired(self, backend: Backend) -> None:
        key, control = new_keys(2)
        await put(backend, key, new_value(), SHORT)
        await put(backend, control, new_value(), SHORT)
        await self.expires(backend, control)
        await self.becomes(backend, key, None)
        assert await backend.delete([key]) == 0

    # Bytes of all kinds

    async def test_values_are_binary(self, backend: Backend) -> None:
        filled, hinted = new_keys(2)
        value, token = new_value(EVERY_BYTE), new_token()
        await put(backend, filled, value)
        await backend.mark([hinted], token, MINUTE)
        await backend.clear([Clear(hinted, value, MINUTE)], token)
        assert await backend.read([filled, hinted]) == [value, value]

    async def test_keys_are_binary(self, backend: Backend) -> None:
        start, value = new_key(), new_value()
        keys = [start + EVERY_BYTE, start + b"\x00", start + b"\r\n", start + b" ", start + b"\xff\xfe{}"]
        await put(backend, keys[0], value)
        assert await backend.read([*keys, start]) == [value, None, None, None, None, None]
        for key in keys[1:]:
            await put(backend, key, value)
        assert await backend.read([*keys, start]) == [value] * 5 + [None]
        assert await backend.delete(keys) == 5

    @pytest.mark.parametrize(
        "token",
        [bytes(16), b"\xff" * 16, b"W" * 16, b"1234567890123456", b"\r\n" * 8, b"%s%d" * 4],
        ids=["zeros", "ones", "states", "digits", "lines", "formats"],
    )
    async def test_tokens_are_binary(self, backend: Backend, token: bytes) -> None:
        key, theirs, value = new_key(), new_token(), b"V" + token
        assert (await backend.lease([Lease(key)], token, MINUTE)).values == [b"L" + token]
        assert await backend.fill([Fill(key, b"L" + token, value, MINUTE)]) == [True]
        assert (await backend.lease([Lease(key, value)], token, MINUTE)).values == [b"L" + token]
        await backend.mark([key], theirs, MINUTE)
        await backend.mark([key], token, MINUTE)
        assert list(writers(await held(backend, key))) == [theirs, token]
        assert await backend.clear([Clear(key)], theirs) == [True]
        assert list(writers(await held(backend, key))) == [token]
        assert await backend.clear([Clear(key)], token) == [True]

    async def test_a_large_value(self, backend: Backend) -> None:
        key, value = new_key(), new_value(EVERY_BYTE * 8_000)
        await put(backend, key, value)
        assert await held(backend, key) == value

    # Many keys, many clients

    async def test_ten_thousand_keys(self, backend: Backend) -> None:
        keys, token = new_keys(self.many), new_token()
        values = [b"V" + token + b"%d" % number for number in range(len(keys))]
        leased = await backend.lease([Lease(key) for key in keys], token, MINUTE)
        assert leased.values == [b"L" + token] * len(keys)
        fills = [Fill(key, b"L" + token, value, MINUTE) for key, value in zip(keys, values, strict=True)]
        assert all(await backend.fill(fills))
        assert await backend.read(keys) == values
        taken = await backend.lease([Lease(key, b"V" + token) for key in keys], token, MINUTE)
        assert taken.values == leased.values
        await backend.mark(keys, token, MINUTE)
        hints = [Clear(key, value, MINUTE) for key, value in zip(keys, values, strict=True)]
        assert all(await backend.clear(hints, token))
        assert await backend.read(keys) == values
        versions = new_keys(self.many)
        assert all(map(is_version, (await backend.lease([], token, MINUTE, versions)).versions))
        await backend.clear([], token, versions)
        assert await backend.delete([*keys, *versions]) == 2 * self.many

    async def test_one_lease_wins(self, backend: Backend, other: Backend) -> None:
        keys, tokens = new_keys(300), [new_token(), new_token()]

        async def lease(client: Backend, token: bytes, order: Sequence[bytes]) -> dict[bytes, bytes | None]:
            values = (await client.lease([Lease(key) for key in order], token, MINUTE)).values
            return dict(zip(order, values, strict=True))

        answers = await asyncio.gather(lease(backend, tokens[0], keys), lease(other, tokens[1], keys[::-1]))
        assert answers[0] == answers[1]
        assert set(answers[0].values()) <= {b"L" + token for token in tokens}
        assert await backend.read(keys) == list(answers[0].values())

    async def test_one_replacing_lease_wins(self, backend: Backend, other: Backend) -> None:
        keys, stale, token = new_keys(100), new_value(), new_token()
        await backend.lease([Lease(key) for key in keys], token, MINUTE)
        await backend.fill([Fill(key, b"L" + token, stale, MINUTE) for key in keys])
        leases, tokens = [Lease(key, stale[:17]) for key in keys], [new_token(), new_token()]
        first, second = await asyncio.gather(
            backend.lease(leases, tokens[0], MINUTE), other.lease(leases, tokens[1], MINUTE)
        )
        mine, theirs = (b"L" + token for token in tokens)
        # The first client got its own lease, and the second one read that lease.
        assert first.values == second.values == await backend.read(keys)
        assert set(first.values) <= {mine, theirs}

    async def test_racing_fills(self, backend: Backend, other: Backend) -> None:
        keys, token = new_keys(200), new_token()
        await backend.lease([Lease(key) for key in keys], token, MINUTE)
        values = [new_value(), new_value()]
        first, second = await asyncio.gather(
            backend.fill([Fill(key, b"L" + token, values[0], MINUTE) for key in keys]),
            other.fill([Fill(key, b"L" + token, values[1], MINUTE) for key in keys]),
        )
        assert [a + b for a, b in zip(first, second, strict=True)] == [1] * len(keys)
        assert await backend.read(keys) == [values[0] if won else values[1] for won in first]

    async def test_racing_writers(self, backend: Backend, other: Backend) -> None:
        keys, mine, theirs = new_keys(200), new_token(), new_token()
        await asyncio.gather(backend.mark(keys, mine, MINUTE), other.mark(keys, theirs, MINUTE))
        for value in await backend.read(keys):
            assert writers(value).keys() == {mine, theirs}
        third = new_token()
        found, _ = await asyncio.gather(
            backend.clear([Clear(key) for key in keys], mine), other.mark(keys, third, MINUTE)
        )
        assert all(found)
        for value in await backend.read(keys):
            assert writers(value).keys() == {theirs, third}

    async def test_many_calls_at_once(self, backend: Backend) -> None:
        keys = new_keys(200)

        async def live(key: bytes) -> None:
            token, writer, value = new_token(), new_token(), new_value()
            await backend.lease([Lease(key)], token, MINUTE)
            assert await backend.fill([Fill(key, b"L" + token, value, MINUTE)]) == [True]
            assert await held(backend, key) == value
            await backend.mark([key], writer, MINUTE)
            assert await backend.clear([Clear(key)], writer) == [True]
            assert await held(backend, key) is None

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(live(key))
