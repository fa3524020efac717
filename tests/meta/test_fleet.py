"""The fleet on paper: its formulas agree with each other, and ``docs/scale.md`` shows what they say."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from redis.crc import key_slot

from benchmarks.fleet import balance, cluster, cold, measure, near, nodes, report, writes
from benchmarks.fleet.costs import COSTS, FLEET
from benchmarks.fleet.popularity import harmonic, shares, zipf
from tests.support.servers import RedisServer

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text("utf-8")
SMALL = replace(FLEET, processes=20, lookups=20_000.0, entries=200_000)


@pytest.mark.slow(because="draws the nodes of 20,000 rows for each line of a table")
@pytest.mark.parametrize("title", report.SECTIONS)
def test_the_page_has_the_tables(title: str) -> None:
    assert report.SECTIONS[title]() in PAGE, "run python -m benchmarks.fleet, and copy the table"


@pytest.mark.parametrize("count", [1, 2, 1_000, 50_000_000])
@pytest.mark.parametrize("classes", [120, 600])
def test_the_classes_of_ranks_are_all_keys_and_all_lookups(count: int, classes: int) -> None:
    found = zipf(count, classes)
    assert sum(each.count for each in found) == count
    assert sum(each.share for each in found) == pytest.approx(1)
    assert found[0].each == pytest.approx(1 / harmonic(count))
    assert all(more.each > less.each for more, less in pairwise(found))
    if count <= 1_000:
        assert sum(shares(count)) == pytest.approx(1)


@pytest.mark.parametrize("batch", [1, 10, 100])
def test_the_node_of_the_epoch_has_more_than_the_mean_and_is_saturated_as_calculated(batch: int) -> None:
    for count in report.NODES[1:]:
        load = nodes.load(FLEET, count, batch)
        assert load.epoch_node >= load.mean * 0.999
        assert load.hot_row_node >= nodes.partitioned(FLEET, count, batch)
    for models in (1, 100):
        at_limit = replace(FLEET, models=models, lookups=nodes.saturation(shares(models)[0], batch))
        assert nodes.load(at_limit, 1_000_000, batch).epoch_node == pytest.approx(1, rel=0.01)


def test_one_node_needs_one_request_for_each_tick() -> None:
    load = nodes.load(replace(FLEET, lookups=1_000.0), 1, 10)
    assert load.mean == pytest.approx(100 * COSTS.request + 2_000 * COSTS.key)
    assert nodes.touched(1, 5) == 1
    assert nodes.touched(1_000_000, 5) == pytest.approx(5, rel=1e-4)
    assert nodes.slow_answers(1, 100, 0.01) == pytest.approx(0.01)


def test_every_slot_has_a_tag_and_256_partitions_are_balanced() -> None:
    assert [key_slot(b"{%b}:r:1" % tag) for tag in balance.tags()] == list(range(balance.SLOTS))
    for size in report.NODES[1:]:
        assert 1 <= balance.memory(balance.even_slots(256, 77), size) <= 1.2
        assert balance.memory(balance.even_slots(1, 77), size) == size
    assert len(set(balance.even_slots(256, 5))) == 256
    assert balance.traffic(None, 100, 1_000_000) > 3 > balance.traffic(None, 100, 1_000_000, near=100) >= 1


def test_a_near_cache_is_full_at_its_characteristic_time() -> None:
    rate = FLEET.lookups / FLEET.processes
    held = near.characteristic_time(FLEET, 10_000, rate)
    assert sum(each.count * -math.expm1(-rate * each.each * held) for each in zipf(FLEET.entries)) == pytest.approx(
        10_000
    )
    by_size = [near.near_share(FLEET, megabytes, 360) for megabytes in (1, 16, 256)]
    assert by_size == sorted(by_size)
    assert 0 < by_size[0] < by_size[-1] < 1


def test_rows_that_are_written_are_read_from_the_database() -> None:
    assert writes.marked(100, 0.003) == pytest.approx(0.259, abs=0.001)
    assert writes.to_database(FLEET, top=10) < writes.to_database(FLEET) < FLEET.lookups
    assert writes.misses_after_writes(FLEET) <= FLEET.lookups * FLEET.write_share
    assert writes.misses_by_timeout(FLEET, 60) > writes.misses_by_timeout(FLEET, 3_600)
    assert writes.deploy_misses(FLEET, 0.0, 1.0, 0.003) == 0
    assert writes.deploy_misses(FLEET, 0.5, 1.0, 0.003) > writes.deploy_misses(FLEET, 0.1, 1.0, 0.003)


def test_a_cold_cache_becomes_warm_only_if_slow_statements_count() -> None:
    capacity = 2_000.0
    stuck = cold.hit_shares(SMALL, capacity, lease=5.0, seconds=120)
    warm = cold.hit_shares(SMALL, capacity, lease=60.0, seconds=120)
    limited = cold.hit_shares(SMALL, capacity, lease=60.0, limit=0.9 * capacity, seconds=120)
    assert stuck[-1][1] == pytest.approx(stuck[-60][1], abs=0.001)
    assert stuck[-1][1] < 0.75
    assert warm[-1][1] > 0.85
    assert limited[-1][1] > warm[-1][1]
    assert all(0 <= share <= 1 for line in (stuck, warm, limited) for _, share in line)


@pytest.mark.slow(because="starts a server and a Cluster, and measures them")
def test_the_costs_can_be_measured(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("REQUESTS", 300), ("ROUNDS", 2), ("HITS", 20)):
        monkeypatch.setattr(measure, name, value)
    costs = measure.measured()
    assert 0 < costs.key < costs.request
    assert costs.script > 0
    assert measure.shown(costs).startswith("request ")
    alone, on_a_cluster = measure.lone_hits()
    assert min(alone, on_a_cluster) > 0
    assert measure.memory_of_an_entry() > len(measure.VALUE)


@pytest.mark.slow(because="starts a server and a Cluster, and measures them")
def test_the_budgets_of_a_cluster_are_judged(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    code = cluster.main(["--rounds", "1", "--case", "by pk"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == len([case for case in cluster.CASES if "by pk" in case.name])
    assert all(line.endswith((" met |", " EXCEEDED |")) for line in lines)
    assert code == any(line.endswith(" EXCEEDED |") for line in lines)
    assert "1 <= 1" in lines[0]
