"""The load that lookups are to the nodes of a Cluster, and the node that is saturated first.

A process sends what it looks up in one tick as one request to each node concerned. A lookup reads an entry and the
epoch of its model. Today an epoch is one key, so the node that holds it has a part in every tick that looks up that
model. With partitions there is a copy of the epoch beside each entry.
"""

from dataclasses import dataclass

from benchmarks.fleet.costs import COSTS, Costs, Fleet
from benchmarks.fleet.popularity import shares, zipf


@dataclass(frozen=True, slots=True)
class Load:
    """Seconds of CPU that nodes need in each second. A node with 1 is saturated."""

    mean: float
    epoch_node: float
    """The node with the epoch of the most popular model."""
    hot_row_node: float
    """The node with the most popular row, if epochs were no limit."""


def touched(nodes: int, keys: float) -> float:
    """Returns on how many nodes that many keys are, on average."""
    return nodes * (1 - (1 - 1 / nodes) ** keys)


def load(fleet: Fleet, nodes: int, batch: int, costs: Costs = COSTS) -> Load:
    """Returns the load of lookups that come ``batch`` at a time, each of an independent model and row."""
    ticks = fleet.lookups / batch
    if nodes == 1:
        alone = ticks * costs.request + fleet.lookups * 2 * costs.key
        return Load(alone, alone, alone)
    by_model = shares(fleet.models)
    epochs = sum(1 - (1 - share) ** batch for share in by_model)
    requests = touched(nodes, batch + epochs)
    mean = ticks * (requests * costs.request + (batch + epochs) * costs.get) / nodes
    first = 1 - (1 - by_model[0]) ** batch
    asked = first + (1 - first) * requests / nodes
    epoch_node = ticks * (asked * costs.request + (first + (batch + epochs - first) / nodes) * costs.get)
    hot = 1 - (1 - zipf(fleet.entries)[0].each) ** batch
    apart = partitioned(fleet, nodes, batch, costs)
    return Load(mean, epoch_node, apart + ticks * hot * costs.request * (1 - touched(nodes, batch) / nodes))


def partitioned(fleet: Fleet, nodes: int, batch: int, costs: Costs = COSTS) -> float:
    """Returns the mean load of the nodes if each epoch were beside its entries."""
    ticks = fleet.lookups / batch
    return (ticks * touched(nodes, batch) * costs.request + fleet.lookups * (costs.get + costs.key)) / nodes


def saturation(share: float, batch: int, costs: Costs = COSTS) -> float:
    """Returns the lookups per second at which the epoch of a model with this share saturates its node."""
    asked = 1 - (1 - share) ** batch
    return batch / (asked * (costs.request + costs.get))


def slow_answers(nodes: int, batch: int, slow: float) -> float:
    """Returns how many ticks wait for a slow reply if each node is slow for this share of its requests."""
    return 1 - (1 - slow) ** touched(nodes, batch)
