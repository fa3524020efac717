"""Plans driven by hand: their requests, and the results that they make of the answers. No server, no event loop."""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from typing import Any, TypeVar

import pytest
from tortoise.context import TortoiseContext

from aiomodelcache import CacheConfig, MemoryBackend
from aiomodelcache.backends.protocol import Clear, Fill, Lease
from aiomodelcache.binding.binder import bind
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import (
    ABSENT,
    INTENT,
    LEASE,
    PREFIX_SIZE,
    VALUE,
    new_token,
    new_version,
    pack_entry,
    stale_copy,
)
from aiomodelcache.engine.loader import LoadedRow
from aiomodelcache.entries.decoded import Decoded
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.predictions import Prediction, Predictions
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import DecodedCounters, Stats
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.plans.indexes import index_hit, rows_at, rows_by_index
from aiomodelcache.plans.refresh import ELECTION_SUFFIX
from aiomodelcache.plans.requests import (
    AcquireLeases,
    Answer,
    Attempt,
    LeaseResult,
    Load,
    Plan,
    PlanRequest,
    Read,
    Spawn,
    StoreFills,
    Wait,
)
from aiomodelcache.plans.rows import row_by_pk, rows_by_pk
from tests.support.models.music import Artist
from tests.support.row_hits import hits_of

T = TypeVar("T")
EPOCH, STAMP, OTHER_EPOCH = new_version(), new_version(), new_version()
INTENTS = INTENT + b"w" * 16 + b"%013d" % 9_999_999_999_999
OTHERS_LEASE = LEASE + b"o" * 16


@pytest.fixture
async def bound() -> dict[Any, ModelEntries]:
    """The models as a cache sees them. Tortoise is initialised but never connects."""
    async with TortoiseContext() as context:
        await context.init(db_url="sqlite://:memory:", modules={"app": ["tests.support.models.music"]})
        return dict(bind(CacheConfig(), KeySpace(), Stats()).models)


@pytest.fixture
def artists(bound: dict[Any, ModelEntries]) -> ModelEntries:
    return bound[Artist]


@pytest.fixture
def rows(artists: ModelEntries) -> RowEntries:
    return artists.rows


@pytest.fixture
def by_name(artists: ModelEntries) -> IndexEntries:
    return index_of(artists.gets, "name")


@pytest.fixture
def by_rank(artists: ModelEntries) -> IndexEntries:
    return index_of(artists.filters, "rank")


@pytest.fixture
def predictions() -> Predictions:
    return Predictions(100)


@pytest.fixture(autouse=True)
def _decoded(rows: RowEntries) -> None:
    rows.decoded = Decoded(1 << 20, DecodedCounters())


def index_of(table: dict[frozenset[str], Any], *names: str) -> IndexEntries:
    index = table[frozenset(names)]
    assert isinstance(index, IndexEntries)
    return index


def artist(pk: int, name: str = "Can", rank: int | None = 1) -> dict[str, Any]:
    return {"id": pk, "name": name, "rank": rank, "followers": 0}


def value(rows: RowEntries, row: dict[str, Any], *, epoch: bytes = EPOCH) -> bytes:
    """Returns the entry of a row that another reader stored before."""
    return rows.entry(b"t" * 16, epoch, rows.schema.codec.encode(row))


def loaded(rows: RowEntries, row: dict[str, Any]) -> LoadedRow:
    return LoadedRow(rows.schema, rows.schema.instance(dict(row)))


def values_of(row: Any) -> dict[str, Any]:
    values = row if isinstance(row, dict) else vars(row)
    return {name: values[name] for name in ("id", "name", "rank", "followers")}


class Steps:
    """A plan in flight, one request at a time."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._plan = plan
        self.request: PlanRequest | None = None
        self.result: Any = None
        self._step(lambda: next(plan))

    def answer(self, answer: Any) -> "Steps":
        self._step(lambda: self._plan.send(answer))
        return self

    def fail(self, error: Exception) -> "Steps":
        self._step(lambda: self._plan.throw(error))
        return self

    def _step(self, step: Callable[[], PlanRequest]) -> None:
        try:
            self.request = step()
        except StopIteration as stop:
            self.request, self.result = None, stop.value

    def take(self, *values: bytes | None, versions: Sequence[bytes | None] = (EPOCH, STAMP)) -> Attempt:
        """Answers an ``AcquireLeases``. A value of None stands for a granted lease. Returns the attempt."""
        request = self.request
        assert isinstance(request, AcquireLeases)
        attempt = Attempt(new_token(), 99.0)
        held = [LEASE + attempt.token if each is None else each for each in values]
        self.answer(LeaseResult(attempt, held, list(versions[: len(request.versions)])))
        return attempt

    def take_late(self, *values: bytes | None, stamp: bytes | None = STAMP) -> Attempt:
        assert isinstance(self.request, AcquireLeases)
        assert self.request.deadline == 99.0
        return self.take(*values, versions=[stamp])


def stored(steps: Steps) -> list[tuple[Attempt, bytes, bytes, int]]:
    assert isinstance(steps.request, StoreFills)
    return steps.request.fills


class TestRowsByPrimaryKey:
    def test_a_hit_is_one_read(self, rows: RowEntries) -> None:
        for plan in (row_by_pk(rows, 7, rows.key(7)), rows_by_pk(rows, {rows.key(7): 7})):
            steps = Steps(plan)
            assert steps.request == Read([rows.epoch_of(b""), rows.key(7)])
            steps.answer([EPOCH, value(rows, artist(7))])
            assert steps.request is None
            found = list(steps.result.values()) if isinstance(steps.result, dict) else steps.result
            assert found == [artist(7)]
        assert (rows.counters.hits, rows.counters.misses) == (2, 0)

    def test_a_known_absence_is_a_hit(self, rows: RowEntries) -> None:
        absent = rows.entry(b"t" * 16, EPOCH, None)
        assert Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, absent]).result == []
        assert Steps(rows_by_pk(rows, {rows.key(7): 7})).answer([EPOCH, absent]).result == {}
        assert rows.counters.hits == 2

    def test_a_miss_is_leased_then_loaded_then_stored(self, rows: RowEntries) -> None:
        steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, None])
        assert steps.request == AcquireLeases([(rows.key(7), b"")], [rows.epoch_of(b"")])
        fresh = new_version()
        attempt = steps.take(None, versions=[fresh])
        assert steps.request == Load(rows, {rows.key(7): (7,)})
        steps.answer({rows.key(7): Answer([loaded(rows, artist(7))], True)})
        [(by, key, entry, lives)] = stored(steps)
        assert (by, key, entry) == (attempt, rows.key(7), entry)
        assert entry[:PREFIX_SIZE] == VALUE + attempt.token
        assert rows.read(entry, fresh) == artist(7), "stamped with the epoch that was read before the SQL"
        assert 3_240_000 <= lives <= 3_960_000
        steps.answer([True])
        assert [values_of(row) for row in steps.result] == [artist(7)]
        assert (rows.counters.misses, rows.counters.fills, rows.counters.refused) == (1, 1, 0)

    def test_an_absent_row_is_stored_as_absent_for_a_shorter_time(self, rows: RowEntries) -> None:
        steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, None])
        steps.take(None)
        steps.answer({rows.key(7): Answer([], True)})
        [(_, _, entry, lives)] = stored(steps)
        assert entry[:1] == ABSENT
        assert 54_000 <= lives <= 66_000
        assert steps.answer([False]).result == []
        assert rows.counters.refused == 1

    def test_an_unusable_entry_is_replaced(self, rows: RowEntries) -> None:
        good = value(rows, artist(7))
        for name, entry, epoch in (
            ("of another epoch", good, new_version()),
            ("of another program", good[:17] + b"x" * 8 + good[25:], EPOCH),
            ("undecodable", rows.entry(b"t" * 16, EPOCH, b"\xc1"), EPOCH),
            ("damaged", good[:-1] + b"?", EPOCH),
            ("cut off", good[:20], EPOCH),
            ("of another row", value(rows, artist(8)), EPOCH),
            ("foreign", b"hello", EPOCH),
        ):
            for plan in (row_by_pk(rows, 7, rows.key(7)), rows_by_pk(rows, {rows.key(7): 7})):
                steps = Steps(plan).answer([epoch, entry])
                assert steps.request == AcquireLeases([(rows.key(7), entry[:PREFIX_SIZE])], [rows.epoch_of(b"")]), name

    def test_another_readers_lease_is_waited_for(self, rows: RowEntries) -> None:
        for plan in (row_by_pk(rows, 7, rows.key(7)), rows_by_pk(rows, {rows.key(7): 7})):
            steps = Steps(plan).answer([EPOCH, OTHERS_LEASE])
            assert steps.request == AcquireLeases([(rows.key(7), b"")], [rows.epoch_of(b"")])
            steps.take(OTHERS_LEASE)
            assert steps.request == Wait([rows.key(7)], [OTHERS_LEASE])
            steps.answer(None)
            assert steps.request == Read([rows.epoch_of(b""), rows.key(7)])
            steps.answer([EPOCH, value(rows, artist(7))])
            assert steps.request is None
            assert steps.result

    def test_a_lease_that_lasts_too_long_is_not_waited_for_again(self, rows: RowEntries) -> None:
        steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, None])
        steps.take(OTHERS_LEASE)
        steps.answer(None).answer([EPOCH, OTHERS_LEASE])
        assert steps.request == Load(rows, {rows.key(7): (7,)})
        steps.answer({rows.key(7): Answer([loaded(rows, artist(7))], True)})
        assert steps.request is None, "nothing is filled"
        assert [values_of(row) for row in steps.result] == [artist(7)]

    def test_an_entry_filled_in_the_meantime_is_read_without_waiting(self, rows: RowEntries) -> None:
        steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, None])
        steps.take(value(rows, artist(7)))
        assert steps.request == Read([rows.epoch_of(b""), rows.key(7)])
        assert steps.answer([EPOCH, value(rows, artist(7))]).result == [artist(7)]

    def test_under_an_intent_the_database_answers_and_nothing_is_filled(self, rows: RowEntries) -> None:
        for held in (INTENTS, b""):  # b"": the key holds a value that is not a string, or the store refused
            steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, INTENTS])
            assert steps.request == AcquireLeases([(rows.key(7), b"")], [rows.epoch_of(b"")]), (
                "no lease may replace an intent"
            )
            steps.take(held)
            assert steps.request == Load(rows, {rows.key(7): (7,)})
            assert steps.answer({rows.key(7): Answer([], True)}).result == []

    def test_a_model_under_an_intent_is_not_filled(self, rows: RowEntries) -> None:
        for epoch in (INTENTS, None):
            steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([epoch, value(rows, artist(7))])
            assert isinstance(steps.request, AcquireLeases), "no entry is used without a valid epoch"
            attempt = steps.take(None, versions=[epoch])
            steps.answer({rows.key(7): Answer([loaded(rows, artist(7))], True)})
            assert [fill[:3] for fill in stored(steps)] == [(attempt, rows.key(7), b"")]

    def test_a_failed_load_releases_its_leases(self, rows: RowEntries) -> None:
        steps = Steps(rows_by_pk(rows, {rows.key(7): 7, rows.key(8): 8})).answer([EPOCH, None, None])
        attempt = steps.take(None, INTENTS)
        steps.fail(ZeroDivisionError())
        assert [fill[:3] for fill in stored(steps)] == [(attempt, rows.key(7), b"")]
        with pytest.raises(ZeroDivisionError):
            steps.answer([True])

    def test_a_row_found_by_a_loose_comparison_is_not_stored(self, rows: RowEntries) -> None:
        steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, None])
        steps.take(None)
        steps.answer({rows.key(7): Answer([loaded(rows, artist(7))], False)})
        assert [fill[2] for fill in stored(steps)] == [b""]
        assert rows.counters.unfillable == 1

    def test_a_row_that_cannot_be_encoded_or_is_partial_is_not_stored(
        self, rows: RowEntries, caplog: pytest.LogCaptureFixture
    ) -> None:
        unencodable, partial = loaded(rows, artist(7, name=object())), loaded(rows, artist(7))  # type: ignore[arg-type]
        partial.fillable = False
        for row in (unencodable, unencodable, partial):
            steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, None])
            steps.take(None)
            steps.answer({rows.key(7): Answer([row], True)})
            assert [fill[2] for fill in stored(steps)] == [b""]
        assert rows.counters.unfillable == 3
        assert len([record for record in caplog.records if "cannot be stored" in record.message]) == 1

    def test_many_rows_are_read_leased_and_loaded_together(self, rows: RowEntries) -> None:
        steps = Steps(rows_by_pk(rows, {rows.key(3): 3, rows.key(1): 1, rows.key(4): 4, rows.key(5): 5}))
        assert steps.request == Read([rows.epoch_of(b""), *map(rows.key, (3, 1, 4, 5))])
        steps.answer([EPOCH, None, value(rows, artist(1)), None, OTHERS_LEASE])
        assert isinstance(steps.request, AcquireLeases)
        assert [key for key, _ in steps.request.keys] == [rows.key(3), rows.key(4), rows.key(5)]
        steps.take(None, None, OTHERS_LEASE)
        assert steps.request == Load(rows, {rows.key(3): (3,), rows.key(4): (4,)})
        steps.answer({rows.key(3): Answer([loaded(rows, artist(3))], True), rows.key(4): Answer([], True)})
        steps.answer([True, True])
        assert steps.request == Wait([rows.key(5)], [OTHERS_LEASE])
        steps.answer(None).answer([EPOCH, value(rows, artist(5))])
        assert list(steps.result) == [rows.key(3), rows.key(1), rows.key(5)], "in the order asked"


class TestRowsByIndex:
    """``rows_at`` for one key and ``rows_by_index`` for many must agree."""

    @pytest.fixture(params=["rows_at", "rows_by_index"])
    def find(self, request: pytest.FixtureRequest, predictions: Predictions) -> Callable[[IndexEntries, Any], Steps]:
        def one(index: IndexEntries, *values: Any) -> Steps:
            return Steps(rows_at(index, values, index.key(values), predictions))

        def many(index: IndexEntries, *values: Any) -> Steps:
            def plan() -> Plan[Any]:
                key = index.key(values)
                found = yield from rows_by_index(index, {key: values}, predictions)
                return found[key]

            return Steps(plan())

        return one if request.param == "rows_at" else many

    def entry(self, index: IndexEntries, *pks: int, epoch: bytes = EPOCH) -> bytes:
        return index.entry(b"t" * 16, epoch, pks)

    def test_an_absent_entry_is_next_read_without_its_former_rows(
        self, rows: RowEntries, by_name: IndexEntries, predictions: Predictions, find: Any
    ) -> None:
        key = by_name.key(("Can",))
        predictions.learn(key, [7], rows)
        absent = by_name.entry(b"t" * 16, EPOCH, [])
        for read in ([rows.epoch_of(b""), key, rows.key(7)], [rows.epoch_of(b""), key]):
            steps = find(by_name, "Can")
            assert steps.request == Read(read)
            assert steps.answer([EPOCH, absent, *[None] * (len(read) - 2)]).result == []

    def test_a_first_hit_is_two_reads_and_the_next_is_one(
        self, rows: RowEntries, by_name: IndexEntries, find: Any
    ) -> None:
        key = by_name.key(("Can",))
        steps = find(by_name, "Can")
        assert steps.request == Read([rows.epoch_of(b""), key])
        steps.answer([EPOCH, self.entry(by_name, 7)])
        assert steps.request == Read([rows.epoch_of(b""), rows.key(7)])
        assert steps.answer([EPOCH, value(rows, artist(7))]).result == [artist(7)]
        steps = find(by_name, "Can")
        assert steps.request == Read([rows.epoch_of(b""), key, rows.key(7)])
        steps.answer([EPOCH, self.entry(by_name, 7), value(rows, artist(7))])
        assert (steps.request, steps.result) == (None, [artist(7)])
        assert (by_name.counters.hits, by_name.counters.misses, rows.counters.hits) == (2, 0, 2)

    def test_a_wrong_prediction_costs_a_round_trip_and_does_not_change_the_answer(
        self, rows: RowEntries, by_name: IndexEntries, predictions: Predictions, find: Any
    ) -> None:
        key = by_name.key(("Can",))
        predictions.learn(key, [8], rows)
        steps = find(by_name, "Can")
        steps.answer([EPOCH, self.entry(by_name, 7), value(rows, artist(8))])
        assert steps.request == Read([rows.epoch_of(b""), rows.key(7)])
        assert steps.answer([EPOCH, value(rows, artist(7))]).result == [artist(7)]
        assert predictions[key].pks == [7]
        predictions.learn(key, [8], rows)
        steps = find(by_name, "Can").answer([EPOCH, None, value(rows, artist(8))])
        assert isinstance(steps.request, AcquireLeases), "a predicted row is no answer without an index entry"

    def test_a_known_absence_and_an_empty_list_are_hits(
        self, rows: RowEntries, by_name: IndexEntries, by_rank: IndexEntries, find: Any
    ) -> None:
        for index, values in ((by_name, "Can"), (by_rank, 1)):
            steps = find(index, values).answer([EPOCH, self.entry(index)])
            assert (steps.request, steps.result, index.counters.hits) == (None, [], 1)
            steps = find(index, values).answer([new_version(), self.entry(index)])
            assert isinstance(steps.request, AcquireLeases), "both depend on the epoch"

    def test_a_list_keeps_the_order_of_its_entry(self, rows: RowEntries, by_rank: IndexEntries, find: Any) -> None:
        found = [artist(3, "C"), artist(1, "A"), artist(2, "B")]
        for read_apart in (True, False):
            steps = find(by_rank, 1)
            if read_apart:
                steps.answer([EPOCH, self.entry(by_rank, 3, 1, 2)])
                steps.answer([EPOCH, *[value(rows, row) for row in found]])
            else:
                steps.answer([EPOCH, self.entry(by_rank, 3, 1, 2), *[value(rows, row) for row in found]])
            assert steps.result == found

    def test_a_row_that_no_longer_matches_repairs_the_index(
        self, rows: RowEntries, by_name: IndexEntries, find: Any
    ) -> None:
        gone = rows.entry(b"t" * 16, EPOCH, None)
        for number, row in enumerate((value(rows, artist(7, "Faust")), gone), 1):
            entry = self.entry(by_name, 7)
            steps = find(by_name, "Can")
            steps.answer([EPOCH, entry, row] if number == 2 else [EPOCH, entry])
            if number == 1:
                steps.answer([EPOCH, row])
            assert steps.request == AcquireLeases(
                [(by_name.key(("Can",)), entry[:PREFIX_SIZE])],
                [rows.epoch_of(b""), rows.partitions.stamp_of(b"")],
                timed=True,
            )
            assert by_name.counters.repaired == number
            steps.take(None)
            assert steps.request == Load(by_name, {by_name.key(("Can",)): ("Can",)})
            steps.answer({by_name.key(("Can",)): Answer([], True, 99.0)})
            assert [fill[2][:1] for fill in stored(steps)] == [ABSENT]

    def test_missing_rows_of_an_index_entry_are_loaded_by_primary_key(
        self, rows: RowEntries, by_rank: IndexEntries, find: Any
    ) -> None:
        steps = find(by_rank, 1).answer([EPOCH, self.entry(by_rank, 1, 2, 3)])
        steps.answer([EPOCH, None, value(rows, artist(2)), OTHERS_LEASE])
        steps.take(None, OTHERS_LEASE)
        assert steps.request == Load(rows, {rows.key(1): (1,)})
        steps.answer({rows.key(1): Answer([loaded(rows, artist(1))], True, 99.0)})
        steps.answer([True])
        assert steps.request == Read([rows.epoch_of(b""), rows.key(3)]), (
            "rows that other readers fill are looked up again"
        )
        steps.answer([EPOCH, value(rows, artist(3))])
        assert [values_of(row) for row in steps.result] == [artist(1), artist(2), artist(3)]
        assert (by_rank.counters.hits, by_rank.counters.repaired) == (1, 0)

    def test_a_miss_stores_index_and_row_from_one_statement(
        self, rows: RowEntries, by_name: IndexEntries, predictions: Predictions, find: Any
    ) -> None:
        key = by_name.key(("Can",))
        steps = find(by_name, "Can").answer([EPOCH, None])
        versions = [rows.epoch_of(b""), rows.partitions.stamp_of(b"")]
        assert steps.request == AcquireLeases([(key, b"")], versions, timed=True)
        attempt = steps.take(None)
        steps.answer({by_name.key(("Can",)): Answer([loaded(rows, artist(7))], True, 99.0)})
        assert steps.request == AcquireLeases([(rows.key(7), b"")], [rows.partitions.stamp_of(b"")], 99.0)
        late = steps.take_late(None)
        row, pointer = stored(steps)
        assert (row[:2], pointer[:2]) == ((late, rows.key(7)), (attempt, key)), "each by its own token"
        assert rows.read(row[2], EPOCH) == artist(7)
        assert by_name.read(pointer[2], new_version()) == [7], "a hint, good in any epoch"
        assert [values_of(found) for found in steps.answer([True, True]).result] == [artist(7)]
        assert predictions[key].pks == [7]

    def test_a_changed_stamp_releases_late_leases(
        self, rows: RowEntries, by_name: IndexEntries, predictions: Predictions, find: Any
    ) -> None:
        for before, after in ((STAMP, new_version()), (STAMP, None), (None, STAMP), (None, None)):
            predictions.clear()
            steps = find(by_name, "Can").answer([EPOCH, None])
            attempt = steps.take(None, versions=[EPOCH, before])
            steps.answer({by_name.key(("Can",)): Answer([loaded(rows, artist(7))], True, 99.0)})
            late = steps.take_late(None, stamp=after)
            row, pointer = stored(steps)
            assert row[:3] == (late, rows.key(7), b"")
            assert (pointer[0], pointer[2][:1]) == (attempt, VALUE)
            steps.answer([True, True])
            assert steps.result

    def test_rows_leased_marked_or_filled_by_others_are_not_filled(
        self, rows: RowEntries, by_name: IndexEntries, predictions: Predictions, find: Any
    ) -> None:
        for held in (OTHERS_LEASE, INTENTS, b"", value(rows, artist(7))):
            predictions.clear()
            steps = find(by_name, "Can").answer([EPOCH, None])
            steps.take(None)
            steps.answer({by_name.key(("Can",)): Answer([loaded(rows, artist(7))], True, 99.0)})
            steps.take_late(held)
            assert [fill[1] for fill in stored(steps)] == [by_name.key(("Can",))]

    def test_an_outdated_row_is_leased_at_the_second_attempt(
        self, rows: RowEntries, by_rank: IndexEntries, find: Any
    ) -> None:
        outdated = value(rows, artist(7), epoch=new_version())
        steps = find(by_rank, 1).answer([EPOCH, None])
        steps.take(None)
        steps.answer({by_rank.key((1,)): Answer([loaded(rows, artist(n, f"{n}")) for n in (7, 8)], True, 99.0)})
        first = steps.take_late(outdated, None)
        assert steps.request == AcquireLeases(
            [(rows.key(7), outdated[:PREFIX_SIZE])], [rows.partitions.stamp_of(b"")], 99.0
        )
        second = steps.take_late(None, stamp=new_version())
        fills = {key: (attempt, entry[:1]) for attempt, key, entry, _ in stored(steps)}
        assert fills[rows.key(8)] == (first, VALUE)
        assert fills[rows.key(7)] == (second, b""), "the stamp has changed before the second try"

    def test_a_lease_on_the_index_is_waited_for(self, rows: RowEntries, by_name: IndexEntries, find: Any) -> None:
        key = by_name.key(("Can",))
        steps = find(by_name, "Can").answer([EPOCH, None])
        steps.take(OTHERS_LEASE)
        assert steps.request == Wait([key], [OTHERS_LEASE])
        steps.answer(None)
        assert steps.request == Read([rows.epoch_of(b""), key])
        steps.answer([EPOCH, OTHERS_LEASE])
        assert steps.request == Load(by_name, {by_name.key(("Can",)): ("Can",)})
        steps.answer({by_name.key(("Can",)): Answer([loaded(rows, artist(7))], True, 99.0)})
        assert steps.request is None, "neither index nor row is filled"
        assert [values_of(row) for row in steps.result] == [artist(7)]

    def test_under_intents_nothing_is_filled(self, rows: RowEntries, by_name: IndexEntries, find: Any) -> None:
        steps = find(by_name, "Can").answer([EPOCH, INTENTS])
        steps.take(INTENTS)
        steps.answer({by_name.key(("Can",)): Answer([loaded(rows, artist(7))], True, 99.0)})
        assert steps.request is None
        steps = find(by_name, "Can").answer([INTENTS, None])
        attempt = steps.take(None, versions=[INTENTS, STAMP])
        steps.answer({by_name.key(("Can",)): Answer([loaded(rows, artist(7))], True, 99.0)})
        assert [fill[:3] for fill in stored(steps)] == [(attempt, by_name.key(("Can",)), b"")]

    def test_a_failed_load_releases_the_lease(self, rows: RowEntries, by_name: IndexEntries, find: Any) -> None:
        steps = find(by_name, "Can").answer([EPOCH, None])
        attempt = steps.take(None)
        steps.fail(ZeroDivisionError())
        assert [fill[:3] for fill in stored(steps)] == [(attempt, by_name.key(("Can",)), b"")]
        with pytest.raises(ZeroDivisionError):
            steps.answer([True])

    def test_several_rows_of_a_unique_key_or_a_loose_match_are_not_stored_in_the_index(
        self, rows: RowEntries, by_name: IndexEntries, find: Any
    ) -> None:
        several = Answer([loaded(rows, artist(7)), loaded(rows, artist(8))], True, 99.0)
        loose = Answer([loaded(rows, artist(7, "CAN"))], False, 99.0)
        for number, answer in enumerate((several, loose), 1):
            steps = find(by_name, "Can").answer([EPOCH, None])
            attempt = steps.take(None)
            steps.answer({by_name.key(("Can",)): answer})
            steps.take_late(*[None] * len(answer.rows))
            *filled, pointer = stored(steps)
            assert len(filled) == len(answer.rows), "the rows themselves may be stored"
            assert pointer[:3] == (attempt, by_name.key(("Can",)), b"")
            assert by_name.counters.unfillable == number
            assert len(steps.answer([True] * (len(filled) + 1)).result) == len(filled)

    def test_a_lookup_of_null_in_a_unique_column_takes_no_lease(self, artists: ModelEntries, find: Any) -> None:
        """Several rows may have NULL in a unique column.

        The list of a column that is not unique is cached for NULL, too.
        """
        unique = index_of(artists.gets, "name")
        steps = find(unique, None).answer([EPOCH, None])
        assert steps.request == Load(unique, {unique.key((None,)): (None,)})
        steps.answer({unique.key((None,)): Answer([], True, 99.0)})
        assert (steps.request, unique.counters.unfillable) == (None, 1)
        assert isinstance(find(index_of(artists.filters, "rank"), None).answer([EPOCH, None]).request, AcquireLeases)

    def test_rows_read_in_the_first_round_are_checked_by_the_latest_epoch(
        self, rows: RowEntries, by_rank: IndexEntries, predictions: Predictions, find: Any
    ) -> None:
        predictions.learn(by_rank.key((1,)), [1], rows)
        steps = find(by_rank, 1).answer([EPOCH, self.entry(by_rank, 1, 2), value(rows, artist(1))])
        assert steps.request == Read([rows.epoch_of(b""), rows.key(2)])
        epoch = new_version()
        steps.answer([epoch, value(rows, artist(2), epoch=epoch)])
        assert isinstance(steps.request, AcquireLeases)
        assert [key for key, _ in steps.request.keys] == [rows.key(1)]


class TestManyIndexKeys:
    def test_many_keys_are_read_leased_loaded_and_stored_together(
        self, rows: RowEntries, by_name: IndexEntries, predictions: Predictions
    ) -> None:
        keys = {name: by_name.key((name,)) for name in "abcd"}
        predictions.learn(keys["a"], [1], rows)
        steps = Steps(rows_by_index(by_name, {key: (name,) for name, key in keys.items()}, predictions))
        assert steps.request == Read([rows.epoch_of(b""), *keys.values(), rows.key(1)])
        pointers = {name: by_name.entry(b"t" * 16, EPOCH, [pk]) for name, pk in (("a", 1), ("b", 2))}
        steps.answer([EPOCH, pointers["a"], pointers["b"], None, OTHERS_LEASE, value(rows, artist(1, "a"))])
        assert steps.request == Read([rows.epoch_of(b""), rows.key(2)])
        steps.answer([EPOCH, value(rows, artist(2, "b"))])
        steps.take(None, OTHERS_LEASE)
        assert steps.request == Load(by_name, {by_name.key(("c",)): ("c",)})
        steps.answer({by_name.key(("c",)): Answer([loaded(rows, artist(3, "c"))], True, 99.0)})
        steps.take_late(None)
        steps.answer([True, True])
        assert steps.request == Wait([keys["d"]], [OTHERS_LEASE])
        steps.answer(None).answer([EPOCH, by_name.entry(b"t" * 16, EPOCH, [])])
        names = {key: [values_of(row)["name"] for row in found] for key, found in steps.result.items()}
        assert names == {keys["a"]: ["a"], keys["b"]: ["b"], keys["c"]: ["c"], keys["d"]: []}


class TestRefresh:
    """A value that is about to expire, or is stale, is an answer, and is refreshed by another plan."""

    def _spawned(self, rows: RowEntries) -> tuple[bytes, Steps]:
        old = pack_entry(VALUE, b"t" * 16, rows.fingerprint + EPOCH[1:], 1, rows.schema.codec.encode(artist(7)))
        rows.lifetimes.due = (2).to_bytes(8)
        steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, old])
        spawn = steps.request
        assert isinstance(spawn, Spawn)
        assert (spawn.entry, spawn.counters) == (rows.key(7) + VALUE + b"t" * 16, rows.counters)
        assert steps.answer(None).result == [artist(7)]
        return old, Steps(spawn.plan)

    def test_a_refresh_replaces_the_very_entry_that_was_read(self, rows: RowEntries) -> None:
        old, steps = self._spawned(rows)
        assert steps.request == AcquireLeases([(rows.key(7) + ELECTION_SUFFIX, b"")], [rows.epoch_of(b"")])
        attempt = steps.take(None)
        assert steps.request == Load(rows, {rows.key(7): (7,)})
        steps.answer({rows.key(7): Answer([loaded(rows, artist(7, rank=2))], True, 99.0)})
        (by, key, entry, _), election = stored(steps)
        assert (by, key) == (attempt._replace(replaces=old[:PREFIX_SIZE]), rows.key(7))
        assert rows.read(entry, EPOCH) == artist(7, rank=2)
        assert entry[1:PREFIX_SIZE] == attempt.token
        assert election == (attempt, rows.key(7) + ELECTION_SUFFIX, b"", 1)
        assert steps.answer([True, True]).result is True
        assert (rows.counters.refreshed, rows.counters.refused) == (1, 0)

    def test_a_refresh_is_refused_if_the_key_holds_another_entry(self, rows: RowEntries) -> None:
        _, steps = self._spawned(rows)
        steps.take(None)
        steps.answer({rows.key(7): Answer([loaded(rows, artist(7))], True, 99.0)})
        assert steps.answer([False, True]).result is True
        assert (rows.counters.refreshed, rows.counters.refused) == (0, 1)

    def test_only_the_elected_reader_refreshes(self, rows: RowEntries) -> None:
        for held in (OTHERS_LEASE, b""):  # b"": the store refused
            _, steps = self._spawned(rows)
            steps.take(held)
            assert (steps.request, steps.result) == (None, False)

    def test_a_refresh_releases_the_election_if_the_database_fails(self, rows: RowEntries) -> None:
        _, steps = self._spawned(rows)
        attempt = steps.take(None)
        steps.fail(OSError("gone"))
        assert stored(steps) == [(attempt, rows.key(7) + ELECTION_SUFFIX, b"", 1)]
        with pytest.raises(OSError, match="gone"):
            steps.answer([True])

    def test_a_stale_copy_is_a_miss_where_it_is_not_allowed(self, rows: RowEntries) -> None:
        copy = stale_copy(value(rows, artist(7)))
        steps = Steps(row_by_pk(rows, 7, rows.key(7))).answer([EPOCH, copy])
        assert steps.request == AcquireLeases([(rows.key(7), copy[:PREFIX_SIZE])], [rows.epoch_of(b"")])
        assert (rows.counters.undecodable, rows.counters.mismatched) == (0, 0)


class TestPredictions:
    def test_the_least_recently_used_prediction_is_evicted(self, rows: RowEntries) -> None:
        predictions = Predictions(2)
        predictions.learn(b"a", [1, 2], rows)
        predictions.learn(b"b", [3], rows)
        prediction = predictions.predict(b"a")
        assert (prediction.pks, prediction.keys) == ([1, 2], [rows.key(1), rows.key(2)])
        predictions.learn(b"c", [], rows)
        assert list(predictions) == [b"a", b"c"]
        assert predictions.predict(b"b").pks == predictions.predict(b"b").keys == []
        predictions.learn(b"a", [2], rows)
        assert predictions.predict(b"a").keys == [rows.key(2)]

    def test_a_limit_of_zero_keeps_no_predictions(self, rows: RowEntries) -> None:
        predictions = Predictions(0)
        predictions.learn(b"a", [1], rows)
        assert predictions.predict(b"a").pks == []


# Every interleaving ----------------------------------------------------------------------------------


@dataclasses.dataclass
class World:
    """A store, a table, and readers and writers that alternate at every single operation."""

    artists: ModelEntries
    backend: MemoryBackend = dataclasses.field(default_factory=MemoryBackend)
    table: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    history: list[dict[int, dict[str, Any]]] = dataclasses.field(default_factory=list)
    predictions: Predictions = dataclasses.field(default_factory=lambda: Predictions(10))

    def __post_init__(self) -> None:
        self.rows = self.artists.rows
        self.indexes = {name: index_of(self.artists.gets, name) for name in ("name",)}
        self.indexes["rank"] = index_of(self.artists.filters, "rank")
        self.commit({7: artist(7)})

    def commit(self, table: dict[int, dict[str, Any]]) -> None:
        self.table = table
        self.history.append(table)

    def plan(self, kind: str, asked: Any) -> Plan[list[Any]]:
        if kind == "pk":
            return row_by_pk(self.rows, asked, self.rows.key(asked))
        index = self.indexes[kind]
        return rows_at(index, (asked,), index.key((asked,)), self.predictions)

    @staticmethod
    def expected(kind: str, asked: Any, table: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        name = "id" if kind == "pk" else kind
        return [row for _, row in sorted(table.items()) if row[name] == asked]

    def reader(self, kind: str, asked: Any) -> Generator[None, None, None]:
        """Reads, one operation a turn, and checks that the answer was right at some time during the read."""
        plan = self.plan(kind, asked)
        began = len(self.history) - 1
        request = next(plan)
        while True:
            answer = yield from self.answer(request)
            try:
                request = plan.send(answer)
            except StopIteration as stop:
                answer = [values_of(row) for row in stop.value]
                break
        legal = [self.expected(kind, asked, table) for table in self.history[began:]]
        assert answer in legal, f"read {answer} by {kind}={asked}; during it there was {legal}"

    def answer(self, request: PlanRequest) -> Generator[None, None, Any]:
        backend = self.backend
        match request:
            case Read(keys):
                yield
                return at_once(backend.read(keys))
            case Wait():
                return None
            case AcquireLeases(keys, versions):
                attempt = Attempt(new_token(), math.inf)
                leases = [Lease(key, replacing) for key, replacing in keys]
                yield
                values = at_once(backend.lease(leases, attempt.token, 5_000)).values
                yield
                return LeaseResult(attempt, values, at_once(backend.lease([], attempt.token, 5_000, versions)).versions)
            case Load(entry_set, wanted):
                yield
                kind = "pk" if isinstance(entry_set, RowEntries) else entry_set.attributes[0]
                found = {key: self.expected(kind, values[0], self.table) for key, values in wanted.items()}
                return {
                    key: Answer([loaded(self.rows, row) for row in some], True, 99.0) for key, some in found.items()
                }
            case StoreFills(fills):
                accepted: list[bool] = []
                for attempt, key, entry, lives in fills:
                    yield
                    accepted += at_once(backend.fill([Fill(key, b"L" + attempt.token, entry, lives)]))
                return accepted

    def writer(
        self, table: dict[int, dict[str, Any]], checked: Iterable[tuple[str, Any]], *, watched: bool = False
    ) -> Generator[None, None, None]:
        """Changes the table in one transaction: marks, commits, stamps, clears.

        Then checks that readers see the change.

        If ``watched``, readers must see it from the commit on, whatever they did between mark and commit.
        """
        rows, token = self.rows, new_token()
        changed = {pk: table.get(pk) for pk in table.keys() | self.table.keys() if table.get(pk) != self.table.get(pk)}
        clears: list[Clear] = []
        for pk, row in changed.items():
            clears.append(Clear(rows.key(pk)))
            new = row or self.table[pk]
            for name, index in self.indexes.items():
                hint = index.entry(new_token(), new_version(), [pk]) if index.unique and row else b""
                clears.append(Clear(index.key((new[name],)), hint, 60_000 if hint else 0))
        yield
        at_once(self.backend.mark([clear.key for clear in clears], token, 30_000))
        yield
        self.commit(table)
        yield
        if watched:
            self.check(checked)
        at_once(self.backend.clear([], token, [rows.partitions.stamp_of(b"")]))
        for clear in clears:
            yield
            at_once(self.backend.clear([clear], token))
        self.check(checked)

    def check(self, lookups: Iterable[tuple[str, Any]]) -> None:
        """Checks that a lookup that starts now returns the present rows of the table."""
        for kind, asked in lookups:
            take(self.reader(kind, asked), math.inf)


def at_once(operation: Coroutine[Any, Any, T]) -> T:
    """Runs an operation of the memory store, which never waits."""
    try:
        operation.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the memory store waited")


def take(process: Generator[None, None, None], turns: float) -> int:
    """Gives a process this number of turns. Returns how many it took."""
    taken = 0
    while taken < turns:
        try:
            next(process)
        except StopIteration:
            break
        taken += 1
    return taken


BEFORE = {7: artist(7)}
CHANGES = {
    "update": {7: artist(7) | {"followers": 1}},
    "delete": {},
    "rename and move": {7: artist(7, "Faust", rank=2)},
    "replace": {7: artist(7, "Faust", rank=2), 8: artist(8, "Can", rank=1)},
}
EVERYTHING = [("pk", 7), ("pk", 8), ("name", "Can"), ("name", "Faust"), ("rank", 1), ("rank", 2)]


@pytest.mark.exhaustive(because="tries every order of the steps")
@pytest.mark.slow(because="tries every interleaving")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
class TestEveryInterleaving:
    def world(self, artists: ModelEntries, warm: bool) -> World:
        world = World(artists)
        if warm:
            world.check(EVERYTHING)
        return world

    @pytest.mark.parametrize(("kind", "asked"), [("pk", 7), ("name", "Can"), ("name", "Faust"), ("rank", 1)])
    def test_one_read_and_one_write(
        self, artists: ModelEntries, change: str, warm: bool, kind: str, asked: Any
    ) -> None:
        """Part of the write, part of the read, part of the write, the rest of the read, the rest of the write."""
        checked = [(kind, asked), ("pk", 7), ("pk", 8)]

        def ran_out(first: int, some: int, second: int) -> tuple[bool, bool, bool]:
            world = self.world(artists, warm)
            reader, writer = world.reader(kind, asked), world.writer(CHANGES[change], checked)
            turns = take(writer, first), take(reader, some), take(writer, second)
            take(reader, math.inf)
            take(writer, math.inf)
            world.check(checked)
            return turns[0] < first, turns[1] < some, turns[2] < second

        for first in itertools.count():
            for some in itertools.count():
                for second in itertools.count():
                    over = ran_out(first, some, second)
                    if over[2]:
                        break
                if over[1]:
                    break
            if over[0]:
                break
        assert first > 4

    def test_several_reads_and_writes(self, artists: ModelEntries, change: str, warm: bool) -> None:
        """A random selection of interleavings, the same one in every run."""
        chance = random.Random(f"{change}{warm}")
        for number in range(100):
            world = self.world(artists, warm)
            reads = chance.choices(chance.sample(EVERYTHING, 2), k=3)  # of two keys only, so that reads often meet
            running = [world.reader(*read) for read in reads]
            running += [world.writer(CHANGES[change], EVERYTHING, watched=number % 2 == 0)]
            for turn in chance.choices(range(4), [1, 1, 1, 2], k=40):
                take(running[turn], 1)
            for process in (*running, world.writer(BEFORE, EVERYTHING)):
                take(process, math.inf)
            world.check(EVERYTHING)


class TestHits:
    """The hand-written path of hits answers as the plan does, and leaves no trace of a miss."""

    @staticmethod
    def entries(rows: RowEntries) -> dict[str, bytes | None]:
        good = value(rows, artist(7))
        return {
            "good": good,
            "nothing": None,
            "of another epoch": value(rows, artist(7), epoch=OTHER_EPOCH),
            "of another row": value(rows, artist(8)),
            "absent": rows.entry(b"t" * 16, EPOCH, None),
            "stale": stale_copy(good),
            "lease": LEASE + b"t" * 16,
            "intents": INTENTS,
            "damaged": good[:-1] + b"?",
            "cut off": good[:30],
            "empty": b"",
        }

    @pytest.mark.parametrize("epoch", [EPOCH, None], ids=["epoch", "none"])
    def test_only_a_usable_row_entry_is_a_hit(self, rows: RowEntries, epoch: bytes | None) -> None:
        before = dataclasses.replace(rows.counters)
        for name, entry in self.entries(rows).items():
            for _ in range(4):  # from the third time on it is kept decoded
                for hit in (rows.hit(entry, epoch, 7), *(hits_of(rows, [entry], epoch, [7]) or [None])):
                    found = hit and values_of(hit)
                    assert found == (artist(7) if name == "good" and epoch else None), name
        assert rows.counters == before
        assert (rows.decoded.counters.hits > 0) is (epoch is not None)
        rows.lifetimes.due = b"\xff" * 8
        assert rows.hit(value(rows, artist(7)), epoch, 7) is None, "a due entry takes the plan, which refreshes it"

    def test_only_a_usable_index_entry_with_matching_rows_is_a_hit(
        self, rows: RowEntries, by_name: IndexEntries
    ) -> None:
        before = dataclasses.replace(by_name.counters), dataclasses.replace(rows.counters)
        prediction = Prediction([7], [rows.key(7)])
        key = by_name.key(("Can",))

        def hit(
            entry: bytes | None, row: bytes | None, name: str = "Can", prediction: Prediction = prediction
        ) -> list[RowValues] | None:
            found = {rows.epoch_of(b""): EPOCH, key: entry, rows.key(7): row}
            hits = [index_hit(by_name, (name,), key, EPOCH, prediction, found) for _ in range(4)]
            answers = [answer and list(map(values_of, answer)) for answer in hits]
            assert answers == answers[:1] * 4
            return answers[0]

        leading, elsewhere = (by_name.entry(b"t" * 16, EPOCH, [pk]) for pk in (7, 8))
        for name, entry in self.entries(rows).items():
            if name != "good":
                assert hit(leading, entry) is None, name
        row = value(rows, artist(7))
        assert hit(elsewhere, row) is None
        assert hit(leading[:-1], row) is None
        assert hit(None, row) is None
        assert hit(leading, row, "Faust") is None
        assert hit(elsewhere, row, prediction=Prediction([8], [rows.key(8)])) is None
        assert hit(leading, row) == [artist(7)]
        assert (by_name.counters, rows.counters) == before

    def test_a_known_index_entry_is_not_decoded_again_but_still_checked(
        self, by_name: IndexEntries, by_rank: IndexEntries
    ) -> None:
        """The entry must still be of the epoch, and not due."""
        for index in (by_name, by_rank):
            prediction = Prediction([7], [index.rows.key(7)])
            entry, elsewhere = (index.entry(b"t" * 16, EPOCH, [pk]) for pk in (7, 8))
            assert index.hit(entry, EPOCH, prediction)
            assert prediction.entry == entry
            for _ in range(2):
                assert index.hit(entry, EPOCH, prediction)
                assert not index.hit(elsewhere, EPOCH, prediction)
                assert not index.hit(entry[:-1] + b"?", EPOCH, prediction)
                assert index.hit(entry, None, prediction) is index.unique
                assert index.hit(entry, OTHER_EPOCH, prediction) is index.unique
            index.lifetimes.due = b"\xff" * 8
            assert not index.hit(entry, EPOCH, prediction)

    def test_an_empty_list_is_a_hit_and_leaves_the_shared_prediction_unchanged(self, by_rank: IndexEntries) -> None:
        predictions = Predictions(10)
        nowhere = predictions.predict(b"one")
        assert by_rank.hit(by_rank.entry(b"t" * 16, EPOCH, []), EPOCH, nowhere)
        assert predictions.predict(b"another").entry == b"", "all empty predictions are one object"
