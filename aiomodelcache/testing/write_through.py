"""The tests that a backend for write-through must pass besides those of ``conformance``.

::

    class TestMyBackend(WriteThroughConformance):
        async def make_backend(self) -> Backend:
            ...
"""

from typing import Any, cast

import pytest

from aiomodelcache.backends.protocol import Backend, Clear, Fill, Lease, Marked, Save, SupportsWriteThrough
from aiomodelcache.testing.conformance import (
    MINUTE,
    SHORT,
    BackendConformance,
    held,
    is_version,
    new_key,
    new_keys,
    new_token,
    new_value,
    writers,
)


def saving(backend: Backend) -> SupportsWriteThrough:
    """Returns the backend, for its operations of write-through."""
    return cast("SupportsWriteThrough", backend)


class Saver:
    """A writer that has marked a row and read its stamp."""

    def __init__(self, key: bytes, stamp: bytes, token: bytes, marked: Marked) -> None:
        self.key = key
        self.stamp = stamp
        self.token = token
        self.marked = marked
        [self.expected] = cast("list[bytes]", marked.versions)
        self.value = new_value()

    @classmethod
    async def marking(cls, backend: Backend, key: bytes, stamp: bytes, token: bytes | None = None) -> "Saver":
        """Returns a writer that has just marked the key."""
        token = token or new_token()
        return cls(key, stamp, token, await saving(backend).mark_for_save([key], token, MINUTE, {}, [stamp]))

    def save(self, **changed: Any) -> Save:
        """Returns the request to store the row, within a minute of the mark."""
        until_ms = self.marked.marked_ms[self.key] + MINUTE
        return Save(self.key, self.value, MINUTE, until_ms, self.stamp, self.expected)._replace(**changed)

    async def finish(self, backend: Backend, **changed: Any) -> bool:
        """Ends the write. Returns True if the row was stored."""
        [stored] = await saving(backend).clear_and_save([self.save(**changed)], [], self.token, [self.stamp])
        return stored


class WriteThroughConformance(BackendConformance):
    """Base class of a backend's tests, if it has the operations of ``SupportsWriteThrough``."""

    async def test_a_row_is_stored_in_place_of_the_only_intent(self, backend: Backend, other: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        assert await saver.finish(backend)
        assert await held(other, saver.key) == saver.value

    async def test_marking_for_a_save_marks(self, backend: Backend, other: Backend) -> None:
        key, second, stamp = new_keys(3)
        token, value = new_token(), new_value()
        lease = new_token()
        await backend.lease([Lease(second)], lease, MINUTE)
        await backend.fill([Fill(second, b"L" + lease, value, MINUTE)])
        marked = await saving(backend).mark_for_save([key, second], token, MINUTE, {second: MINUTE}, [stamp])
        assert marked.replaced[second].entry == value
        assert marked.replaced.keys() == {second}
        for marked_key in (key, second):
            assert writers(await held(other, marked_key)) == {token: marked.marked_ms[marked_key] + MINUTE}

    async def test_marking_for_a_save_reads_and_creates_versions(self, backend: Backend, other: Backend) -> None:
        key, stamp, epoch = new_keys(3)
        token = new_token()
        first = (await saving(backend).mark_for_save([key], token, MINUTE, {}, [stamp])).versions
        again = (await saving(other).mark_for_save([key], token, MINUTE, {}, [epoch, stamp, key])).versions
        assert is_version(first[0])
        assert again[1] == first[0]
        assert is_version(again[0])
        assert again[2] == await held(backend, key), "the versions are not read after the marks"

    async def test_a_saved_row_expires(self, backend: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        await saver.finish(backend, ttl_ms=SHORT)
        await self.advance(2 * SHORT / 1000)
        assert await held(backend, saver.key) is None

    async def test_a_save_changes_the_stamp(self, backend: Backend, other: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        await saver.finish(backend)
        stamp = await held(other, saver.stamp)
        assert is_version(stamp)
        assert stamp != saver.expected

    async def test_a_save_changes_further_stamps_and_clears_further_keys(self, backend: Backend) -> None:
        key, stamp, second, hinted, index = new_keys(5)
        saver = await Saver.marking(backend, key, stamp)
        await backend.mark([index, hinted], saver.token, MINUTE)
        clears = [Clear(index), Clear(hinted, b"hint", MINUTE)]
        assert await saving(backend).clear_and_save([saver.save()], clears, saver.token, [stamp, second]) == [True]
        assert await held(backend, index) is None
        assert await held(backend, hinted) == b"hint"
        assert is_version(await held(backend, second))

    async def test_a_save_beside_the_intent_of_another_writer(self, backend: Backend, other: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        another = new_token()
        await other.mark([saver.key], another, MINUTE)
        assert not await saver.finish(backend)
        assert writers(await held(other, saver.key)).keys() == {another}

    async def test_a_save_beside_an_expired_intent(self, backend: Backend, other: Backend) -> None:
        key, stamp = new_keys(2)
        await other.mark([key], new_token(), SHORT)
        saver = await Saver.marking(backend, key, stamp)
        await self.advance(2 * SHORT / 1000)
        assert await saver.finish(backend)

    async def test_a_save_after_another_writer_has_come_and_gone(self, backend: Backend, other: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        another = new_token()
        await other.mark([saver.key], another, MINUTE)
        await other.clear([Clear(saver.key)], another, [saver.stamp])
        stamp = await held(backend, saver.stamp)
        assert not await saver.finish(backend)
        assert await held(backend, saver.key) is None
        assert await held(backend, saver.stamp) not in (stamp, saver.expected), "the stamp is not fresh"

    async def test_a_save_whose_stamp_was_lost(self, backend: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        await backend.delete([saver.stamp])
        assert not await saver.finish(backend)
        assert await held(backend, saver.key) is None
        assert is_version(await held(backend, saver.stamp))

    async def test_a_save_whose_intent_was_lost(self, backend: Backend, other: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        await backend.delete([saver.key])
        token = new_token()
        await other.lease([Lease(saver.key)], token, MINUTE)
        assert not await saver.finish(backend)
        assert await held(backend, saver.key) is None, "a reader's lease may be older than the write"

    async def test_a_save_past_its_time(self, backend: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        assert not await saver.finish(backend, until_ms=saver.marked.marked_ms[saver.key])
        assert await held(backend, saver.key) is None

    async def test_a_save_twice(self, backend: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        assert await saver.finish(backend)
        assert not await saver.finish(backend)
        assert await held(backend, saver.key) is None

    async def test_a_save_after_a_mark_of_the_same_writer_on_another_key(self, backend: Backend) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        later = await Saver.marking(backend, new_key(), saver.stamp, saver.token)
        assert later.expected == saver.expected
        saves = [saver.save(), later.save()]
        assert await saving(backend).clear_and_save(saves, [], saver.token, [saver.stamp]) == [True, True]
        assert [await held(backend, save.key) for save in saves] == [saver.value, later.value]

    async def test_saves_of_two_models(self, backend: Backend, other: Backend) -> None:
        first = await Saver.marking(backend, new_key(), new_key())
        second = await Saver.marking(backend, new_key(), new_key(), first.token)
        await other.clear([], new_token(), [second.stamp])
        saves = [first.save(), second.save()]
        assert await saving(backend).clear_and_save(saves, [], first.token, [first.stamp, second.stamp]) == [
            True,
            False,
        ]
        assert await held(backend, first.key) == first.value
        assert await held(backend, second.key) is None

    async def test_many_saves(self, backend: Backend) -> None:
        keys, stamp, token = new_keys(self.many // 10), new_key(), new_token()
        marked = await saving(backend).mark_for_save(keys, token, MINUTE, {}, [stamp])
        savers = [Saver(key, stamp, token, marked) for key in keys]
        stored = await saving(backend).clear_and_save([saver.save() for saver in savers], [], token, [stamp])
        assert stored == [True] * len(keys)
        assert await backend.read(keys) == [saver.value for saver in savers]

    async def test_nothing_to_save(self, backend: Backend) -> None:
        key, token = new_key(), new_token()
        await backend.mark([key], token, MINUTE)
        assert await saving(backend).clear_and_save([], [Clear(key)], token, []) == []
        assert await held(backend, key) is None
        assert await saving(backend).mark_for_save([], token, MINUTE) == ({}, {}, [])

    @pytest.mark.parametrize("late", [False, True], ids=["before the end of the write", "after the end of the write"])
    async def test_another_writer_is_never_overwritten(self, backend: Backend, other: Backend, late: bool) -> None:
        saver = await Saver.marking(backend, new_key(), new_key())
        another = new_token()
        if not late:
            await other.mark([saver.key], another, MINUTE)
        await saver.finish(backend)
        if late:
            await other.mark([saver.key], another, MINUTE)
        assert writers(await held(backend, saver.key)).keys() == {another}
