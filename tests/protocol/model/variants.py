"""The explored systems: shapes in which the protocol must be sound, and variants that lack one guard."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from tests.protocol.model import (
    derived,
    epochs,
    groups,
    indexes,
    near,
    near_nodes,
    partitions,
    relays,
    rows,
    savers,
    stale,
    streams,
)
from tests.protocol.model.computations import TORN
from tests.protocol.model.engine import LOST_WAITER, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import INDEX, OLD_KEY, ROW, STALE, STALE_AT_REST, UNCOMMITTED


class Shape(NamedTuple):
    """A part of the protocol, with the number of its readers, writers and crashes."""

    part: Callable[..., System[Any]]
    options: Mapping[str, Any]

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.part.__module__.rpartition('.')[2]}({options})"

    def system(self, rules: Rules) -> System[Any]:
        return self.part(rules, **self.options)


class Broken(NamedTuple):
    """The protocol without one guard, and the kind of the violation that takes the fewest steps."""

    guard: str
    shape: Shape
    kind: str

    def system(self) -> System[Any]:
        return self.shape.system(replace(Rules(), **{self.guard: False}))


def _rows(**options: Any) -> Shape:
    return Shape(rows.system, options)


def _indexes(**options: Any) -> Shape:
    return Shape(indexes.system, options)


def _epochs(**options: Any) -> Shape:
    return Shape(epochs.system, options)


def _partitions(**options: Any) -> Shape:
    return Shape(partitions.system, options)


def _stale(**options: Any) -> Shape:
    return Shape(stale.system, options)


def _near(**options: Any) -> Shape:
    return Shape(near.system, options)


def _near_nodes(**options: Any) -> Shape:
    return Shape(near_nodes.system, options)


def _derived(recipe: str, **options: Any) -> Shape:
    return Shape(derived.system, {"recipe": recipe, **options})


def _groups(**options: Any) -> Shape:
    return Shape(groups.system, options)


def _savers(**options: Any) -> Shape:
    return Shape(savers.system, options)


def _relays(**options: Any) -> Shape:
    return Shape(relays.system, options)


def _streams(**options: Any) -> Shape:
    return Shape(streams.system, options)


_BY_CLOCK = _partitions(predicts=(None,), writers=1, ticks=2, jumps=(-2, -1, 1, 2))

SOUND = [
    _rows(look_ups=(2, 1), writers=1, transactions=1),
    _rows(look_ups=(2, 1), transactions=1, crashes=2, ticks=3),
    _rows(look_ups=(1,), writers=2, crashes=1, ticks=3),
    _rows(look_ups=(1, 2), transactions=1, snapshots=1, warm=True),
    _rows(look_ups=(2, 1), survivors=1, writers=1, warm=True),
    _rows(look_ups=(2, 1), writers=1, one_process=True),
    _rows(look_ups=(2,), writers=1, transactions=1, replicas=True, ticks=1),
    _rows(look_ups=(1, 1), writers=1, unchanged=1),
    _rows(look_ups=(1,), transactions=1, unchanged=1, crashes=1, ticks=2),
    _rows(look_ups=(2, 1), writers=1, slow=True, crashes=1),
    _rows(look_ups=(1,), transactions=1, slow=True, crashes=1, ticks=2),
    _indexes(predicts=(True, False), writers=1),
    _indexes(predicts=(False, False), transactions=1, start=None),
    _indexes(predicts=(True, False), transactions=1, start="b", warm=(INDEX, ROW)),
    _indexes(predicts=(False,), writers=1, transactions=1, slugs=("a", None)),
    _indexes(predicts=(False,), writers=1, crashes=1, ticks=3),
    _indexes(predicts=(False,), writers=1, slow=True, crashes=1, ticks=3),
    _indexes(predicts=(False, True), writers=1, at_once=1),
    _indexes(predicts=(False, False), transactions=1, start=None, at_once=2),
    _indexes(predicts=(False,), writers=1, transactions=1, slugs=("a", None), at_once=1),
    _indexes(predicts=(False,), writers=1, crashes=1, ticks=3, at_once=1),
    _indexes(predicts=(True,), plain=1, writers=1, slugs=("b",)),
    _indexes(predicts=(False,), plain=1, writers=1, slugs=("b", None)),
    _indexes(predicts=(False,), plain=1, transactions=1, slugs=("b",), warm=(INDEX, ROW)),
    _indexes(predicts=(False,), plain=1, start="b", crashes=1, ticks=3),
    _epochs(look_ups=(2, 1), bulk=1),
    _epochs(look_ups=(2, 1), clears=1),
    _epochs(look_ups=(1,), clears=1, bulk=1, warm=True),
    _epochs(look_ups=(1,), bulk=1, writers=1, crashes=1, ticks=3),
    _partitions(predicts=(True, False), writers=1),
    _partitions(predicts=(True,), writers=1, bulk=1),
    _partitions(predicts=(True,), writers=1, clears=1, warm=True),
    _partitions(predicts=(True,), bulk=1, start=False),
    _partitions(predicts=(True,), writers=2, crashes=1),
    _partitions(predicts=(True,), writers=1, warm=True, fails_over=True),
    _partitions(predicts=(True, False), writers=1, fails_over=True),
    _partitions(predicts=(True,), bulk=1, warm=True, fails_over=True),
    _partitions(predicts=(True,), writers=1, warm=True, fails_over=True, loses_intents=True, crashes=1),
    _partitions(predicts=(True,), writers=2, fails_over=True, loses_intents=True),
    _BY_CLOCK,
    _partitions(predicts=(None, True), writers=1, ticks=1),
    _partitions(predicts=(None,), writers=2, ticks=1, jumps=(1,), crashes=1),
    _partitions(predicts=(None,), writers=1, ticks=2, jumps=(-1, 1), fails_over=True),
    _partitions(predicts=(None,), writers=1, ticks=2, fails_over=True, loses_intents=True, crashes=1),
    _partitions(predicts=(None,), writers=1, bulk=1, ticks=1),
    _partitions(predicts=(None,), writers=1, clears=1, ticks=2, warm=True),
    _stale(look_ups=(2, 1), writers=1),
    _stale(look_ups=(1,), writers=1, crashes=1, ticks=3),
    _stale(look_ups=(1,), writers=2),
    _near(look_ups=(1, 1), own=1, pings=1),
    _near(look_ups=(2, 1), others=1, pings=1),
    _near(look_ups=(2, 1), own=1, losses=1, warm=False),
    _near(look_ups=(2,), others=1, mixed=1),
    _near_nodes(look_ups=(2,), others=1, pings=(0,)),
    _near_nodes(look_ups=(2, 1), others=1, warm=False),
    _derived("rows", look_ups=(2,), writers=("a", "a, b")),
    _derived("rows", look_ups=(2,), writers=("a, b",), crashes=1, ticks=3),
    _derived("rows", look_ups=(3,), writers=("a, b",), evictions=2),
    _derived("rows", look_ups=(2,), writers=("a",), refreshers=2),
    _derived("rows", look_ups=(2,), writers=("a",), bulk=("a, b",)),
    _derived("rows", look_ups=(2,), writers=("a, b",), together=True, row_readers=1),
    _derived("rows", clients=(3,), writers=("a, b",)),
    _derived("query", clients=(2,), writers=("a",), crashes=1, ticks=3),
    _derived("late row", look_ups=(2,), writers=("a",), row_readers=1, refreshers=1),
    _derived("late row", look_ups=(2,), writers=("a", "a"), evictions=1),
    _derived("query", look_ups=(2, 1), writers=("a, b",), evictions=1),
    _derived("query", look_ups=(2,), writers=("a, b",), crashes=1, ticks=3, warm=False),
    _derived("query", look_ups=(2,), writers=("a",), transactions=("a, b",), snapshots=1),
    _derived("row, query", look_ups=(2,), writers=("a, b", "b")),
    _derived("row, query", look_ups=(2,), bulk=("a, b",), evictions=1),
    _derived("two tables", look_ups=(2,), writers=("a, b",), crashes=1, ticks=3),
    _derived("rows", cap=1, look_ups=(2,), writers=("a, b",), row_readers=1),
    _derived("rows", cap=2, look_ups=(2,), writers=("a, b",), evictions=1),
    _derived("rows", cap=1, look_ups=(2,), bulk=("a, b",), warm=False),
    _derived("rows", cap=1, look_ups=(2,), writers=("a",), ignored=("b",)),
    _derived("two tables", look_ups=(3,), writers=("a, b",), predicts=True),
    _derived("nested row", look_ups=(2,), writers=("a, b",), row_readers=1),
    _derived("nested row", look_ups=(3,), writers=("a, b",), evictions=1),
    _derived("nested query", look_ups=(2,), writers=("a", "a, b")),
    _derived("nested query", look_ups=(2,), writers=("a, b",), crashes=1, ticks=3),
    _derived("nested value", look_ups=(2,), writers=("a",), by_hand=1),
    _savers(predicts=(True, False), savers=1),
    _savers(predicts=(False,), savers=1, writers=1),
    _savers(predicts=(False,), savers=1, transactions=1),
    _savers(predicts=(True,), savers=2),
    _savers(predicts=(False,), savers=1, crashes=1, ticks=3, warm=()),
    _savers(savers=1, writers=1, crashes=1, ticks=3),
    _savers(savers=2, crashes=1, ticks=3),
    _savers(savers=1, by_pk=(1,), bulk=1, warm=()),
    _savers(transactions=1, by_pk=(1,), bulk=1, warm=()),
    _groups(look_ups=(2, 1), writers=1),
    _groups(look_ups=(2,), writers=1, bulk=1),
    _groups(look_ups=(2,), writers=1, crashes=1, evictions=1, ticks=3),
    _relays(drains=(2,), look_ups=(1,), outsiders=(1,), questions=1, crashes=1),
    _relays(drains=(1, 1), look_ups=(1,), outsiders=(1,), questions=1, ticks=1),
    _relays(drains=(2,), look_ups=(2,), outsiders=(1,), fills=True, ticks=2),
    _relays(drains=(1,), look_ups=(1,), outsiders=(1,), writers=1, crashes=1, ticks=2),
    _relays(drains=(1,), look_ups=(2,), outsiders=(1,), questions=1, derived=True, ticks=2),
    _relays(drains=(1,), look_ups=(1,), writers=1, derived=True, ticks=1),
    _relays(drains=(1,), look_ups=(1,), outsiders=(1,), late=1, ticks=1),
    _relays(drains=(1,), look_ups=(2,), attached=1, questions=1, ticks=2),
    _relays(drains=(2,), look_ups=(1,), attached=1, remembers=True),
    _relays(drains=(2,), look_ups=(1,), transactions=1, others=1, ticks=2),
    _relays(drains=(2,), look_ups=(1,), outsiders=(2,), limit=1, questions=1, ticks=2),
    _relays(drains=(1,), near=(2,), outsiders=(1,), questions=1),
    _relays(drains=(2,), look_ups=(1,), outsiders=(1,), trimmers=1, crashes=1, ticks=2),
    _relays(drains=(1,), outsiders=(1,), trimmers=2, crashes=1, ticks=1),
    _streams(drains=(2,), look_ups=(1,), outsiders=(1,), remembers=True, ticks=2),
    _streams(drains=(1,), look_ups=(1,), outsiders=(1,), administrators=1, remembers=True, ticks=2),
    _streams(drains=(1, 1), look_ups=(1,), outsiders=(1,), crashes=1, remembers=True, ticks=1),
    _streams(drains=(2,), outsiders=(1,), administrators=1, crashes=1, ticks=1),
]
"""Shapes that every run of the tests explores."""

LARGE = [
    _rows(look_ups=(2, 1), writers=2, crashes=1, ticks=3),
    _rows(look_ups=(2, 2), writers=1, transactions=1, crashes=2, ticks=3),
    _rows(look_ups=(2, 1), writers=1, transactions=1, replicas=True, crashes=1, ticks=3),
    _rows(look_ups=(1, 1, 1), writers=1, transactions=1, one_process=True),
    _indexes(predicts=(True, False), writers=1, transactions=1),
    _indexes(predicts=(True, False), writers=1, crashes=1, ticks=3),
    _indexes(predicts=(False, False), writers=1, slow=True, crashes=1, ticks=3),
    _indexes(predicts=(False, False, True), writers=1, slugs=("a", None)),
    _epochs(look_ups=(1, 1), clears=1, bulk=1),
    _epochs(look_ups=(1, 1), bulk=2),
    _epochs(look_ups=(1, 1), bulk=1, writers=1, crashes=1, ticks=3),
    _stale(look_ups=(1, 1), writers=2, crashes=1, ticks=3),
    _stale(look_ups=(2, 1), writers=2, ticks=3),
    _near(look_ups=(2, 1), own=1, others=1),
    _near(look_ups=(2, 2), others=1, pings=1, losses=1),
    _near(look_ups=(2,), others=1, mixed=1, pings=1),
    _near(look_ups=(1, 1), others=1, mixed=1, losses=1),
    _near_nodes(look_ups=(2, 1), others=1, pings=(0, 1)),
    _derived("rows", look_ups=(2,), writers=("a, b", "a"), row_readers=1, evictions=1),
    _derived("rows", look_ups=(1, 1), writers=("a, b",), crashes=1),
    _derived("late row", look_ups=(1, 1), writers=("a",), row_readers=1),
    _derived("query", look_ups=(2, 1), writers=("a",), restores=1),
    _derived("row, query", look_ups=(2,), writers=("a, b",), bulk=("a",)),
    _derived("two tables", look_ups=(2,), writers=("a", "a, b")),
    _derived("nested row", look_ups=(1, 1), writers=("a, b",)),
    _derived("nested row", look_ups=(2,), writers=("a, b", "a"), evictions=1),
    _derived("nested query", look_ups=(2, 1), writers=("a, b",)),
    _savers(predicts=(True, False), savers=1, writers=1),
    _savers(predicts=(False,), savers=2, ticks=3),
    _savers(predicts=(False,), savers=1, writers=1, crashes=1, ticks=3),
    _savers(savers=2, by_pk=(1,), bulk=1, warm=()),
    _groups(look_ups=(2, 1), writers=2),
    _groups(look_ups=(1, 1), writers=1, bulk=1),
    _relays(drains=(1, 1), look_ups=(1,), outsiders=(1,), questions=1, crashes=1, ticks=2),
    _relays(drains=(1,), look_ups=(1,), outsiders=(1,), questions=1, late=1, ticks=2),
    _relays(drains=(2,), near=(2,), outsiders=(1,), questions=2),
    _relays(drains=(1,), look_ups=(2,), outsiders=(1,), writers=1, derived=True, ticks=1),
    _relays(drains=(1,), look_ups=(1,), outsiders=(1,), writers=1, questions=1, crashes=1, ticks=2),
    _relays(drains=(1, 1), look_ups=(1,), attached=1, questions=1, ticks=2),
]
"""Shapes that take minutes and some GB of memory each."""

_ONE_OF_EACH = _rows(look_ups=(1, 1), writers=1, transactions=1)
_ONE_PROCESS = _rows(look_ups=(1, 1), writers=1, one_process=True)
_TWO_BY_SLUG = _indexes(predicts=(False, False), writers=1)
_AT_ONCE = _indexes(predicts=(False, False), writers=1, at_once=2)
_SLOW_AT_ONCE = _indexes(predicts=(False,), writers=1, slugs=("a",), crashes=1, ticks=3, at_once=1)
_SLOW_WRITER = _indexes(predicts=(False,), writers=1, slugs=("a",), crashes=1, ticks=3)
_TWO_STALE = _stale(look_ups=(1, 1), writers=1)
_QUERY = _derived("query", look_ups=(2,), writers=("a, b",))
_LATE = _derived("late row", look_ups=(2,), writers=("a",), row_readers=1)
_SLOW_LATE = _derived("late row", look_ups=(1,), writers=("a",), row_readers=1, crashes=1, ticks=3)
_CAPPED = _derived("rows", cap=1, look_ups=(2,), writers=("a, b",), warm=False)

_SAVERS = _savers(predicts=(True,), savers=2)
_OUTSIDE = _relays(drains=(1,), look_ups=(1,), outsiders=(1,), questions=1, crashes=1)
_LATE_OUTSIDE = _relays(drains=(1,), outsiders=(1,), late=1, ticks=1)
_LIMITED = _relays(drains=(1,), look_ups=(1,), outsiders=(1,), others=1, limit=1, questions=1)
_STREAMED = _streams(drains=(1,), look_ups=(1,), outsiders=(1,), questions=1, remembers=True, ticks=2)
_RECREATED = _streams(**_STREAMED.options, administrators=1)
_ATTACHED = _relays(drains=(1,), look_ups=(1,), attached=1, questions=1)

BROKEN = [
    Broken("lease", _ONE_OF_EACH, STALE),
    Broken("lease_once", _ONE_OF_EACH, STALE),
    Broken("primary", _ONE_OF_EACH, STALE),
    Broken("no_fill_in_transaction", _ONE_OF_EACH, UNCOMMITTED),
    Broken("no_fill_in_transaction", _rows(look_ups=(1,), writers=1, snapshots=1), STALE),
    Broken("join_by_reading", _ONE_PROCESS, STALE),
    Broken("always_land", _ONE_PROCESS, LOST_WAITER),
    Broken("mark", _ONE_OF_EACH, STALE),
    Broken("mark_first", _ONE_OF_EACH, STALE),
    Broken("intent_set", _ONE_OF_EACH, STALE),
    Broken("clear_own", _ONE_OF_EACH, STALE),
    Broken("linger", _rows(look_ups=(1,), writers=1, replicas=True, ticks=1), STALE),
    Broken("clear_rolled_back", _rows(look_ups=(1,), survivors=1, warm=True), STALE),
    Broken("no_hint_on_rows", _ONE_OF_EACH, STALE),
    Broken("mark_index", _indexes(predicts=(False, False), writers=1, start=None), STALE),
    Broken("check_unchanged", _rows(look_ups=(2,), writers=1, unchanged=1), STALE),
    Broken("check_unmoved", _indexes(predicts=(False,), plain=1, start="b", warm=(INDEX,)), STALE),
    Broken("check_row", _TWO_BY_SLUG, OLD_KEY),
    Broken("stamp", _TWO_BY_SLUG, STALE),
    Broken("stamp", _AT_ONCE, STALE),
    Broken("stamp_at_once", _AT_ONCE, STALE),
    Broken("row_absent_at_once", _AT_ONCE, STALE),
    Broken("deadline", _SLOW_AT_ONCE, STALE_AT_REST),
    Broken("deadline_at_once", _SLOW_AT_ONCE, STALE_AT_REST),
    Broken("stamp_before_clear", _AT_ONCE, STALE),
    Broken("stamp_before_clear", _TWO_BY_SLUG, STALE),
    Broken("stamp_after_lease", _TWO_BY_SLUG, STALE),
    Broken("token_per_lease", _indexes(predicts=(False, False), transactions=1, slugs=("a",)), STALE_AT_REST),
    Broken("outlive_readers", _SLOW_WRITER, STALE_AT_REST),
    Broken("deadline", _SLOW_WRITER, STALE_AT_REST),
    Broken("deadline_before_sql", _indexes(**{**_SLOW_WRITER.options, "slow": True}), STALE_AT_REST),
    Broken("extension_compares", _rows(look_ups=(1, 1), writers=1, slow=True), STALE),
    Broken("extension_compares", _indexes(predicts=(False, False), writers=1, slow=True, start=None), STALE),
    Broken("partition_known_before", _partitions(predicts=(False,), writers=1), STALE_AT_REST),
    Broken("clock_before", _BY_CLOCK, STALE_AT_REST),
    Broken("clock_after", _BY_CLOCK, STALE_AT_REST),
    Broken("stamp_strictly_older", _BY_CLOCK, STALE_AT_REST),
    Broken("since_before_sql", _BY_CLOCK, STALE_AT_REST),
    Broken("stamp_with_epoch", _partitions(predicts=(None,), bulk=1, ticks=2), STALE_AT_REST),
    Broken("epoch_with_stamp", _partitions(predicts=(None,), bulk=1, ticks=2), STALE_AT_REST),
    Broken("version_of_node", _partitions(predicts=(None,), writers=1, ticks=2, fails_over=True), STALE_AT_REST),
    Broken("stamp_of_partition", _partitions(predicts=(True,), writers=1), STALE_AT_REST),
    Broken("epoch_of_partition", _partitions(predicts=(True,), writers=1, warm=True, fails_over=True), STALE_AT_REST),
    Broken("version_of_node", _partitions(predicts=(True,), writers=1, warm=True, fails_over=True), STALE_AT_REST),
    Broken(
        "version_of_node", _partitions(predicts=(True,), writers=1, fails_over=True, loses_intents=True), STALE_AT_REST
    ),
    Broken(
        "marks_replicated",
        _partitions(predicts=(True,), writers=1, fails_over=True, loses_intents=True, crashes=1),
        STALE_AT_REST,
    ),
    Broken("refusal_counts", _rows(look_ups=(2,), refused=1, replicas=True, ticks=1, warm=True), STALE),
    Broken("every_partition_marked", _partitions(predicts=(True,), bulk=1, warm=True), STALE),
    Broken("every_partition_marked", _partitions(predicts=(True,), clears=1, warm=True), STALE),
    Broken("epoch_before_sql", _epochs(look_ups=(1, 1), clears=1), STALE),
    Broken("epoch_marked", _epochs(look_ups=(1, 1), bulk=1), STALE),
    Broken("epoch_cleared", _epochs(look_ups=(1, 1), bulk=1), STALE),
    Broken("no_fill_while_marked", _epochs(look_ups=(1, 1), bulk=1), STALE),
    Broken("refresh_compares", _TWO_STALE, STALE_AT_REST),
    Broken("new_stale_token", _TWO_STALE, STALE_AT_REST),
    Broken("moment_of_expiry", _TWO_STALE, STALE),
    Broken("counted_from_mark", _stale(look_ups=(1,), writers=2), STALE),
    Broken("first_invalidation_counts", _stale(look_ups=(1,), writers=2), STALE),
    Broken("near_placeholder", _near(look_ups=(2, 2), others=1, warm=False), STALE),
    Broken("near_drop_at_mark", _near(look_ups=(1,), own=1), STALE),
    Broken("near_drop_at_clear", _near(look_ups=(2,), own=1), STALE),
    Broken("near_drop_on_loss", _near(look_ups=(1,), others=1, pings=1, losses=1), STALE),
    Broken("near_asks_for_keys", _near_nodes(look_ups=(1,), others=1, pings=(0,)), STALE),
    Broken("near_each_node", _near_nodes(look_ups=(1,), others=1, pings=(1,)), STALE),
    Broken("near_forget_redirected", _near_nodes(look_ups=(2,), others=1, pings=(1,), warm=False), STALE),
    Broken("near_forget_moved", _near_nodes(look_ups=(2,), others=1, pings=(1,), warm=False), STALE),
    Broken("near_since_sent", _near(look_ups=(1, 2), others=1, warm=False), STALE),
    Broken("near_catches_up", _near(look_ups=(1,), others=1, mixed=1), STALE),
    Broken("near_compares", _near(look_ups=(1,), others=1, mixed=1), STALE),
    Broken("tokens_compared", _derived("rows", look_ups=(2,), writers=("a, b",)), STALE),
    Broken("derived_read_first", _derived("two queries", look_ups=(1, 1), writers=("a, b",), predicts=True), TORN),
    Broken("every_answer_needs_token", _derived("rows", look_ups=(2,), writers=("a, b",)), TORN),
    Broken("every_answer_needs_token", _derived("row, query", look_ups=(2,), writers=("a",)), STALE),
    Broken("token_as_read", _derived("rows", look_ups=(2,), writers=("a, b",), row_readers=1), TORN),
    Broken("first_token_counts", _derived("two queries", look_ups=(2,), writers=("a, b",)), TORN),
    Broken("first_token_counts", _derived("rows", look_ups=(2,), bulk=("a, b",)), TORN),
    Broken("derived_needs_something", _derived("earlier task", look_ups=(2,), writers=("a",)), STALE),
    Broken("row_needs_epoch", _derived("rows", look_ups=(2,), bulk=("a, b",)), STALE),
    Broken("derived_lease", _derived("nested value", look_ups=(1, 1), by_hand=1), STALE),
    Broken("derived_joined_by_reading", _derived("query", look_ups=(1, 1), writers=("a",), single_flight=True), STALE),
    Broken("not_modified_validated", _derived("rows", clients=(2,), writers=("a",)), STALE),
    Broken("validator_of_content", _derived("rows", clients=(2,), writers=("a",)), STALE),
    Broken("snapshot_validated", _derived("rows", look_ups=(1,), writers=("a, b",), together=True), TORN),
    Broken("transaction_not_stored", _derived("query", look_ups=(1,), transactions=("a, b",)), UNCOMMITTED),
    Broken("transaction_not_stored", _derived("query", look_ups=(1,), writers=("a",), snapshots=1), STALE),
    Broken("transaction_not_answered", _derived("query", look_ups=(1,), transactions=("a, b",)), STALE),
    Broken("late_token_checks_stamp", _LATE, STALE),
    Broken("late_token_in_time", _SLOW_LATE, STALE_AT_REST),
    Broken("refresh_keeps_equal", _derived("rows", look_ups=(2,), refreshed=1), STALE),
    Broken("version_before_statement", _QUERY, STALE),
    Broken("version_marked", _QUERY, STALE),
    Broken("version_cleared", _QUERY, STALE),
    Broken("version_fresh", _QUERY, STALE),
    Broken("version_only_if_absent", _QUERY, STALE),
    Broken("marked_version_refused", _QUERY, STALE),
    Broken("version_of_incarnation", _derived("query", look_ups=(2,), writers=("a",), restores=1), STALE),
    Broken("clear_rolled_back", _derived("query", look_ups=(2,), survivors=1), STALE),
    Broken("clear_marks_version", _derived("query", look_ups=(2,), clears=1), STALE),
    Broken("cascade_marks_version", _derived("child", look_ups=(2,), writers=("a, b",)), STALE),
    Broken("cap_version_first", _CAPPED, STALE),
    Broken("cap_version_created_first", _CAPPED, STALE),
    Broken("ignoring_version_not_used", _derived("rows", cap=1, look_ups=(2,), ignored=("a",)), STALE),
    Broken("inner_needs_passed_on", _derived("nested row", look_ups=(2,), writers=("a",)), STALE),
    Broken("inner_token_noted", _derived("nested value", look_ups=(2,), by_hand=1), STALE),
    Broken("saver_compares_stamp", _SAVERS, STALE),
    Broken("saver_stamp_before_commit", _SAVERS, STALE),
    Broken("saver_takes_lease", _SAVERS, STALE),
    Broken("saver_alone", _SAVERS, STALE),
    Broken("saver_reads_again", _SAVERS, STALE),
    Broken("saver_deadline", _savers(savers=2, crashes=1, ticks=3), STALE_AT_REST),
    Broken("saver_epoch_before_commit", _savers(savers=1, by_pk=(2,), bulk=1, warm=()), STALE),
    Broken("no_fill_while_marked", _savers(savers=1, by_pk=(2,), bulk=1, warm=()), STALE),
    Broken("group_left_marked", _groups(look_ups=(2,), writers=1), STALE),
    Broken("group_entered_marked", _groups(look_ups=(2,), writers=1, start=None), STALE),
    Broken("group_left_locked", _groups(look_ups=(2,), writers=2, start="b", slugs=("a", "b")), STALE),
    Broken("group_needs_epoch", _groups(look_ups=(2,), bulk=1), STALE),
    Broken("relay_lives", _OUTSIDE, STALE),
    Broken("relay_looked_at_reply", _OUTSIDE, STALE),
    Broken("relay_known_when_sent", _OUTSIDE, STALE),
    Broken("relay_counts_from_question", _OUTSIDE, STALE),
    Broken("relay_return_drops_near", _relays(drains=(1,), near=(1,), outsiders=(1,), questions=1), STALE),
    Broken("relay_invalidates_first", _OUTSIDE, STALE_AT_REST),
    Broken("relay_claims_from_start", _OUTSIDE, STALE),
    Broken("relay_clock_first", _OUTSIDE, STALE),
    Broken("relay_deletes_seen", _relays(drains=(1,), transactions=1, others=1), STALE_AT_REST),
    Broken("relay_deletes_seen", _relays(drains=(1,), transactions=1, others=1, trimmers=1), STALE_AT_REST),
    Broken("relay_trims_last", _relays(drains=(1,), outsiders=(1,), trimmers=1, crashes=1), STALE_AT_REST),
    Broken("relay_claims_all", _LIMITED, STALE),
    Broken("relay_leaves_intents", _relays(drains=(1,), look_ups=(2,), outsiders=(1,), writers=1, ticks=1), STALE),
    Broken("relay_clears_version", _relays(drains=(1,), outsiders=(1,), derived=True, ticks=1), STALE_AT_REST),
    Broken("relay_stamps", _LATE_OUTSIDE, STALE_AT_REST),
    Broken("relay_stamps_before_clear", _LATE_OUTSIDE, STALE_AT_REST),
    Broken("relay_bumps_epoch", _ATTACHED, STALE),
    Broken("relay_catalogue_after_clock", _relays(**_ATTACHED.options, remembers=True), STALE),
    Broken("relay_begins_anew", _ATTACHED, STALE),
    Broken("stream_waits_for_mark", _STREAMED, STALE),
    Broken("stream_marks_after_clock", _STREAMED, STALE),
    Broken("stream_confirms_invalidated", _streams(drains=(1,), outsiders=(1,), crashes=1), STALE_AT_REST),
    Broken("stream_knows_slot", _RECREATED, STALE),
    Broken("stream_looks_when_reading", _RECREATED, STALE),
    Broken("stream_clears_for_new_slot", _streams(drains=(1,), outsiders=(1,), administrators=1), STALE_AT_REST),
]
