"""Lets one thing happen at a time, in an order of its choice: a scheduler for the real code.

Whatever the code under test sends, to the store or to the database, waits here for its turn (``Scheduler.step``). When
nothing else can happen in the event loop, one of the steps that wait is let go. A *schedule* is the list of these
choices, and the same choices make the same run.

Steps belong to threads: the requests of an actor, and the work that they cause. The first choice is always to
go on with the same thread, in the order in which its steps came. Anything else, while it can go on, is a *preemption*;
most races need one or two.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Actor = Callable[[], Coroutine[Any, Any, None]]
Choices = tuple[int, ...]
Choose = Callable[[int, Sequence[int]], int]
"""Given the number of the choice and what each possibility costs: which."""


def _always() -> bool:
    return True


class Clock:
    """The time of all actors."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class LostWaiter(AssertionError):
    """Some actors wait for an event that no other actor will cause."""


class Cancel(NamedTuple):
    """At this step of a run, cancel this actor; if ``sent``, what it sends then is done, but not answered."""

    step: int
    actor: str
    sent: bool = False


class Fail(NamedTuple):
    """The request of this step fails; if ``done``, it takes effect, and only its answer is lost."""

    step: int
    done: bool = False


Mishap = Cancel | Fail | None


@dataclass(eq=False)
class Step:
    """Something that waits for its turn."""

    name: str
    thread: str
    task: asyncio.Task[Any] | None
    ready: Callable[[], bool]
    failing: Callable[[], Exception] | None
    turn: asyncio.Future[None]
    local: bool = False
    """True if no other actor takes part in the step. Then it is taken as soon as it waits."""
    mishap: Mishap = None


@dataclass
class Run:
    """What happened: the choices made, and what they were made from."""

    choices: list[int] = field(default_factory=list)
    costs: list[list[int]] = field(default_factory=list)
    """For each choice, of each step that could be chosen: 1 if it is a preemption."""
    trace: list[str] = field(default_factory=list)
    alive: list[list[tuple[str, bool]]] = field(default_factory=list)
    """For each choice: the actors that had begun and not ended, and whether the step chosen was their own."""
    can_fail: list[bool] = field(default_factory=list)
    """For each choice: whether the step chosen can fail."""

    def __str__(self) -> str:
        steps = [f"  {number:2}  {step}" for number, step in enumerate(self.trace)]
        return "\n".join([f"choices={','.join(map(str, self.choices))}", *steps])


class Scheduler:
    """Runs steps one at a time. Outside of ``run``, no step waits."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._waiting: list[Step] = []
        self._running = False
        self._thread = ""

    async def step(
        self,
        name: str,
        operation: Callable[[], Awaitable[T]],
        ready: Callable[[], bool] = _always,
        *,
        failing: Callable[[], Exception] | None = None,
        thread: str | None = None,
        local: bool = False,
    ) -> T:
        """Runs ``operation`` when its turn has come, not before it is ``ready``.

        Raises what ``failing`` returns if it is to fail.
        """
        if not self._running:
            return await operation()
        loop = asyncio.get_running_loop()
        thread = self._thread if thread is None else thread
        step = Step(name, thread, asyncio.current_task(), ready, failing, loop.create_future(), local)
        self._waiting.append(step)
        try:
            await step.turn
        finally:
            if step in self._waiting:  # cancelled: it was never sent
                self._waiting.remove(step)
        mishap = step.mishap
        if isinstance(mishap, Fail) and failing is not None and not mishap.done:
            raise failing()
        answer = await operation()
        if isinstance(mishap, Fail) and failing is not None:
            raise failing()
        if isinstance(mishap, Cancel) and step.task is not None:
            step.task.cancel()
            await asyncio.sleep(0)
        return answer

    async def run(self, actors: Mapping[str, Actor], choose: Choose, mishap: Mishap = None) -> Run:
        """Runs all actors to their end."""
        run = Run()
        self._running, self._thread = True, ""
        tasks = {name: asyncio.create_task(self._begin(name, actor), name=name) for name, actor in actors.items()}
        try:
            while await self.settle() or not all(task.done() for task in tasks.values()):
                if self._waiting or not (isinstance(mishap, Fail) and self.pass_time()):
                    self._choose(run, tasks, choose, mishap)
            for name, task in tasks.items():
                _raise_from(task, expected=isinstance(mishap, Cancel) and mishap.actor == name)
        except BaseException as error:
            error.add_note(str(run))
            raise
        finally:
            self._running = False
            for step in self._waiting:
                step.turn.cancel()
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return run

    async def _begin(self, name: str, actor: Actor) -> None:
        async def nothing() -> None:
            pass

        await self.step("begins", nothing, thread=name)
        await actor()

    async def settle(self) -> bool:
        """Lets the event loop do what can be done; returns whether anything waits for its turn then."""
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        while ready:
            await asyncio.sleep(0)
        return bool(self._waiting)

    def pass_time(self) -> bool:
        """Makes it the time for which the next timer is set. Returns whether there is any."""
        timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        if timers:
            self.clock.now = max(self.clock.now, min(timer.when() for timer in timers) + 0.001)
        return bool(timers)

    def _choose(
        self,
        run: Run,
        tasks: Mapping[str, asyncio.Task[None]],
        choose: Choose,
        mishap: Mishap,
    ) -> None:
        number = len(run.choices)
        alive = [name for name, task in tasks.items() if not task.done()]
        cancel = mishap if isinstance(mishap, Cancel) and mishap.step == number else None
        if cancel is not None and not cancel.sent and not tasks[cancel.actor].cancelling():
            tasks[cancel.actor].cancel()
            self._thread = cancel.actor
            run.trace.append(f"{cancel.actor}: cancelled")
            return
        ready = [step for step in self._waiting if step.ready()]
        ready = [step for step in ready if step.local][:1] or ready
        if not ready:
            blocked = [step.name for step in self._waiting]
            raise LostWaiter(
                f"{', '.join(alive) or 'no actor'} will wait for ever; blocked: {', '.join(blocked) or 'nothing'}"
            )
        ready.sort(key=lambda step: step.thread != self._thread)  # in the order of their arrival else
        goes_on = ready[0].thread == self._thread
        first = {step.thread: step for step in reversed(ready)}
        costs = [int(number > 0 if goes_on else step is not first[step.thread]) for number, step in enumerate(ready)]
        chosen = choose(number, costs)
        step = ready[chosen]
        owner = next((name for name, task in tasks.items() if task is step.task), "")
        run.choices.append(chosen)
        run.costs.append(costs)
        run.trace.append(f"{owner or f'for {step.thread}'}: {step.name}")
        begun = {name for names in run.alive for name, _ in names} | ({owner} - {""})
        run.alive.append([(name, name == owner) for name in alive if name in begun])
        run.can_fail.append(step.failing is not None)
        if isinstance(mishap, Fail) and mishap.step == number:
            step.mishap = mishap
            run.trace[-1] += ", which fails when it is done" if mishap.done else ", which fails"
        elif cancel is not None and cancel.sent and cancel.actor == owner:
            step.mishap = cancel
            run.trace[-1] += ", cancelled before it is answered"
        self._waiting.remove(step)
        self._thread = step.thread
        step.turn.set_result(None)


def _raise_from(task: asyncio.Task[None], *, expected: bool) -> None:
    """Raises what an actor raised; that it was cancelled only if it was not meant to be."""
    if task.cancelled() and not expected:
        raise AssertionError(f"{task.get_name()} was cancelled")
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


# Which schedules ------------------------------------------------------------------------------------------

Runner = Callable[[Choose, Mishap], Awaitable[Run]]
"""Runs a scenario once, from its beginning, and raises the first mistake."""


def following(choices: Choices) -> Choose:
    """These choices, and then to go on as long as possible. After a cancellation there may be fewer to choose from."""
    return lambda number, costs: min(choices[number], len(costs) - 1) if number < len(choices) else 0


def at_random(seed: int) -> Choose:
    """Any choice, the same ones for the same seed. Often enough to go on, or two threads would run in step."""
    chance = random.Random(seed)
    return lambda number, costs: chance.randrange(len(costs)) if chance.random() < 0.6 else 0


async def all_within(run: Runner, preemptions: int) -> AsyncIterator[Run]:
    """Every schedule with at most so many preemptions, those with the fewest first."""
    levels: list[deque[Choices]] = [deque([()]), *(deque[Choices]() for _ in range(preemptions))]
    for cost, prefixes in enumerate(levels):
        while prefixes:
            prefix = prefixes.popleft()
            done = await run(following(prefix), None)
            yield done
            for number in range(len(prefix), len(done.choices)):
                for chosen, extra in enumerate(done.costs[number]):
                    if chosen != done.choices[number] and cost + extra <= preemptions:
                        levels[cost + extra].append((*done.choices[:number], chosen))


async def cancelled_everywhere(run: Runner, base: Run) -> AsyncIterator[Run]:
    """One run for each step of ``base`` and each actor that is alive then, which is cancelled there."""
    choose = following(tuple(base.choices))
    for number, alive in enumerate(base.alive):
        for actor, own in alive:
            yield await run(choose, Cancel(number, actor))
            if own:
                yield await run(choose, Cancel(number, actor, sent=True))


async def failing_everywhere(run: Runner, base: Run) -> AsyncIterator[Run]:
    """Two runs for each step of ``base`` that can fail."""
    choose = following(tuple(base.choices))
    for number, can_fail in enumerate(base.can_fail):
        if can_fail:
            yield await run(choose, Fail(number))
            yield await run(choose, Fail(number, done=True))
