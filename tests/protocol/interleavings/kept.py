"""Saves that change nothing, and keep the entries if the database agrees (``keep_unchanged``)."""

from typing import Any

from tortoise.transactions import in_transaction

from tests.protocol.interleavings.database import CONNECTION
from tests.protocol.interleavings.models import KeptArtist
from tests.protocol.interleavings.questions import EVERYTHING, LookUp, World, columns_of
from tests.protocol.interleavings.roles import (
    BY_ID,
    BY_NAME,
    BY_RANK,
    A,
    Scenario,
    both,
    delete,
    far,
    first,
    near,
    save,
    transaction,
)
from tests.protocol.interleavings.stage import Stage

KEPT = World((KeptArtist,), EVERYTHING)


def loaded(stage: Stage) -> Any:
    """Returns an instance that was loaded at the beginning, and not changed since."""
    [row] = stage.history[0][0]
    artist = stage.model(**dict(zip(columns_of(stage.model), row, strict=True)))
    artist._saved_in_db = True
    return artist


async def save_as_loaded(stage: Stage) -> None:
    began, [row] = stage.now(), stage.history[0][0]
    await loaded(stage).save()
    found = [each for (rows,) in stage.history[began:] for each in rows]
    assert row in found or not found, f"an acknowledged save is lost: {row} was never there, but {found}"


async def save_as_loaded_in_transaction(stage: Stage) -> None:
    began, [row] = stage.now(), stage.history[0][0]
    async with in_transaction(CONNECTION):
        await loaded(stage).save()
    found = [each for (rows,) in stage.history[began:] for each in rows]
    assert row in found, f"an acknowledged save is lost: {row} was never there, but {found}"


SCENARIOS: dict[str, Scenario] = {
    "kept, by id": Scenario(
        A, {"reader": near(BY_ID, BY_ID), "one": save_as_loaded, "two": save(followers=1)}, both, world=KEPT
    ),
    "kept, by id elsewhere": Scenario(
        A, {"reader": far(BY_ID), "one": first(save(followers=1), save_as_loaded), "two": save(followers=2)}, world=KEPT
    ),
    "kept, by name": Scenario(
        A,
        {"reader": near(BY_NAME, LookUp("name", "b")), "one": save_as_loaded, "two": save(name="b")},
        both,
        world=KEPT,
    ),
    "kept, by rank": Scenario(
        A, {"reader": far(BY_RANK), "one": save_as_loaded, "two": transaction(rank=2)}, both, world=KEPT
    ),
    "kept, two of them": Scenario(
        A, {"reader": far(BY_ID), "one": save_as_loaded, "two": first(save(followers=1), save_as_loaded)}, world=KEPT
    ),
    "kept, and deleted": Scenario(
        A, {"reader": far(BY_NAME, BY_ID), "one": save_as_loaded, "two": delete}, both, world=KEPT
    ),
    "kept, in a transaction": Scenario(
        A,
        {"reader": near(BY_ID), "one": save_as_loaded_in_transaction, "two": save(followers=1)},
        both,
        world=KEPT,
    ),
}
