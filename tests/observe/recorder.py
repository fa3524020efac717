"""An observer that keeps what it is told, with the request that is current in each call."""

from contextvars import ContextVar
from typing import TypeVar

from aiomodelcache.observe import Lookup, Note, Observer, Operation

OperationT = TypeVar("OperationT", bound=Operation)
NoteT = TypeVar("NoteT", bound=Note)

request: ContextVar[str] = ContextVar("request", default="none")
"""The request that the caller works for."""


class Recorder(Observer):
    """Keeps all events in their order."""

    def __init__(self) -> None:
        self.begun: list[Operation] = []
        self.ended: list[Operation] = []
        self.notes: list[Note] = []
        self.requests: dict[Operation | Note, list[str]] = {}
        """The value of ``request`` in each call about an operation or a note."""

    def begin(self, operation: Operation) -> None:
        assert operation.duration is None
        self.begun.append(operation)
        self.requests[operation] = [request.get()]

    def end(self, operation: Operation) -> None:
        assert operation in self.begun
        assert operation not in self.ended
        assert operation.duration is not None
        self.ended.append(operation)
        self.requests[operation].append(request.get())

    def note(self, note: Note) -> None:
        self.notes.append(note)
        self.requests.setdefault(note, []).append(request.get())

    def operations(self, kind: type[OperationT]) -> list[OperationT]:
        """Returns the operations of one kind that have ended."""
        return [each for each in self.ended if isinstance(each, kind)]

    def noted(self, kind: type[NoteT]) -> list[NoteT]:
        """Returns the notes of one kind."""
        return [each for each in self.notes if isinstance(each, kind)]

    def lookups(self) -> list[tuple[str, str | None]]:
        """Returns the class and the outcome of the lookups of callers that have ended."""
        return [(each.cache, each.outcome) for each in self.operations(Lookup) if not each.background]

    def clear(self) -> None:
        """Forgets all events. Nothing may be in progress."""
        assert self.begun == [] or set(self.begun) == set(self.ended)
        self.begun, self.ended, self.notes, self.requests = [], [], [], {}
