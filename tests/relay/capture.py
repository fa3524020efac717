"""The ways in which a relay learns of writes, for the tests that are about any of them."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable, captured_tables
from aiomodelcache.relay.source import Change, Source, StreamSource, TriggerSource
from aiomodelcache.relay.stream.identity import identities
from aiomodelcache.relay.stream.publication import PUBLICATION
from aiomodelcache.relay.stream.slot import drop_slot, slot_name, slot_state
from aiomodelcache.relay.triggers.installation import install

SLOT_LIMIT = 1024**3


class TriggerCapture:
    """Triggers."""

    settings: ClassVar[dict[str, Any]] = {}
    """The settings of a cache whose relay reads this."""

    async def install(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> None:
        """Installs what captures the writes of these tables."""
        await install(client, tables)

    def source(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> Source:
        """Returns a source that sees all that is committed by now."""
        return TriggerSource(client, tables)

    async def install_for(self, client: BaseDBAsyncClient, cache: ModelCache) -> None:
        """Installs what captures the writes of a cache's tables on one connection."""
        await self.install(client, captured_tables(cache.open_cache)[client.connection_name])


class StreamCapture(TriggerCapture):
    """Logical decoding, of tables whose old rows are known."""

    settings: ClassVar[dict[str, Any]] = {"relay_source": "pgoutput"}

    async def install(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> None:
        for identity in await identities(client, tables):
            if identity.effect != "each row":
                await client.execute_script(f"ALTER TABLE {identity.place} REPLICA IDENTITY FULL")
        await install(client, tables, PUBLICATION)
        await self.source(client, tables).check()  # creates the slot

    def source(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> Source:
        return CompleteSource(client, tables, SLOT_LIMIT)


class CompleteSource(StreamSource):
    """A source that waits until all has arrived that is committed by now, as a relay does before it claims to live."""

    async def changes(self, limit: int, *, whole: bool = False) -> list[Change]:
        with suppress(RelayError):
            await self.check()
        is_marked = False
        with suppress(RelayError):  # of a source that does not own the slot
            await self.begin()
            is_marked = True
        while True:
            found = await super().changes(limit, whole=whole)
            if not self.left_out or len(found) >= limit or (found and not is_marked):
                return found


async def drop_slots(client: BaseDBAsyncClient) -> None:
    """Drops the slot of a test's database, which would keep the WAL."""
    any_client: Any = client
    await drop_slot(any_client, await slot_state(any_client, await slot_name(any_client)))
