"""``python -m aiomodelcache``, and the command ``aiomodelcache``: names the extra ``cli`` if it is missing."""

import sys

NEEDED = frozenset({"click", "rich"})
"""The packages of the extra ``cli``."""


def main() -> None:
    """Runs the command line. Exits with status 2 if the extra ``cli`` is not installed."""
    try:
        from aiomodelcache.cli.main import commands
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        sys.exit(_missing(str(error.name)))
    commands(prog_name="aiomodelcache")


def _missing(name: str) -> int:
    print(
        f"aiomodelcache: {name} is missing, which the command line needs: pip install 'aiomodelcache[cli]'",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
