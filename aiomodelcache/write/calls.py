"""One call of ``save`` or ``delete``: the intents that it has marked, and what to do with them if it raises.

A context variable tells hooks, executors, and listeners, which are separate tasks, in which call they run.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from tortoise.models import Model

from aiomodelcache.engine.begun import Begun
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheError, StaleInstanceError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.frozen import refuse_frozen
from aiomodelcache.orm.meta import RowValues, is_saved, is_stale
from aiomodelcache.orm.outcomes import before_statement, is_settled
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import ChangedColumns, KeySnapshot
from aiomodelcache.write.transactions import Intents, abandon_intents, finish_intents


class WriteCall:
    """One call of ``save`` or ``delete``, until it returns or raises."""

    __slots__ = (
        "collect",
        "failed",
        "finish",
        "finishing",
        "instance",
        "intents",
        "is_unchanged",
        "marking",
        "may_be_unchanged",
        "needs_no_values",
        "sent",
        "snapshots",
        "unmoved",
        "unmoved_confirmed",
        "updating",
    )

    def __init__(self, instance: Model, updating: bool) -> None:
        self.instance = instance
        self.unmoved: frozenset[str] = frozenset()
        """Columns whose values the row is expected to have already. The UPDATE checks that: see ``write.unmoved``."""
        self.unmoved_confirmed = False
        """True once the UPDATE has found that the row had these values."""
        self.may_be_unchanged = False
        """True if nothing is marked, because the row seems to have all values already: see ``write.unchanged``."""
        self.is_unchanged = False
        """True once the database has confirmed that, so that no UPDATE was sent."""
        self.collect: Callable[[], Awaitable[None]] | None = None
        """Collects and marks the keys of the write, again."""
        self.updating = updating
        """True if the row must exist, even if the instance was not loaded from it (``force_update``)."""
        self.intents: Intents = {}
        """The intents marked before the statement, until they are finished or abandoned. Empty in a transaction."""
        self.snapshots: dict[RowEntries, KeySnapshot] = {}
        """The key values of each model whose keys, and the hints to leave under them, were all known beforehand."""
        self.sent: RowValues | None = None
        """The values of all columns that the statement has written, if that is known."""
        self.failed = False
        """True once the call has raised. Listeners that still run mark nothing more."""
        self.needs_no_values: tuple[bool, ChangedColumns, list[OpenCache]] | None = None
        """A delete or not, the columns and the caches for which no old value of the row determines a key."""
        self.marking: list[Begun[None]] = []
        """The marks under way, which the statement waits for."""
        self.finish: Callable[[], Coroutine[Any, Any, None]] | None = None
        """Clears the keys of a write whose statement has written its row."""
        self.finishing: Begun[None] | None = None
        """The clear under way, if it began before the statement's connection was given back."""

    async def expect_a_move(self) -> None:
        """Marks the keys that were left out so far: the row has other values than expected, or was deleted."""
        self.unmoved, self.may_be_unchanged = frozenset(), False
        if self.collect is not None:
            await self.collect()

    @before_statement
    async def marked(self) -> None:
        """Waits for the marks under way. Raises ``CacheWriteError`` if the write is to be refused."""
        while self.marking:
            await self.marking.pop(0)

    def acknowledge(self) -> None:
        """Starts to clear the marked keys, because the row is written and committed. Raises nothing."""
        if self.finish is not None and self.finishing is None and self.intents:
            if any(intent.saves is not None for intent in self.intents.values()):
                return  # the values that were sent are not known yet
            self.unmoved_confirmed = bool(self.unmoved)
            self.finishing = Begun(self.finish())

    def take_intents(self) -> Intents:
        """Returns the marked intents, and leaves none."""
        intents, self.intents = self.intents, {}
        return intents

    async def fail(self, error: BaseException) -> None:
        """Withdraws the intents, or leaves them to expire if the row may still be written."""
        self.failed = True
        try:
            await self._end_requests(error)
        finally:
            await self._end_intents(error)

    async def _end_requests(self, error: BaseException) -> None:
        """Waits for marks under way, which a clear must not overtake. The clear goes on by itself."""
        if self.finishing is not None:
            self.finishing.close()
        while self.marking:
            mark = self.marking.pop(0)
            if isinstance(error, GeneratorExit):  # a closed coroutine cannot await
                mark.close()
            else:
                with suppress(CacheError):
                    await mark

    async def _end_intents(self, error: BaseException) -> None:
        scope = current_scope()
        if scope is not None:
            scope.discard(self.instance)  # it may hold the refused values
            for intent in self.intents.values():
                intent.drop_from(scope)
        if is_settled(error):
            await finish_intents(self.take_intents(), committed=False)
        else:
            abandon_intents(self.take_intents())


_current: Final[ContextVar[WriteCall | None]] = ContextVar("aiomodelcache_write", default=None)


class intent_scope:
    """A context around ``save`` and ``delete``. If the call raises, the intents are withdrawn or left to expire."""

    __slots__ = ("_token", "_write")

    def __init__(self, instance: Model, *, updating: bool = False) -> None:
        self._write = WriteCall(instance, updating)

    async def __aenter__(self) -> None:
        self._token = _current.set(self._write)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                await self._write.fail(error)
        finally:
            _current.reset(self._token)


def current_write(instance: Model) -> WriteCall | None:
    """Returns the call in which a listener runs, or None if the model's own ``save`` was bypassed."""
    write = _current.get()
    return write if write is not None and write.instance is instance else None


def refuse_write(instance: Model, update_fields: Iterable[str] | None = None, *, action: str = "save()") -> None:
    """Raises ``StaleInstanceError`` for a save of all columns of an instance that was made of a stale copy.

    Raises ``ReadOnlyInstanceError`` for any action on a read-only instance.
    """
    refuse_frozen(instance, action)
    if action == "save()" and not update_fields and is_stale(instance) and is_saved(instance):
        name = type(instance).__name__
        raise StaleInstanceError(
            f"This {name} was answered by a stale copy (allowtime or stale_if_error), so saving all of its "
            "columns could overwrite newer values: call refresh_from_db() before you change it, or name the changed "
            "columns in save(update_fields=[...])."
        )
