"""The tables of ``docs/scale.md``, as text."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from benchmarks.fleet import balance, near, nodes, writes
from benchmarks.fleet.costs import COSTS, ENTRY, FLEET
from benchmarks.fleet.popularity import shares

NODES = (1, 3, 10, 30, 100)
BATCHES = (1, 10, 100)
PARTITIONS = (1, 16, 64, 256)
FIRST_MODEL = shares(FLEET.models)[0]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table whose first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(
        f"| {' | '.join(line)} |".replace("| --- |", "|---|").replace(" ---: |", "---:|") for line in lines
    )


def one_node() -> str:
    """Lookups per second that one server carries, by how many of them share a request."""
    rows = []
    for batch in (1, 2, 5, 10, 30, 100):
        load = nodes.load(replace(FLEET, lookups=1.0), 1, batch).mean
        rows.append([str(batch), _rounded(1 / load), f"{load * 1e6:.1f} µs"])
    return table(["lookups in one request", "lookups/s of a server", "CPU of the server, each"], rows)


def clusters() -> str:
    """Loads of nodes, by how many there are."""
    rows = []
    for batch in BATCHES:
        for count in NODES:
            load = nodes.load(FLEET, count, batch)
            figures = [load.mean, load.epoch_node, nodes.partitioned(FLEET, count, batch), load.hot_row_node]
            if count == 1:
                figures = [load.mean] * 4
            rows.append([str(batch), str(count), *[_load(figure) for figure in figures]])
    head = [
        "lookups at a time",
        "nodes",
        "mean",
        "epoch's node",
        "mean, partitioned",
        "hottest row's node, partitioned",
    ]
    return table(head, rows)


def epoch_limits() -> str:
    """Lookups per second at which the node with the epoch of a model is saturated."""
    rows = [
        [str(batch), *[_rounded(nodes.saturation(share, batch)) for share in (1.0, FIRST_MODEL)]] for batch in BATCHES
    ]
    return table(["lookups at a time", "all of one model", f"{FIRST_MODEL:.0%} of one model"], rows)


def fan_out() -> str:
    """Nodes that one tick asks, and ticks that wait for a slow one."""
    rows = [
        [
            str(batch),
            *[f"{nodes.touched(count, batch):.1f}" for count in NODES[1:]],
            f"{nodes.slow_answers(10, batch, 0.01):.0%}",
            f"{nodes.slow_answers(100, batch, 0.01):.0%}",
        ]
        for batch in BATCHES
    ]
    asked = [f"of {count} nodes" for count in NODES[1:]]
    return table(["lookups at a time", *asked, "slow, of 10", "slow, of 100"], rows)


def hot_rows() -> str:
    """Reads of one row that go to the database, by how often it is written."""
    spans = (0.001, 0.003, 0.010)
    rows = [[f"{rate:,}", *[f"{writes.marked(rate, span):.1%}" for span in spans]] for rate in (1, 10, 100, 300, 1_000)]
    return table(["writes/s of the row", *[f"{span * 1e3:.0f} ms" for span in spans]], rows)


def misses() -> str:
    """Rows per second that the fleet reads from the database, by reason."""
    rows = [
        ["the writes themselves", _rounded(FLEET.lookups * FLEET.write_share)],
        ["reads while a row is marked", _rounded(writes.to_database(FLEET))],
        ["of these, of the ten most popular rows", _rounded(writes.to_database(FLEET, top=10))],
        ["the first read after a write", _rounded(writes.misses_after_writes(FLEET))],
        ["expired after `timeout=3600`", _rounded(writes.misses_by_timeout(FLEET, 3600))],
        *[
            [
                f"a deploy that changes the largest model, {new:.0%} of processes new",
                _rounded(writes.deploy_misses(FLEET, new, FIRST_MODEL, FLEET.intent)),
            ]
            for new in (0.02, 0.1, 0.5)
        ],
    ]
    return table(["reason", "rows/s"], rows)


def near_caches() -> str:
    """Shares of lookups that a process answers itself."""
    rows = []
    for megabytes in (16, 64, 256):
        found = [f"{near.near_share(FLEET, megabytes, lifetime):.0%}" for lifetime in (30.0, 360.0)]
        rows.append([f"{megabytes} MiB", *found])
    return table(["`near_memory_limit`", "`timeout=300`", "`timeout=3600`"], rows)


def balanced() -> str:
    """Returns the imbalance of the nodes by the number of partitions of a model."""
    rows = [
        ["no tags", *[_uneven(balance.traffic(None, count, FLEET.entries)) for count in NODES[1:]]],
        [
            "the same, the 100 hottest rows near",
            *[_uneven(balance.traffic(None, count, FLEET.entries, near=100)) for count in NODES[1:]],
        ],
    ]
    for count in PARTITIONS:
        for name, slots in (("even", balance.even_slots(count, 77)), ("named", balance.named_slots(count, "event"))):
            rows.append(
                [
                    f"{_partitions(count)}, {name}",
                    *[_uneven(balance.traffic(slots, size, FLEET.entries)) for size in NODES[1:]],
                ]
            )
    slots = balance.even_slots(PARTITIONS[-1], 77)
    rows.append(
        [
            f"{_partitions(PARTITIONS[-1])}, even, the 100 hottest rows near",
            *[_uneven(balance.traffic(slots, size, FLEET.entries, near=100)) for size in NODES[1:]],
        ]
    )
    return table(["slots", *[f"{count} nodes" for count in NODES[1:]]], rows)


def memory() -> str:
    """Memory of the rows, and how unevenly one model would fill the nodes."""
    rows = []
    for count in NODES[1:]:
        even = [_uneven(balance.memory(balance.even_slots(size, 77), count)) for size in PARTITIONS]
        rows.append([str(count), f"{FLEET.entries * ENTRY / count / 2**30:.1f} GiB", *even])
    return table(["nodes", "rows, each node", *map(_partitions, PARTITIONS)], rows)


SECTIONS = {
    "One node": one_node,
    "Nodes of a Cluster, load in seconds of CPU each second (1 is saturated)": clusters,
    "Epoch's node saturated at lookups/s": epoch_limits,
    "Fan-out": fan_out,
    "Reads of a written row that go to the database": hot_rows,
    "Rows read from the database": misses,
    "Near": near_caches,
    "Busiest node over the mean": balanced,
    "Memory, and the fullest node of one model over the mean": memory,
}


def report() -> str:
    """Returns all tables."""
    costs = f"Costs of a server: {COSTS}\nThe fleet: {FLEET}"
    return "\n\n".join([costs, *(f"{title}:\n\n{make()}" for title, make in SECTIONS.items())])


def _partitions(count: int) -> str:
    return f"{count} partition{'s' * (count > 1)}"


def _rounded(number: float) -> str:
    """Returns a number with two significant digits: nothing here is more exact."""
    return f"{float(f'{number:.1e}'):,.0f}"


def _load(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def _uneven(ratio: float) -> str:
    return f"{ratio:.2f}"
