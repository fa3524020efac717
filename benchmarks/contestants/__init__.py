"""Contestants of the benchmarks. Each does the same work in the way that its own documentation shows."""

from contextlib import suppress

from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.own import Near, Own
from benchmarks.contestants.peer_by_hand import ByHand
from benchmarks.contestants.raw import RawRedis
from benchmarks.contestants.tortoise_alone import TortoiseAlone

ALL: list[type[Contestant]] = [Own, Near, RawRedis, TortoiseAlone, ByHand]
"""Contestants whose library is installed, in the order of the tables."""
PEERS_ON_REDIS: list[type[Contestant]] = [ByHand]
"""Peers that read from Redis at every lookup, as this library does."""

with suppress(ModuleNotFoundError):
    from benchmarks.contestants.peer_aiocache import AiocacheRedis

    ALL.append(AiocacheRedis)
    PEERS_ON_REDIS.append(AiocacheRedis)

with suppress(ModuleNotFoundError):
    from benchmarks.contestants.peer_cashews import CashewsClientSide, CashewsMemory, CashewsRedis

    ALL += [CashewsRedis, CashewsClientSide, CashewsMemory]
    PEERS_ON_REDIS.append(CashewsRedis)

__all__ = ["ALL", "PEERS_ON_REDIS", "ByHand", "Contestant", "Near", "Own", "RawRedis", "TortoiseAlone"]
