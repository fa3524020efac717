"""``World``: the rows of a soak, with the slugs and teams that each may have.

Rows 2k+1 and 2k+2 share four slugs, so that a slug moves from one row to the other. Each row moves between two teams.
Every fourth row is in a folder for life. The first rows are *hot*.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SLUGS_EACH: Final = 4
PAGE_SIZES: Final = (16, 64, 128)
"""Numbers of rows of a page. A reader picks one at random."""


@dataclass(frozen=True, slots=True)
class World:
    """Numbers of rows, hot rows and teams, and the keys that follow from them."""

    rows: int = 2_000
    hot: int = 200
    teams: int = 200
    folders: int = 100
    ghosts: int = 200
    """Number of primary keys beyond ``rows`` that are looked up and never exist."""

    def pick(self, chance: random.Random) -> int:
        """Returns a random primary key: in two of three cases a hot one."""
        return chance.randint(1, self.hot if chance.random() < 0.66 else self.rows)

    def slugs(self, pk: int) -> Sequence[int]:
        """Returns the slugs that a row may have."""
        first = (pk - 1) // 2 * SLUGS_EACH
        return range(first, first + SLUGS_EACH)

    def first_slug(self, pk: int) -> int:
        """Returns the slug that a row begins with."""
        return self.slugs(pk)[pk % 2]

    def teams_of(self, pk: int) -> tuple[int, int]:
        """Returns the teams that a row may be in. It begins in the first."""
        return pk % self.teams, (pk + 1) % self.teams

    def partner(self, pk: int) -> int:
        """Returns the row with the same slugs, which is often written together with this one."""
        return pk + 1 if pk % 2 else pk - 1

    def page(self, pk: int, size: int) -> range:
        """Returns the primary keys of the page that a row is on. The last page has keys beyond ``rows``."""
        first = (pk - 1) // size * size + 1
        return range(first, first + size)

    def folder_of(self, pk: int) -> int | None:
        """Returns the folder that a row is in, if any. A row never moves to another one."""
        return pk // 4 % self.folders if pk % 4 == 0 else None


def slug_text(slug: int) -> str:
    """Returns a slug as it is stored in the database."""
    return f"s{slug}"


TINY: Final = World(rows=40, hot=4, teams=8, folders=5, ghosts=10)
"""A world in which the same two rows are read and written all the time."""

SMALL: Final = World(rows=300, hot=40, teams=30, folders=15, ghosts=30)
"""A world with so few rows that the same rows are looked up again and again."""
