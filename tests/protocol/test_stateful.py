"""The state machine finds no difference between caches and database, unless the library is broken.

With one of the pieces in ``BREAKS`` removed, the same number of examples finds a difference.
``HYPOTHESIS_PROFILE=long`` explores longer and with random seeds.
"""

import asyncio
import importlib
import inspect
import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.effort import FULL, share
from tests.support.state_machine import Machine, World

pytestmark = [
    pytest.mark.exhaustive(because="takes hundreds of random steps"),
    pytest.mark.long(because="takes hundreds of random steps"),
    pytest.mark.every_pair(because="what a random step meets is not known before"),
]

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
EXAMPLES = 36 if FULL else 24
"""The number of examples, of 20 steps each, on databases where a step takes milliseconds."""
LIMIT = 300
"""The number of examples within which a break is found."""


def explore(
    db_url: DatabaseUrl,
    backend_url: str,
    flush_redis: Callable[[], object],
    examples: int,
    kind: str = "",
    **others: Any,
) -> World:
    """Runs the machine. By default each run has the same examples. ``others`` are settings of Hypothesis."""
    with asyncio.Runner() as runner:
        opened = tortoise_on(db_url, "tests.support.models.stateful_models")
        world = World(runner, runner.run(opened.__aenter__()), backend_url, flush_redis)
        options = {"derandomize": True, "stateful_step_count": 20, "max_examples": examples, **others}
        try:
            runner.run(world.store.open())
            run_state_machine_as_test(
                lambda: Machine(world, kind),
                settings=settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options),
            )
        finally:
            runner.run(world.store.close())
            runner.run(opened.__aexit__(None, None, None))
    return world


def test_the_caches_agree_with_the_database_after_any_writes(
    db_url: DatabaseUrl, backend_url: str, request: pytest.FixtureRequest
) -> None:
    cheap = db_url.dialect == "sqlite" and backend_url == "memory://"
    more = {"derandomize": False, "stateful_step_count": 100} if LONG else {}
    world = explore(
        db_url,
        backend_url,
        lambda: request.getfixturevalue("redis_server").flush(),
        3000 if LONG else EXAMPLES if cheap else 3,
        **more,
    )
    if cheap:
        assert world.answered_stale > 20
        assert world.reset > 20
        assert world.written_through > 100


class Break(NamedTuple):
    """A piece of a function's source, and the code that replaces it."""

    where: str
    """The module and the function, separated by a colon."""
    line: str
    instead: str
    kind: str = ""
    """The questions of ``KINDS`` that find it. By default any of them."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Breaks the library for the block, under all names of the function. Fails if the piece is missing."""
        name, _, path = self.where.partition(":")
        function: Any = importlib.import_module(f"aiomodelcache.{name}")
        for attribute in path.split("."):
            function = getattr(function, attribute)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.line) == 1, f"{self.where} has changed: update the piece to break\n{source}"
        code, broken = function.__code__, {}
        exec(compile(source.replace(self.line, self.instead), self.where, "exec"), function.__globals__, broken)
        function.__code__ = broken[function.__name__].__code__
        try:
            yield
        finally:
            function.__code__ = code


BREAKS = {
    "writes are not cleared": Break("engine.writer:Writer.deliver", "await self._clear(intent)", "pass"),
    "transactions are not cleared": Break(
        "write.transactions:_wrap",
        "            raise\n        await finish_intents(intents, committed=True)",
        "            raise",
    ),
    "the row's own key is not invalidated": Break(
        "write.affected:collect_affected_keys", "Clear(rows.key(pk))", 'Clear(b"elsewhere")'
    ),
    "the keys of indexes are not invalidated": Break("write.affected:_affected_indexes", "return indexes", "return []"),
    "a row is not checked for the values of the index key": Break(
        "entries.indexes:IndexEntries.matches", "all(map(eq, own, values))", "True"
    ),
    "rows outside of a page are not checked": Break(
        "plans.lists:_positions", "slice(0, len(pks) if window.counted else part.stop)", "part"
    ),
    "results are not invalidated": Break(
        "write.affected:collect_result_keys", "Clear(result.key(values))", 'Clear(b"elsewhere")'
    ),
    "querysets are not captured": Break(
        "write.bulk_rows:collect_rows",
        "collect_affected_keys(intents[cache], entries, row, changed, exists=not deleted)",
        "pass",
    ),
    "bulk_create is not captured": Break(
        "write.bulk_queries:TrackedBulkCreate.write",
        "collect_rows(intents, model, await self._insert(client), None)",
        "await self._insert(client)",
    ),
    "many-to-many add, remove and clear are not captured": Break(
        "write.many_to_many:TrackedRelation._collect_keys", "intent.add(through.rows, clears)", "pass"
    ),
    "rows that a delete cascades to are not captured": Break(
        "write.cascades:collect_cascade", "_collect_row(intent, graph, key, {**child, **new_values[child_id]})", "pass"
    ),
    "the epoch is not marked": Break(
        "engine.intent:Intent.add_model", "{epoch: Clear(epoch) for epoch in partitions.epochs}", "{}"
    ),
    "a write drops nothing from its scope": Break("engine.intent:Intent._drop", "scope.drop(self.clears)", "pass"),
    "a refused save leaves its instance in the scope": Break(
        "write.calls:WriteCall._end_intents", "scope.discard(self.instance)", "pass"
    ),
    "the versions of tables are not marked": Break(
        "engine.intent:Intent.add_tables", "self.clears.update({key: Clear(key) for key in keys})", "pass"
    ),
    "what a result was derived from is not compared": Break(
        "entries.derived:DerivedValue.is_current", "entry[:PREFIX_SIZE] != token", "False"
    ),
    "entries that answered a computation are not recorded": Break(
        "plans.tracking:_Record.finish", "self._tracker.add_all(self._tokens)", "pass"
    ),
    "statements of a computation are not recorded": Break(
        "orm.observed:observe_connection", "setattr(client, name, _wrap(client, getattr(client, name), count))", "pass"
    ),
    "derived results stay in their scope": Break(
        "scopes.request:Scope.drop", "scope._answers.pop(scope._derived.pop(), None)", "scope._derived.pop()"
    ),
    "a value is not invalidated": Break("write.manual:invalidate_entries", "intent.add(versioned, clears)", "pass"),
    "a query does not depend on the tables that it joins": Break(
        "engine.derivation:Derivations._before_statement", "in names or [UNKNOWN]", "in names[:1]", "joins"
    ),
    "the versions of through tables are not marked": Break(
        "write.many_to_many:TrackedRelation._collect_keys",
        "intent.add_tables(cache.versions.through_keys(through_table(self.field)))",
        "pass",
        "joins",
    ),
    "the tables that a delete cascades to are not marked": Break(
        "entries.versions:TableVersions.deleted_with", "self._deleted.get(model, ())", "()", "joins"
    ),
    "the limit is not part of the key of a query": Break(
        "orm.query_state:_Reading.query",
        "if value or type(value) is int",
        'if name != "_limit" and (value or type(value) is int)',
        "rows",
    ),
    "the group that a row leaves is not marked": Break(
        "write.affected:old_value_columns",
        "return affected_entries(entries, changed).old_value_columns",
        "return []",
        "groups",
    ),
    "a query by a negated condition depends on its group alone": Break(
        "orm.query_filters:_conditions", "and not condition._is_negated", "", "groups"
    ),
    "a query of one group does not depend on the epoch": Break(
        "query.querysets:QuerysetQuery._depend_on_group",
        "[group, groups.partitions.epoch_of(group)]",
        "[group]",
        "groups",
    ),
    "a query that names an ignored column ignores its writes": Break(
        "entries.versions:TableVersions.reads_ignored",
        "self._narrow[key][1].isdisjoint(words)",
        "True",
        "ignored columns",
    ),
    "writes of other columns beside an ignored one are ignored": Break(
        "write.affected:_is_ignored",
        "rows.queries_ignore.issuperset(changed)",
        "not rows.queries_ignore.isdisjoint(changed)",
        "ignored columns",
    ),
    "a nested result is derived from itself alone": Break(
        "plans.tracking:_Record._compute", "self._tracker.add_all(inner.dependencies)", "pass", "functions"
    ),
}


@pytest.mark.only_on("sqlite", because="the library is broken above any database")
@pytest.mark.only_on("memory", because="the library is broken above any store, but for one break in this one")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", share(BREAKS))
def test_the_state_machine_finds_each_break(db_url: DatabaseUrl, backend_url: str, name: str) -> None:
    """The machine finds most breaks within as many examples as the unbroken library passes above."""
    with BREAKS[name].applied(), pytest.raises(AssertionError) as found:
        explore(
            db_url,
            backend_url,
            lambda: None,
            LIMIT,
            BREAKS[name].kind,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        )
    print(f"{name}: {found.value}")
