"""One call of ``save`` or ``delete``: the intents that it has marked, and what to do with them if it raises.

Tortoise runs listeners as separate tasks. A context variable tells them in which call they run.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import Final

from tortoise.models import Model

from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import StaleInstanceError
from aiomodelcache.orm.frozen import refuse_frozen
from aiomodelcache.orm.meta import RowValues, is_saved, is_stale
from aiomodelcache.orm.outcomes import is_settled
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import KeySnapshot
from aiomodelcache.write.transactions import Intents, abandon, finish_intents


class Write:
    """One call of ``save`` or ``delete``, until it returns or raises."""

    __slots__ = (
        "collect",
        "failed",
        "instance",
        "intents",
        "is_unchanged",
        "may_be_unchanged",
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

    async def expect_a_move(self) -> None:
        """Marks the keys that were left out so far: the row has other values than expected, or was deleted."""
        self.unmoved, self.may_be_unchanged = frozenset(), False
        if self.collect is not None:
            await self.collect()

    def take_intents(self) -> Intents:
        """Returns the marked intents, and leaves none."""
        intents, self.intents = self.intents, {}
        return intents

    async def fail(self, error: BaseException) -> None:
        """Withdraws the intents, or leaves them to expire if the row may still be written."""
        self.failed = True
        scope = current_scope()
        if scope is not None:
            scope.forget(self.instance)  # it may hold the refused values
            for intent in self.intents.values():
                intent.drop_from(scope)
        if is_settled(error):
            await finish_intents(self.take_intents(), committed=False)
        else:
            abandon(self.take_intents())


_current: Final[ContextVar[Write | None]] = ContextVar("aiomodelcache_write", default=None)


class intent_scope:
    """A context around ``save`` and ``delete``. If the call raises, the intents are withdrawn or left to expire."""

    __slots__ = ("_token", "_write")

    def __init__(self, instance: Model, *, updating: bool = False) -> None:
        self._write = Write(instance, updating)

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


def current_write(instance: Model) -> Write | None:
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
