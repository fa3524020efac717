"""A model checker: explores all interleavings of some processes, breadth first, so counterexamples are shortest.

A process is a generator that yields operations on a shared world and receives their answers. One operation is one
step, and between two steps of a process any steps of the others may come. The world is an immutable value. An
operation returns one new world for each possible outcome, or none while it must wait.

The state of a process is the position and the local variables of its generator. So local variables must be hashable,
and every ``yield`` must be a statement of its own (``x = yield ...``), since intermediate values are not compared.
"""

import gc
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

W = TypeVar("W", bound=Hashable)


class Outcome(NamedTuple):
    """One possible outcome of an operation."""

    label: str
    answer: Any
    world: Any


Operation = Callable[[Any], Iterable[Outcome]]


class AtOnce(NamedTuple):
    """A look at the world in the same step as the previous operation. May raise ``Violation``."""

    ask: Callable[[Any], Any]


Body = Generator[Operation | AtOnce, Any, Any]


class Violation(Exception):
    """A state that must never be reached, with its kind and a description."""

    def __init__(self, kind: str, description: str) -> None:
        super().__init__(f"{kind}: {description}")
        self.kind = kind


LOST_WAITER = "lost waiter"
"""The kind of violation that the engine itself finds: a process waits for an event that can no longer happen."""


class Process(NamedTuple):
    """One process. A mortal process may crash after any of its steps except the last."""

    name: str
    body: Callable[[], Body]
    mortal: bool = False


@dataclass(frozen=True)
class System(Generic[W]):
    """Processes, the world that they share, and its other events."""

    world: W
    processes: tuple[Process, ...]
    events: Callable[[W], Iterable[Outcome]]
    """Returns the outcomes of events without a process. They must end, since a state without steps is at rest."""
    crashed: Callable[[W, str], W]
    """Returns the world after the process of this name has crashed."""
    at_rest: Callable[[W], None]
    """Raises ``Violation`` if the world is wrong after all processes have ended."""
    crashes: int = 0
    """Maximum number of mortal processes that crash."""


@dataclass(frozen=True)
class Exploration:
    """The result of an exploration."""

    states: int
    complete: bool
    violation: Violation | None = None
    trace: tuple[str, ...] = ()
    """The shortest sequence of steps to the violation."""

    def __str__(self) -> str:
        extent = f"{self.states} states" if self.complete else f"{self.states} states, not all"
        if self.violation is None:
            return f"sound ({extent})"
        steps = [f"  {number:2}  {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([str(self.violation), *steps, f"  ({extent})"])


def explore(system: System[Any], limit: int = 10_000_000) -> Exploration:
    """Explores all interleavings, up to ``limit`` states. Returns the shortest trace to a violation, if any."""
    programs = [Program(process) for process in system.processes]
    first = (system.world, tuple([program.start() for program in programs]), system.crashes)
    parents: dict[Any, tuple[Any, str] | None] = {first: None}
    queue = deque([first])
    with _without_garbage_collection():
        return _breadth_first(system, programs, parents, queue, limit)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disables the garbage collector, which would take most of the time and find no garbage."""
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
) -> Exploration:
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
            return Exploration(len(parents), False, violation, (*_trace(parents, state), label))
    return Exploration(len(parents), not queue)


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
    """A process whose generator can continue from any position that it has reached.

    A generator cannot be copied. So each position is stored as the answers that first led there, and a new generator
    replays them. The next position after one more answer is cached.
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
        """Returns the position before the first step."""
        return self._start

    def operation(self, position: int) -> Any:
        """Returns the next operation of the process, or None at its end."""
        return self._operations[position]

    def resume(self, position: int, answer: Any, world: Any) -> int:
        """Returns the position of the process after an answer. Raises ``Violation``."""
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
    """Returns the state of a generator and of the generators that it delegates to."""
    frames: list[Hashable] = []
    while generator is not None:
        frame = generator.gi_frame
        frames.append((frame.f_code, frame.f_lasti, tuple(frame.f_locals.items())))
        generator = generator.gi_yieldfrom
    return tuple(frames)
