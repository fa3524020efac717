"""Counts the instructions of Python that a piece of work takes. Other load on the machine does not change them."""

import linecache
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any


async def instructions(work: Callable[[], Awaitable[Any]], pattern: str = "", runs: int = 20) -> tuple[int, int]:
    """Returns the instructions of several runs, and those on lines of the package that a pattern is found in.

    Those of the event loop's timers are left out, as they depend on how long the work takes.
    """
    found: Counter[tuple[str, str, int]] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lineno:
            found[frame.f_code.co_filename, frame.f_code.co_name, frame.f_lineno] += 1
        return trace

    await work()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for it when tracing begins
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for _ in range(runs):
            await work()
    finally:
        sys.settrace(before)
    counts = {place: count for place, count in found.items() if place[1] not in ("_run_once", "__lt__")}
    matching = [
        count
        for (file, _, line), count in counts.items()
        if pattern and "/aiomodelcache/" in file and re.search(pattern, linecache.getline(file, line))
    ]
    return sum(counts.values()), sum(matching)
