"""Scenarios that depend on time: replicas that lag, entries near their end, and statements longer than a lease."""

from tests.protocol.interleavings.models import Artist
from tests.protocol.interleavings.questions import EVERYTHING, LookUp, World
from tests.protocol.interleavings.roles import (
    BY_ID,
    BY_NAME,
    BY_RANK,
    NONE,
    TWO,
    A,
    Role,
    Scenario,
    both,
    clear_model,
    crash_after_commit,
    create,
    delete,
    far,
    first,
    near,
    save,
    seconds,
    transaction,
    update_where,
)
from tests.protocol.interleavings.stage import Stage
from tests.protocol.interleavings.values import RANKED, SLIDING, SLIDING_VALUES, fans_of_rank, invalidate, size
from tests.protocol.interleavings.values_models import FollowersSliding

LAG = 2.0
REPLICATED = World((Artist,), EVERYTHING, settings={"replica_lag": LAG, "lease_ttl": 10.0})
LIMITED = World((Artist,), EVERYTHING, settings={"load_limit": 1})
OLD = 3_300
"""The age of an entry in seconds that is refilled by a hit. Entries live for 3,600 seconds."""
OLD_ABSENCE = 56


def beside_a_slow_statement(writer: Role) -> Role:
    """Returns a role that writes while a reader's statement outlasts its lease, which is extended meanwhile."""
    return first(seconds(1.1), writer, seconds(1.1, 1.1))


async def replicate(stage: Stage) -> None:
    """Brings the replica up to date before its lag ends."""

    async def arrive() -> None:
        stage.replicate()

    await stage.scheduler.step("the replica catches up", arrive)


SCENARIOS: dict[str, Scenario] = {
    # Replicas.
    "replica": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": first(save(followers=1), seconds(3))}, world=REPLICATED
    ),
    "replica, warm": Scenario(
        A,
        {"reader": far(BY_ID, BY_ID), "writer": save(followers=1), "time": seconds(1, 2)},
        both,
        world=REPLICATED,
    ),
    "replica, sooner or later": Scenario(
        A,
        {"reader": near(BY_ID, BY_NAME), "writer": first(save(followers=1), replicate, save(followers=2), seconds(3))},
        world=REPLICATED,
    ),
    "replica, deleted and created": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": first(delete, create(), seconds(3))}, both, world=REPLICATED
    ),
    "replica, created over an absence": Scenario(
        NONE, {"reader": far(BY_ID, BY_NAME), "writer": first(create(), seconds(3))}, both, world=REPLICATED
    ),
    "replica, transaction": Scenario(
        A, {"reader": far(BY_ID), "writer": first(transaction(name="b"), seconds(3))}, both, world=REPLICATED
    ),
    "replica, past the limit": Scenario(
        TWO, {"reader": far(BY_ID, BY_ID), "writer": first(update_where(followers=1), seconds(3))}, world=REPLICATED
    ),
    "replica, by name": Scenario(
        A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": first(save(name="b"), seconds(3))}, world=REPLICATED
    ),
    # Slow statements.
    "slow, by id": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": beside_a_slow_statement(save(followers=1))}, may_leave="L"
    ),
    "slow, by id in the same process": Scenario(
        A,
        {"one": near(BY_ID), "two": near(BY_ID), "writer": beside_a_slow_statement(save(followers=1))},
        may_leave="L",
    ),
    "slow, by name": Scenario(
        A, {"reader": far(BY_NAME, BY_ID), "writer": beside_a_slow_statement(save(followers=1))}, may_leave="L"
    ),
    "slow, by rank": Scenario(
        A, {"reader": far(BY_RANK), "writer": beside_a_slow_statement(save(rank=2))}, may_leave="L"
    ),
    "slow, an absence": Scenario(
        NONE, {"reader": far(BY_NAME, BY_ID), "writer": beside_a_slow_statement(create())}, may_leave="L"
    ),
    "slow, past the limit": Scenario(
        TWO, {"reader": far(BY_ID), "writer": beside_a_slow_statement(update_where(followers=1))}, may_leave="L"
    ),
    "slow, near its end": Scenario(
        A,
        {"reader": far(BY_ID, BY_ID), "writer": beside_a_slow_statement(save(followers=1))},
        both,
        may_leave="L",
        age=OLD,
    ),
    "slow, and a writer that crashed": Scenario(
        A, {"reader": near(BY_NAME), "writer": crash_after_commit(slow=27, then=7, followers=1)}, may_leave="LW"
    ),
    # Statements that wait for each other, under leases that were taken before.
    "limited, by id and name": Scenario(
        A,
        {"one": near(BY_ID), "two": near(BY_NAME), "writer": save(followers=1)},
        world=LIMITED,
    ),
    "limited, by name and rank": Scenario(
        TWO,
        {"one": far(BY_NAME), "two": far(BY_RANK), "writer": save(name="c", rank=2)},
        world=LIMITED,
    ),
    "limited, and slow": Scenario(
        A,
        {"one": far(BY_NAME), "two": far(BY_RANK, BY_ID), "writer": beside_a_slow_statement(save(followers=1))},
        world=LIMITED,
        may_leave="L",
    ),
    # Near the end of the lifetime.
    "near its end": Scenario(A, {"reader": far(BY_ID, BY_ID), "writer": save(followers=1)}, both, age=OLD),
    "near its end, by name": Scenario(
        A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}, both, age=OLD
    ),
    "near its end, by rank": Scenario(A, {"reader": near(BY_RANK), "one": save(rank=2)}, both, age=OLD),
    "near its end, for two": Scenario(
        A, {"one": near(BY_ID), "two": far(BY_ID), "writer": save(followers=1)}, both, age=OLD
    ),
    "near its end, and deleted": Scenario(
        A, {"reader": far(BY_ID, BY_NAME), "writer": first(delete, create())}, both, age=OLD
    ),
    "near its end, and cleared": Scenario(
        A, {"reader": far(BY_ID), "writer": first(save(followers=1), clear_model)}, both, age=OLD
    ),
    "near its end, past the limit": Scenario(
        TWO, {"reader": far(BY_ID), "writer": update_where(followers=1)}, both, age=OLD
    ),
    "near its end, an absence": Scenario(
        NONE, {"reader": far(BY_ID, BY_NAME), "writer": create()}, both, age=OLD_ABSENCE
    ),
    "near its end, a sliding value": Scenario(
        A,
        {"reader": far(SLIDING, SLIDING), "writer": first(save(followers=1), invalidate(FollowersSliding))},
        both,
        world=SLIDING_VALUES,
        age=OLD,
    ),
    "near its end, a sliding value for two": Scenario(
        A,
        {
            "one": near(SLIDING),
            "two": far(SLIDING),
            "writer": first(save(followers=1), invalidate(FollowersSliding), near(SLIDING)),
        },
        both,
        world=SLIDING_VALUES,
        age=OLD,
    ),
    "near its end, counted": Scenario(
        A, {"reader": far(size(1), fans_of_rank(1)), "writer": save(rank=2)}, both, world=RANKED, age=OLD
    ),
}
