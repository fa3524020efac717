"""Explores all that some processes can do together, breadth first, so that what is found first is shortest.

A process is a generator: it yields operations on a shared world and is sent their answers. One operation is one
step, and between any two steps of one process come any steps of the others. The world is a value, and an
operation makes new ones of it, one for each way in which it may turn out; none while it has to wait.

Where a process stands is its generator's position and its local variables. So these must be hashable, and
every ``yield`` a statement of its own (``x = yield ...``): what an expression has half computed is not seen.
"""

import gc
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

W = TypeVar("W", bound=Hashable)


class Outcome(NamedTuple):
    """One way in which an operation may turn out."""

    label: str
    answer: Any
    world: Any


Operation = Callable[[Any], Iterable[Outcome]]


class AtOnce(NamedTuple):
    """Asks the world in the same step as the operation before. May raise ``Violation``."""

    ask: Callable[[Any], Any]


Body = Generator[Operation | AtOnce, Any, Any]


class Violation(Exception):
    """What must never happen: of which kind, and what it was."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


LOST_WAITER = "lost waiter"
"""The kind of violation that the engine finds by itself: somebody waits for what nobody will do any more."""


class Process(NamedTuple):
    """What one process does. A mortal one may end after any of its steps but the last."""

    name: str
    body: Callable[[], Body]
    mortal: bool = False


@dataclass(frozen=True)
class System(Generic[W]):
    """Processes, the world they share, and what happens in it besides."""

    world: W
    processes: tuple[Process, ...]
    events: Callable[[W], Iterable[Outcome]]
    """What happens by itself. It must not go on for ever: a state in which nothing can happen is at rest."""
    crashed: Callable[[W, str], W]
    """The world after the process of this name has ended without a word."""
    at_rest: Callable[[W], None]
    """Raises ``Violation`` if the world is not as it must be once all have ended."""
    crashes: int = 0
    """How many mortal processes may end so."""


@dataclass(frozen=True)
class Found:
    """What an exploration found."""

    states: int
    complete: bool
    violation: Violation | None = None
    trace: tuple[str, ...] = ()
    """The steps to the violation, as few as possible."""

    def __str__(self) -> str:
        extent = f"{self.states} states" if self.complete else f"{self.states} states, not all"
        if self.violation is None:
            return f"sound ({extent})"
        steps = [f"  {number:2}  {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([str(self.violation), *steps, f"  ({extent})"])


def explore(system: System[Any], limit: int = 10_000_000) -> Found:
    """Tries all interleavings, up to ``limit`` states. Returns the shortest way to a violation, or none."""
    programs = [Program(process) for process in system.processes]
    first = (system.world, tuple([program.start() for program in programs]), system.crashes)
    parents: dict[Any, tuple[Any, str] | None] = {first: None}
    queue = deque([first])
    with _without_collecting():
        return _breadth_first(system, programs, parents, queue, limit)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Nothing here is garbage or refers to itself; looking through it all again and again takes most of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _breadth_first(
    system: System[Any],
    programs: "list[Program]",
    parents: dict[Any, tuple[Any, str] | None],
    queue: deque[Any],
    limit: int,
) -> Found:
    while queue and len(parents) <= limit:
        state = queue.popleft()
        label = "at rest"
        try:
            moved = False
            for label, following in _steps(system, programs, state):
                moved = True
                if isinstance(following, Violation):
                    raise following
                if following not in parents:
                    parents[following] = state, label
                    queue.append(following)
            _check_end(system, programs, state, moved)
        except Violation as violation:
            return Found(len(parents), False, violation, (*_trace(parents, state), label))
    return Found(len(parents), not queue)


def _steps(system: System[Any], programs: "list[Program]", state: Any) -> Iterator[tuple[str, Any]]:
    world, positions, crashes = state
    for at, (program, position) in enumerate(zip(programs, positions, strict=True)):
        operation = program.operation(position)
        if operation is None:
            continue
        for label, answer, after in operation(world):
            label = f"{program.name}: {label}"
            try:
                moved = program.resume(position, answer, after)
            except Violation as violation:
                yield label, violation
                continue
            yield label, (after, (*positions[:at], moved, *positions[at + 1 :]), crashes)
        if crashes and program.mortal and position != program.start():
            ended = (*positions[:at], program.END, *positions[at + 1 :])
            yield f"{program.name}: crash", (system.crashed(world, program.name), ended, crashes - 1)
    for label, _, after in system.events(world):
        yield label, (after, positions, crashes)


def _check_end(system: System[Any], programs: "list[Program]", state: Any, moved: bool) -> None:
    world, positions, _ = state
    waiting = [p.name for p, at in zip(programs, positions, strict=True) if p.operation(at) is not None]
    if not waiting:
        system.at_rest(world)
    elif not moved:
        raise Violation(LOST_WAITER, f"{', '.join(waiting)} will wait for ever")


def _trace(parents: dict[Any, tuple[Any, str] | None], state: Any) -> list[str]:
    labels: list[str] = []
    while (parent := parents[state]) is not None:
        state, label = parent
        labels.append(label)
    return labels[::-1]


class Program:
    """A process whose generator can go on from any position that it was ever in.

    A generator cannot be copied. So each position is known by the answers that first led there, and reached
    again by running a new generator on these; where it gets to by one more answer is remembered.
    """

    END = 0

    def __init__(self, process: Process) -> None:
        self.name, self._body, self.mortal = process
        self._answers: list[tuple[Any, ...]] = [()]
        self._operations: list[Operation | AtOnce | None] = [None]
        self._numbers: dict[Hashable, int] = {}
        self._moves: dict[tuple[int, Any], int] = {}
        self._start = self._reach(())

    def start(self) -> int:
        """The position before the first step."""
        return self._start

    def operation(self, position: int) -> Any:
        """What the process does next; None at its end."""
        return self._operations[position]

    def resume(self, position: int, answer: Any, world: Any) -> int:
        """Where the process stands after this answer. Raises ``Violation``."""
        while True:
            moved = self._moves.get((position, answer))
            if moved is None:
                moved = self._moves[position, answer] = self._reach((*self._answers[position], answer))
            request = self._operations[moved]
            if not isinstance(request, AtOnce):
                return moved
            position, answer = moved, request.ask(world)

    def _reach(self, answers: tuple[Any, ...]) -> int:
        generator = self._body()
        try:
            request = next(generator)
            for answer in answers:
                request = generator.send(answer)
        except StopIteration:
            return self.END
        number = self._numbers.setdefault(_position(generator), len(self._answers))
        if number == len(self._answers):
            self._answers.append(answers)
            self._operations.append(request)
        return number


def _position(generator: Any) -> Hashable:
    """Where a generator stands, and those that it waits for."""
    frames: list[Hashable] = []
    while generator is not None:
        frame = generator.gi_frame
        frames.append((frame.f_code, frame.f_lasti, tuple(frame.f_locals.items())))
        generator = generator.gi_yieldfrom
    return tuple(frames)
