"""Everybody who takes part, each doing the same work in the way of its own documentation."""

from contextlib import suppress

from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.own import Near, Own
from benchmarks.contestants.peer_by_hand import ByHand
from benchmarks.contestants.raw import RawRedis
from benchmarks.contestants.tortoise_alone import TortoiseAlone

ALL: list[type[Contestant]] = [Own, Near, RawRedis, TortoiseAlone, ByHand]
"""In the order of the tables; without those whose library is not installed."""
PEERS_ON_REDIS: list[type[Contestant]] = [ByHand]
"""Those who do the same work: what they answer comes from Redis each time."""

with suppress(ModuleNotFoundError):
    from benchmarks.contestants.peer_aiocache import AiocacheRedis

    ALL.append(AiocacheRedis)
    PEERS_ON_REDIS.append(AiocacheRedis)

with suppress(ModuleNotFoundError):
    from benchmarks.contestants.peer_cashews import CashewsClientSide, CashewsMemory, CashewsRedis

    ALL += [CashewsRedis, CashewsClientSide, CashewsMemory]
    PEERS_ON_REDIS.append(CashewsRedis)

__all__ = ["ALL", "PEERS_ON_REDIS", "Contestant", "Near", "Own", "RawRedis", "TortoiseAlone"]
