"""The rows of a soak: which there are, and by which slugs and in which teams each may be found.

Rows 2k+1 and 2k+2 share four slugs, so that a slug goes from one to the other; each row moves between two
teams. The first rows are *hot*.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SLUGS_EACH: Final = 4


@dataclass(frozen=True, slots=True)
class World:
    """The sizes, and what follows from them."""

    rows: int = 2_000
    hot: int = 200
    teams: int = 200
    ghosts: int = 200
    """Primary keys beyond ``rows`` that are looked up and never exist."""

    def pick(self, chance: random.Random) -> int:
        """Some primary key: a hot one in two of three cases."""
        return chance.randint(1, self.hot if chance.random() < 0.66 else self.rows)

    def slugs(self, pk: int) -> Sequence[int]:
        """The slugs that a row may have."""
        first = (pk - 1) // 2 * SLUGS_EACH
        return range(first, first + SLUGS_EACH)

    def first_slug(self, pk: int) -> int:
        """The slug that a row begins with."""
        return self.slugs(pk)[pk % 2]

    def teams_of(self, pk: int) -> tuple[int, int]:
        """The teams that a row may be in; it begins in the first."""
        return pk % self.teams, (pk + 1) % self.teams


def slug_text(slug: int) -> str:
    """The slug as the database has it."""
    return f"s{slug}"


SMALL: Final = World(rows=300, hot=40, teams=30, ghosts=30)
"""One in which the same rows are asked for again and again."""
