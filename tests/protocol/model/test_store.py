"""The model's store behaves as a backend: random operations on both have the same results."""

import random
from hashlib import md5
from typing import Any

import pytest

from aiomodelcache import MemoryBackend
from aiomodelcache.backends import protocol
from tests.protocol.model import world as model
from tests.protocol.model.engine import Operation
from tests.protocol.model.world import EPOCH, KEYS, ROW, Entry, Intents, Lease, Row, Version, World

pytestmark = pytest.mark.exhaustive(because="does the operations in any order")

OPERATIONS = 400


def token(of: Any) -> bytes:
    return md5(repr(of).encode(), usedforsecurity=False).digest()


def entry(cell: Entry | None) -> bytes:
    return b"V" + token(cell.token) + repr(cell.row).encode() if cell else b""


class Twins:
    """The model's store and a real backend, which get the same operations."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World((model.Commit(Row(0), 0),))
        self.backend = MemoryBackend(clock=lambda: 0.0)
        self.serial = 0

    def run(self, operation: Operation) -> Any:
        [(_, answer, self.world)] = operation(self.world)
        return answer

    async def step(self) -> None:
        key = KEYS[ROW].encode()
        cell = self.world.cells[ROW]
        self.serial += 1
        mine = (f"P{self.random.randrange(3)}", self.serial)
        known = self.random.choice([cell, Lease(("other", 0)), Entry(Row(0), ("other", 0)), None])
        value = self.random.choice([None, Entry(Row(self.serial), mine)])
        writer = f"W{self.random.randrange(3)}"
        match self.random.choice(["lease", "extend", "fill", "mark", "clear", "current"]):
            case "lease":
                replacing = known if isinstance(known, Entry) else None
                held = self.run(model.lease(ROW, mine, replacing))
                lease = protocol.Lease(key, entry(replacing)[:17])
                leased = await self.backend.lease([lease], token(mine), 1_000)
                assert (leased.values[0] == b"L" + token(mine)) == (held == Lease(mine))
            case "extend":
                own = known if isinstance(known, Lease) else Lease(("other", 0))
                stands = self.run(model.extend(ROW, own.token))
                extension = protocol.Fill(key, b"L" + token(own.token), b"L" + token(own.token), 1_000)
                assert await self.backend.fill([extension]) == [stands]
            case "fill":
                expected = known if isinstance(known, Lease | Entry) else Lease(("other", 0))
                done = self.run(model.fill(ROW, expected, value))
                expected_prefix = b"L" + token(expected.token) if isinstance(expected, Lease) else entry(expected)[:17]
                fill = protocol.Fill(key, expected_prefix, entry(value), 1_000)
                assert await self.backend.fill([fill]) == [done]
            case "mark":
                replaced = self.run(model.mark(ROW, writer))
                kept = await self.backend.mark([key], token(writer), 1_000, {key: 1_000})
                assert [replaced_entry.entry for replaced_entry in kept.values()] == (
                    [entry(replaced)] if replaced else []
                )
            case "clear":
                self.run(model.clear(ROW, writer, value))
                await self.backend.clear([protocol.Clear(key, entry(value), 1_000)], token(writer))
            case "current":
                created = self.world.cells[EPOCH] is None
                self.run(model.current(EPOCH))
                before = await self.backend.read([b"epoch"])
                leased = await self.backend.lease([], token(mine), 1_000, [b"epoch"])
                assert (leased.versions != before) == created

    async def compare(self) -> None:
        row, epoch = await self.backend.read([KEYS[ROW].encode(), b"epoch"])
        cell = self.world.cells[ROW]
        if isinstance(cell, Intents):
            assert row is not None
            assert row[:1] == b"W"
            assert {row[at : at + 16] for at in range(1, len(row), 29)} == set(map(token, cell.writers))
        elif isinstance(cell, Lease):
            assert row == b"L" + token(cell.token)
        else:
            assert (row or b"") == entry(cell if isinstance(cell, Entry) else None)
        assert (epoch is not None) == isinstance(self.world.cells[EPOCH], Version)


@pytest.mark.parametrize("seed", range(5))
async def test_the_store_of_the_model_behaves_as_a_backend(seed: int) -> None:
    twins = Twins(seed)
    for _ in range(OPERATIONS):
        await twins.step()
        await twins.compare()
