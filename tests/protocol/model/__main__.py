"""``python -m tests.protocol.model [--large] [part] [guard ...]``: explores, and prints the shortest counterexamples.

Without names it explores the sound shapes and all broken variants. ``part`` is rows, indexes, epochs, stale, near,
near_nodes, derived, savers, groups, relays or partitions.
"""

import argparse
import sys
import time

from tests.protocol.model.engine import explore
from tests.protocol.model.rules import Rules
from tests.protocol.model.variants import BROKEN, LARGE, SOUND


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.protocol.model")
    parser.add_argument("names", nargs="*", help="parts of the protocol, or guards to remove; default: all")
    parser.add_argument(
        "--large",
        action="store_true",
        help="explore the larger shapes instead, which takes minutes and some GB of memory",
    )
    options = parser.parse_args()
    cases = [(str(shape), "", shape.system(Rules())) for shape in (LARGE if options.large else SOUND)]
    if not options.large:
        cases += [(f"without {broken.guard}: {broken.shape}", broken.kind, broken.system()) for broken in BROKEN]
    failed = False
    for name, kind, system in cases:
        if options.names and not any(part in name for part in options.names):
            continue
        started = time.perf_counter()
        exploration = explore(system)
        as_expected = (exploration.violation.kind if exploration.violation else "") == kind
        failed |= not as_expected
        print(f"{name} [{time.perf_counter() - started:.1f} s]{'' if as_expected else ' NOT AS EXPECTED'}")
        print(f"{exploration}\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
