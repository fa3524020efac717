"""The guards of the library, each with its code, and with the code that removes it."""

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Guard(NamedTuple):
    """A piece of a function's source, the code without the guard, and a scenario that needs the guard."""

    where: str
    """The module and the function, separated by a colon."""
    line: str
    without: str
    scenario: str

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Removes the guard from the library for the block. Fails if the function lacks the guard's code."""
        name, _, path = self.where.partition(":")
        module = importlib.import_module(f"aiomodelcache.{name}")
        function: Any = module
        for attribute in path.split("."):
            function = getattr(function, attribute)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.line) == 1, f"{self.where} has changed: name the line that is this guard now\n{source}"
        namespace: dict[str, Any] = {}
        exec(
            compile(source.replace(self.line, self.without), f"<without {self.line}>", "exec"),
            function.__globals__,
            namespace,
        )
        # Replaces the code instead of the name, since other modules have imported the function.
        code = function.__code__
        function.__code__ = namespace[function.__name__].__code__
        try:
            yield
        finally:
            function.__code__ = code


GUARDS = {
    # Readers.
    "a fill compares with the lease": Guard(
        "backends.memory:MemoryBackend._fill",
        "value is None or value[:PREFIX_SIZE] != fill.expected",
        "False",
        "save, by id elsewhere",
    ),
    "an intent outlives late readers": Guard(
        "engine.writer:Writer._mark", "self._expiry", "self._config.intent_ttl", "a slow writer that crashed"
    ),
    "a lease leaves intents alone": Guard(
        "plans.steps:replaceable_prefix",
        "if not entry or is_lease(entry) or is_intent(entry):",
        "if not entry:",
        "save, by id elsewhere",
    ),
    "a late lease compares the stamp": Guard(
        "plans.late_leases:acquire_late_leases", "version == versions[stamp]", "True", "save, by name elsewhere"
    ),
    "a row that is stored at once compares the stamp": Guard(
        "backends.memory:MemoryBackend._fill_late",
        "self._get(late.stamp, now) != late.expected or ",
        "",
        "at once: save, by name elsewhere",
    ),
    "a row that is stored at once replaces no intent": Guard(
        "backends.memory:MemoryBackend._fill_late",
        '(value or b"")[: PREFIX_SIZE if late.replacing else None] != late.replacing',
        "False",
        "at once: save, by name and id",
    ),
    "a row that is stored at once is stored in time": Guard(
        "backends.memory:MemoryBackend._fill_late",
        " or now >= late.until_ms",
        "",
        "at once: a writer that crashed",
    ),
    "a slow reader does not fill": Guard(
        "engine.leases:Leases._store", "if now < attempt.deadline", "", "a writer that crashed"
    ),
    "a lease is extended, and not taken again": Guard(
        "engine.lease_extensions:LeaseExtensions._check",
        "self._tasks.start(self._extend(fills))",
        "from aiomodelcache.backends.protocol import Lease\n"
        "            lease = self._guarded.backend.lease([Lease(fill.key) for fill in fills], own[1:], ttl_ms)\n"
        "            self._tasks.start(lease)",
        "slow, by id",
    ),
    "every lease has its own token": Guard(
        "engine.leases:Leases._acquire",
        "Attempt(new_token(), deadline)",
        'Attempt(b"t" * 16, deadline)',
        "two indexes to one row",
    ),
    "an entry has the current epoch": Guard(
        "entries.rows:RowEntries.read", "self._guard_of(epoch)", "entry[GUARD]", "past the limit"
    ),
    "a row has the values of the index key": Guard(
        "entries.indexes:IndexEntries.matches",
        "all(map(eq, own, values))",
        "True",
        "re-key, warm",
    ),
    "waiters of a fill are woken": Guard(
        "engine.leases:Leases.end_flights", "flight.set_result(None)", "pass", "single flight"
    ),
    "waiters of a fill wait for its end": Guard(
        "engine.leases:Leases._flight", "flight = self._flights[key] = asyncio", "flight = asyncio", "single flight"
    ),
    "a cancelled caller does not end the batch": Guard(
        "engine.run:resolve_future", "if not future.done():", "if True:", "beside a cancelled one"
    ),
    "lookups inside a transaction read the database": Guard(
        "orm.schema:ModelSchema.transaction",
        "_finalized:\n        return client",
        "_finalized:\n        return None",
        "transaction that reads",
    ),
    # Transactions of the library's own.
    "a cancelled BEGIN gives its connection back": Guard(
        "orm.transactions:SafeTransaction.__aenter__",
        "await self._leave(intact=False, cancelled=isinstance(error, asyncio.CancelledError))",
        "pass",
        "update of a queryset",
    ),
    "giving a connection back is not cancelled": Guard(
        "orm.transactions:SafeTransaction._leave",
        "await to_its_end(self._connection.release(intact=intact), cancelled=cancelled)",
        "await self._connection.release(intact=intact)",
        "update of a queryset",
    ),
    "the context is reset": Guard(
        "orm.transactions:SafeTransaction._leave",
        "get_connections().reset(self._token)",
        "pass",
        "update of a queryset, then a new row",
    ),
    "a connection whose state is not known is closed": Guard(
        "orm.transactions:_PooledConnection.release", "if not intact:", "if False:", "update of a queryset"
    ),
    # Writers.
    "a cancelled save waits for its outcome": Guard(
        "write.saves:run_write", "await settled(call())", "await call()", "save, by id"
    ),
    "a cancelled COMMIT is waited for": Guard(
        "write.transactions:_wrap", "settled(commit_until_clear())", "commit_until_clear()", "update of a queryset"
    ),
    "a write is marked": Guard(
        "engine.writer:Writer.mark",
        "while keys := intent.clears.keys() - intent.marked:",
        "while keys := ():",
        "save, warm",
    ),
    "a transaction is marked before its COMMIT": Guard(
        "write.transactions:_wrap", "await _mark(intents)", "pass", "save and transaction"
    ),
    "a key can hold several intents": Guard(
        "backends.memory:MemoryBackend.mark",
        "*_others(self._get_intents(key, now), token, now), own",
        "own",
        "two saves, looked up twice",
    ),
    "a clear keeps the intents of other writers": Guard(
        "backends.memory:MemoryBackend._clear",
        "if others := _others(intents, token, now):",
        "if others := []:",
        "two saves, looked up twice",
    ),
    "the stamp is changed": Guard(
        "engine.writer:Writer._clear", "list(intent.stamps)", "[]", "save, by name elsewhere"
    ),
    "the keys of indexes are marked": Guard(
        "write.affected:_affected_indexes", "return indexes", "return []", "create over an absence"
    ),
    "a save that marks no list checks that the row is in it": Guard(
        "write.unmoved:_ConditionalConnection.execute_query",
        'f"{sql} AND {conditions}", [*values, *parameters]',
        "sql, values",
        "moved, and back by another save",
    ),
    "lists are invalidated if the row was not in them": Guard(
        "write.calls:WriteCall.expect_a_move",
        "self.unmoved, self.may_be_unchanged = frozenset(), False",
        "self.unmoved_confirmed, self.may_be_unchanged = True, False",
        "moved, and back by another save",
    ),
    "results are marked": Guard(
        "write.affected:collect_result_keys", "intent.add(entries.rows, [clear])", "pass", "computed, moved away"
    ),
    "past the limit the epoch is marked": Guard(
        "engine.intent:Intent.add_model",
        "{epoch: Clear(epoch) for epoch in partitions.epochs}",
        "{}",
        "past the limit",
    ),
    "a rollback withdraws its intents": Guard(
        "write.transactions:_wrap",
        "await _finish_rolled_back(client, intents)\n\n    client.commit",
        "pass\n\n    client.commit",
        "transaction, by id",
    ),
    "a rollback that a write survives clears its keys": Guard(
        "write.transactions:_finish_rolled_back",
        "committed=may_survive",
        "committed=False",
        "a write that survives its rollback",
    ),
    "a transaction that cannot be marked is rolled back": Guard(
        "write.transactions:_wrap",
        "next BEGIN.\n            await rollback_and_clear()",
        "next BEGIN.",
        "transaction, by id",
    ),
    "a clear goes on when its caller is cancelled": Guard(
        "engine.tasks:BackgroundTasks.start_shielded",
        "self.start(_run_and_notify(work, done)).add_done_callback(end)\n    return done",
        "return self.start(work)",
        "invalidated by hand",
    ),
    "clearing a model goes on when its caller is cancelled": Guard(
        "engine.writer:Writer.clear_models", "self._tasks.start(self._withdraw(intent))", "pass", "cleared by hand"
    ),
    "a stale copy has its own token": Guard(
        "engine.intent:stale_copy", "new_token()", "entry[1:PREFIX_SIZE]", "a stale copy, twice"
    ),
    "a stale copy is not kept longer": Guard(
        "backends.memory:MemoryBackend.mark",
        "min(int(deadline), now + allow[key])",
        "now + allow[key]",
        "a stale copy, twice",
    ),
    "a write drops affected instances from the scope": Guard(
        "engine.intent:Intent._drop", "scope.drop(self.clears)", "pass", "in a scope"
    ),
    # Many-to-many lists and relation paths.
    "many-to-many lists are marked": Guard(
        "write.many_to_many:TrackedRelation._collect_keys", "intent.add(through.rows, clears)", "pass", "linked"
    ),
    "many-to-many lists of the other side are marked": Guard(
        "write.many_to_many:TrackedRelation._collect_keys",
        "[self.instance.pk] if is_own else pks",
        "[self.instance.pk] if is_own else []",
        "linked from the other side",
    ),
    "clearing a relation locks the row": Guard(
        "write.many_to_many:TrackedRelation._capture",
        "await lock_by_pk(model, locking, [self.instance.pk], [pk_of(model)])",
        "pass",
        "linked and all unlinked from the other side",
    ),
    "a delete locks the row": Guard(
        "write.old_values:lock_row",
        "[*await lock_by_pk(model, client, [instance.pk], [pk_of(model), *wanted])]",
        "[vars(instance)]",
        "linked, deleted and created again",
    ),
    "a lock on SQLite is a lock": Guard(
        "orm.statements:lock_rows", "await lock_database(model, client)", "pass", "linked, deleted and created again"
    ),
    "lists that hold a deleted row are marked": Guard(
        "write.cascades:collect_cascade",
        "await collect_list_keys(intent, graph, parent, rows, client, deleting=True)",
        "pass",
        "a linked row, deleted and created again",
    ),
    "a deleted row's own lists are marked": Guard(
        "write.affected:collect_affected_keys",
        "clears += [Clear(through.key((pk,))) for through in entries.owned]",
        "pass",
        "a linking row, deleted and created again",
    ),
    "a list is in the order of its rows": Guard(
        "entries.many_to_many:ManyToManyEntries.confirms",
        "pks.digest == self._digest(rows)",
        "True",
        "in another order",
    ),
    "a path does not reuse rows that were prefetched earlier": Guard(
        "plans.paths:PathRun.with_prefetched",
        "self._prefetched.clear",
        "lambda: None",
        "path, and one moves after the other",
    ),
    "rows that a delete cascades to are marked": Guard(
        "write.cascades:_collect_row",
        "collect_affected_keys(intent, entries, row, () if deleted else {key.attribute}, exists=not deleted)",
        "pass",
        "path, and the label is deleted",
    ),
    # Values and results.
    "the results that a row leaves are marked": Guard(
        "write.saves:_before",
        "collect_result_keys(intent, entries, row, None if deleting else changed)",
        "pass",
        "counted, moved",
    ),
    "a value is invalidated at COMMIT": Guard(
        "write.manual:invalidate_entries",
        "outer = [found for client in clients if (found := outermost(client)) is not None]",
        "outer = []",
        "a value, invalidated at COMMIT",
    ),
    "a transaction that invalidated a value computes it": Guard(
        "declare.values:BaseValueQuery.transaction",
        "if is_invalidated_in(client, cache, result, key)",
        "if False",
        "a value, invalidated at COMMIT",
    ),
    "invalidating a value goes on when its caller is cancelled": Guard(
        "write.manual:invalidate_entries",
        "cache.writer.finish(intent, committed=True)\n                raise",
        "raise",
        "a stale value",
    ),
    "a model is cleared at COMMIT": Guard(
        "write.manual:clear_declarations",
        "outer = [found for client in clients if client is not None and (found := outermost(client)) is not None]",
        "outer = []",
        "cleared in a transaction",
    ),
    "a result that lacks one of its rows is a miss": Guard(
        "plans.results:_read_value", "if len(instances) < len(referred):", "if False:", "members, deleted"
    ),
    # Replicas, and entries near their end.
    "written rows stay marked while replicas lag": Guard(
        "engine.writer:Writer._clear",
        "intent.row_keys() if lag is not None else set[bytes]()",
        "set[bytes]()",
        "replica",
    ),
    "a cleared model stays marked while replicas lag": Guard(
        "engine.intent:Intent.row_keys",
        "{key for rows in models for key in rows.partitions.epochs}",
        "{b'' for rows in models}",
        "replica, past the limit",
    ),
    "a refresh gives its election back": Guard(
        "plans.refresh:_refresh", "yield StoreFills([*fills, election])", "yield StoreFills([*fills])", "near its end"
    ),
    "a refresh gives its leases back during an outage": Guard(
        "engine.reader:Reader._advance",
        "if run.background and request.deadline is None:",
        "if run.background:",
        "near its end, by name",
    ),
    # Rows that writers store.
    "a row is not stored if another writer has changed the stamp": Guard(
        "backends.memory:MemoryBackend.clear_and_save",
        "self._get(save.stamp, now) == save.expected",
        "True",
        "stored, three saves",
    ),
    "a row is not stored late": Guard(
        "backends.memory:MemoryBackend._save",
        "and now < save.until_ms",
        "",
        "stored, and a slow writer that crashed",
    ),
    "a row that an UPDATE did not find is not stored": Guard(
        "write.sent:_note", "write.sent = values", "write.sent = {**vars(instance)}", "stored, save and delete"
    ),
    "a row has the epoch of before the COMMIT": Guard(
        "entries.rows:RowEntries._decoded_now", "entry[GUARD] != self._guard or ", "", "stored, past the limit"
    ),
    # Writes by other programs.
    "entries answer only while a relay lives": Guard(
        "engine.relayed:Relayed.refuses", "return lost and not self.serves", "return False", "outside, and no relay"
    ),
    "derived results answer only while a relay lives": Guard(
        "relay.watch:_dependents",
        "for key in (*epochs, version):",
        "for key in epochs:",
        "outside, and values derived without a relay",
    ),
    "a relay invalidates before it deletes": Guard(
        "relay.relay:Drain.drain",
        "await self._invalidator.invalidate(changes)\n        await source.delete([change.id for change in changes])",
        "await source.delete([change.id for change in changes])\n        await self._invalidator.invalidate(changes)",
        "outside, by id",
    ),
    "lines are trimmed after the line that stands for them is there": Guard(
        "relay.source:TriggerSource.trim",
        'await client.execute_query(f"INSERT INTO {CHANGES} ({columns}) VALUES {values}")\n'
        "        await self._lines.delete([line.id for line in lines])",
        "await self._lines.delete([line.id for line in lines])\n"
        '        await client.execute_query(f"INSERT INTO {CHANGES} ({columns}) VALUES {values}")',
        "outside, and lines that are trimmed",
    ),
    "a relay that has left out a line claims nothing": Guard(
        "relay.relay:Drain.drain",
        "if source.left_out:\n        return False",
        "",
        "outside, and more than one drain",
    ),
    "a relay reads the clock before the lines": Guard(
        "relay.relay:Drain.drain",
        "await self._claim(self.liveness_key, due.t0 +",
        "await self._claim(self.liveness_key, await self._clock() +",
        "outside, and a relay that comes late",
    ),
    "a relay changes the stamp": Guard("engine.writer:Writer._clear", "list(intent.stamps)", "[]", "outside, by name"),
    "a relay clears the version of the table": Guard(
        "engine.intent:Intent.add_tables",
        "self.clears.update({key: Clear(key) for key in keys})",
        "pass",
        "outside, and values derived from it",
    ),
    # Saves that change nothing.
    "a save that changes nothing asks the database": Guard(
        "write.unchanged:_is_unchanged",
        "bool(names) and await has_values(instance, executor, names)",
        "True",
        "kept, by id",
    ),
    "a save that seemed to change nothing marks its keys": Guard(
        "write.unchanged:_is_unchanged", "await write.expect_a_move()", "write.may_be_unchanged = False", "kept, by id"
    ),
    # Derived results.
    "a derived result compares the tokens of what it was read from": Guard(
        "entries.derived:DerivedValue.is_current",
        "entry[:PREFIX_SIZE] != token",
        "False",
        "derived by lookup, saved",
    ),
    "a write marks the version of its table": Guard(
        "engine.intent:Intent.add_tables",
        "self.clears.update({key: Clear(key) for key in keys})",
        "pass",
        "derived by statement, saved",
    ),
    "an outer result depends on what the inner one was read from": Guard(
        "plans.tracking:_Record._compute",
        "self._tracker.add_all(inner.dependencies)",
        "pass",
        "derived by result, cold",
    ),
    "a version stands for rows that were not stored": Guard(
        "plans.tracking:_Record.finish", "self._tracker.add_table(table)", "pass", "derived by list, cold"
    ),
}
