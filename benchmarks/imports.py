"""Measures what ``import aiomodelcache`` takes beyond Tortoise's own import: ``python -m benchmarks.imports``.

In CPU time of a fresh interpreter, whose compiled modules are on disk. The least of several runs is the cost, because
other programs can only add to it.
"""

import os
import subprocess
import sys

RUNS = 20
PROGRAM = """
import time
begin = time.process_time(); import tortoise
between = time.process_time(); import aiomodelcache
print(between - begin, time.process_time() - between)
"""


def measured_import() -> tuple[float, float]:
    """Returns the CPU seconds of importing Tortoise, and of importing the library after it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROGRAM]
    runs = [subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(RUNS)]
    tortoise, own = zip(*[map(float, run.split()) for run in runs], strict=True)
    return min(tortoise), min(own)


def main() -> None:
    """Prints both."""
    tortoise, own = measured_import()
    print(f"import tortoise       {tortoise * 1000:6.1f} ms of CPU, least of {RUNS}")
    print(f"import aiomodelcache  {own * 1000:6.1f} ms more")


if __name__ == "__main__":
    main()
