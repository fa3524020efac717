"""``python -m tests.protocol.model [--large] [part] [guard ...]``: explores, and prints the shortest counterexamples.

Without names: the sound shapes and all broken variants. ``part`` is rows, indexes, epochs, stale or near.
"""

import argparse
import sys
import time

from tests.protocol.model.engine import explore
from tests.protocol.model.rules import Rules
from tests.protocol.model.variants import BROKEN, LARGE, SOUND


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.protocol.model")
    parser.add_argument("names", nargs="*", help="parts of the protocol, or guards to leave out; default: all")
    parser.add_argument("--large", action="store_true", help="the larger shapes instead: minutes, and some GB")
    chosen = parser.parse_args()
    cases = [(str(shape), "", shape.system(Rules())) for shape in (LARGE if chosen.large else SOUND)]
    if not chosen.large:
        cases += [(f"without {each.guard}: {each.shape}", each.kind, each.system()) for each in BROKEN]
    failed = False
    for name, kind, system in cases:
        if chosen.names and not any(each in name for each in chosen.names):
            continue
        started = time.perf_counter()
        found = explore(system)
        as_expected = (found.violation.kind if found.violation else "") == kind
        failed |= not as_expected
        print(f"{name} [{time.perf_counter() - started:.1f} s]{'' if as_expected else ' NOT AS EXPECTED'}")
        print(f"{found}\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
