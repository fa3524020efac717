"""The tests that a backend that stores rows without leases must pass besides those of ``conformance``.

::

    class TestMyBackend(LateFillConformance):
        async def make_backend(self) -> Backend:
            ...
"""

from typing import Any, cast

from aiomodelcache.backends.protocol import Backend, Fill, LateFill, Lease, SupportsLateFills
from aiomodelcache.testing.conformance import (
    MINUTE,
    SHORT,
    BackendConformance,
    held,
    new_key,
    new_keys,
    new_token,
    new_value,
    put,
)


def late_filling(backend: Backend) -> SupportsLateFills:
    """Returns the backend, for its operations of late fills."""
    return cast("SupportsLateFills", backend)


class LateReader:
    """A reader that has leased the entry of an index, and knows the stamp and the time before its statement."""

    def __init__(self, index: bytes, stamp: bytes, token: bytes, expected: bytes, now_ms: int) -> None:
        self.index = index
        self.stamp = stamp
        self.token = token
        self.expected = expected
        self.now_ms = now_ms

    @classmethod
    async def leasing(cls, backend: Backend, stamp: bytes | None = None) -> "LateReader":
        """Returns a reader that has just leased an entry."""
        index, stamp, token = new_key(), stamp or new_key(), new_token()
        leased, now_ms = await late_filling(backend).lease_timed([Lease(index)], token, MINUTE, [stamp])
        assert leased.values == [b"L" + token]
        return cls(index, stamp, token, cast("bytes", leased.versions[0]), now_ms)

    def row(self, key: bytes, **changed: Any) -> LateFill:
        """Returns the request to store a row, within a minute of the lease."""
        row = LateFill(key, b"", new_value(), MINUTE, self.stamp, self.expected, self.now_ms + MINUTE)
        return row._replace(**changed)

    def pointer(self) -> Fill:
        """Returns the fill of the leased entry."""
        return Fill(self.index, b"L" + self.token, new_value(), MINUTE)

    async def store(self, backend: Backend, *late: LateFill) -> list[bytes | None]:
        """Stores rows without any fill."""
        _, held_by_keys = await late_filling(backend).fill_late([], late)
        return held_by_keys


class LateFillConformance(BackendConformance):
    """Base class of a backend's tests, if it has the operations of ``SupportsLateFills``."""

    async def test_a_timed_lease_is_a_lease(self, backend: Backend, other: Backend) -> None:
        first, second, stamp = new_keys(3)
        value, token = new_value(), new_token()
        await put(backend, second, value)
        leased, now_ms = await late_filling(backend).lease_timed([Lease(first), Lease(second)], token, MINUTE, [stamp])
        again = await other.lease([Lease(first)], new_token(), MINUTE, [stamp])
        assert leased.values == [b"L" + token, value]
        assert again.values == [b"L" + token]
        assert leased.versions == again.versions
        await self.advance(SHORT / 1000)
        _, later_ms = await late_filling(other).lease_timed([], token, MINUTE, [])
        assert now_ms + SHORT <= later_ms < now_ms + MINUTE

    async def test_rows_and_fills_are_stored_together(self, backend: Backend, other: Backend) -> None:
        reader, keys = await LateReader.leasing(backend), new_keys(250)
        pointer, rows = reader.pointer(), [reader.row(key) for key in keys]
        refused = Fill(new_key(), b"L" + reader.token, new_value(), MINUTE)
        stored = await late_filling(backend).fill_late([pointer, refused], rows)
        assert stored == ([True, False], [None] * 250)
        assert await other.read([reader.index, *keys]) == [pointer.value, *[row.value for row in rows]]

    async def test_rows_of_several_models_compare_their_own_stamps(self, backend: Backend, other: Backend) -> None:
        one, two = await LateReader.leasing(backend), await LateReader.leasing(backend)
        await other.clear([], new_token(), [two.stamp])
        keys = new_keys(4)
        rows = [reader.row(key) for reader, key in zip((one, two, one, two), keys, strict=True)]
        assert await one.store(backend, *rows) == [None, b"", None, b""]
        assert await other.read(keys) == [rows[0].value, None, rows[2].value, None]

    async def test_a_row_is_not_stored_if_its_stamp_has_changed_or_is_gone(self, backend: Backend) -> None:
        for change in ("changed", "marked", "gone"):
            reader, key = await LateReader.leasing(backend), new_key()
            if change == "changed":
                await backend.clear([], new_token(), [reader.stamp])
            elif change == "marked":
                await backend.mark([reader.stamp], new_token(), MINUTE)
            else:
                await backend.delete([reader.stamp])
            assert await reader.store(backend, reader.row(key)) == [b""]
            assert await held(backend, key) is None

    async def test_a_row_is_not_stored_after_its_time(self, backend: Backend) -> None:
        reader, key = await LateReader.leasing(backend), new_key()
        await self.advance(SHORT / 1000)
        assert await reader.store(backend, reader.row(key, until_ms=reader.now_ms + SHORT // 2)) == [b""]
        assert await held(backend, key) is None

    async def test_a_row_replaces_nothing_that_it_was_not_to_replace(self, backend: Backend) -> None:
        reader, (valued, leased, marked) = await LateReader.leasing(backend), new_keys(3)
        value, token = new_value(), new_token()
        await put(backend, valued, value)
        await backend.lease([Lease(leased)], token, MINUTE)
        await backend.mark([marked], token, MINUTE)
        intents = await held(backend, marked)
        rows = [reader.row(key) for key in (valued, leased, marked)]
        assert await reader.store(backend, *rows) == [value, b"L" + token, intents]
        assert await backend.read([valued, leased, marked]) == [value, b"L" + token, intents]

    async def test_a_row_replaces_what_it_was_to_replace(self, backend: Backend) -> None:
        reader, (same, other, absent) = await LateReader.leasing(backend), new_keys(3)
        old, newer = new_value(), new_value()
        await put(backend, same, old)
        await put(backend, other, newer)
        rows = [reader.row(key, replacing=old[:17]) for key in (same, other, absent)]
        assert await reader.store(backend, *rows) == [None, newer, b""]
        assert await backend.read([same, other, absent]) == [rows[0].value, newer, None]

    async def test_a_row_that_was_stored_late_expires(self, backend: Backend) -> None:
        reader, key = await LateReader.leasing(backend), new_key()
        assert await reader.store(backend, reader.row(key, ttl_ms=SHORT)) == [None]
        await self.expires(backend, key)

    async def test_one_of_two_rows_of_one_key_is_stored(self, backend: Backend) -> None:
        reader, key = await LateReader.leasing(backend), new_key()
        first, second = reader.row(key), reader.row(key)
        assert await reader.store(backend, first, second) == [None, first.value]
        assert await held(backend, key) == first.value
