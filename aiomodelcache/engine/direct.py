"""Lookups inside a transaction: their plans run on the database alone, on the caller's own connection.

Must not know how requests of several plans are merged: each plan runs by itself, and stores nothing.
"""

from typing import Any, TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.backends.near import Near
from aiomodelcache.engine.computations import Computations
from aiomodelcache.engine.loader import ComputedValue
from aiomodelcache.engine.statements import Statements
from aiomodelcache.observe.events import Lookup
from aiomodelcache.plans.requests import ComputeValue, Load, Plan
from aiomodelcache.plans.steps import answer_without_store

T = TypeVar("T")


class DirectRuns:
    """Runs of plans inside the transactions of their callers."""

    def __init__(self, statements: Statements, computations: Computations, near: Near) -> None:
        self._statements = statements
        self._computations = computations
        self._near = near

    async def run(self, plan: Plan[T], client: BaseDBAsyncClient, operation: Lookup | None = None) -> T:
        """Runs a plan on the database alone, in the caller's own transaction. Fills nothing."""
        operations = () if operation is None else (operation,)
        answer: Any = None
        try:
            while True:
                request = plan.send(answer)
                if isinstance(request, Load):
                    try:
                        answer = await self._statements.select(
                            request.entry_set, request.wanted, client, operations, only_pks=request.only_pks
                        )
                        if request.entry_set.rows.near:
                            self._catch_up_near()
                    except Exception as error:
                        answer = answer_without_store(plan.throw(error))
                elif isinstance(request, ComputeValue):
                    try:
                        computation = self._computations.observed(request.compute(client), operations)
                        answer = ComputedValue(await computation)
                        if self._near.covers(request.key):
                            self._catch_up_near()
                    except Exception as error:
                        answer = answer_without_store(plan.throw(error))
                else:
                    answer = answer_without_store(request)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _catch_up_near(self) -> None:
        """Lets no near entry answer that may be older than what the database has just answered."""
        self._near.require(self._near.catch_up())
