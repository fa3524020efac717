"""Parts that the triggers of all databases share: names, quoting, and objects with the state that they must have."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DBConnectionError

from aiomodelcache.relay.captured import FORMAT, CapturedTable

NAME_PREFIX: Final = "aiomodelcache_"
"""The beginning of the names of all tables, functions and triggers that are installed."""
CHANGES: Final = f"{NAME_PREFIX}changes"
"""The table of captured lines."""
COVERAGE: Final = f"{NAME_PREFIX}coverage"
"""The table of one row: the installed coverage, and the cache that lines are drained for."""
TABLE_STATE: Final = f"format {FORMAT}"
"""The comment on installed tables, and their state."""
MAX_ROWS: Final = 10_000
"""Maximum number of rows that a statement's line lists on PostgreSQL. Beyond it, the line names the whole table."""
INSTALL: Final = "run `aiomodelcache triggers install`"
"""The remedy for triggers that are missing or out of date."""
_TAG_SIZE: Final = 4

_DENIED: Final = {"42501", 1044, 1142, 1143, 1227, 1370}
_NO_TABLE: Final = {"42P01", 1146}
"""The codes of errors of PostgreSQL, and of MariaDB and MySQL."""

CatalogueRows = Sequence[Mapping[str, Any]]


class Definition(NamedTuple):
    """A table, function or trigger of the installation."""

    kind: str
    """``table``, ``function`` or ``trigger``."""
    on: str
    """The table that a trigger is on, as the database names it; empty for a table or function."""
    name: str
    state: str
    """The state that the installed object must have, such as a digest of its text."""
    create: tuple[str, ...]
    """The statements that create the object, or replace an earlier one."""
    source: str = ""
    """The name of the captured table that the object is for."""

    @property
    def place(self) -> tuple[str, str]:
        """The table and the name, which identify an object in the catalogue."""
        return self.on, self.name


class Dialect(Protocol):
    """The part of the triggers that each database has for itself."""

    coverage: str
    """The table of the installed coverage."""
    missing: str
    """The text of the error that nothing is installed."""
    remedy: str
    """The command to run if the installation is missing or out of date."""

    async def wanted(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> list[Definition]:
        """Returns the objects that capture the tables' writes, in the order of their creation.

        Raises ``RelayError`` for a table that cannot be captured.
        """
        ...

    async def installed(self, client: BaseDBAsyncClient) -> dict[tuple[str, str], str]:
        """Returns the state of each installed object by ``Definition.place``."""
        ...

    async def check_visible(self, client: BaseDBAsyncClient, triggers: Sequence[Definition]) -> None:
        """Raises ``RelayError`` if triggers seem to be missing or changed because this user may not see them."""
        ...

    def drop(self, place: tuple[str, str]) -> str:
        """Returns the statement that drops an installed object."""
        ...

    async def run(self, client: BaseDBAsyncClient, statements: Sequence[str]) -> None:
        """Runs the statements of an installation, as far as possible in one transaction."""
        ...


def is_denied(error: BaseException) -> bool:
    """Returns True if a database has refused a statement, or itself, to a user who lacks a privilege."""
    return not _codes(error).isdisjoint(_DENIED)


def is_without_table(error: BaseException) -> bool:
    """Returns True if a statement names a table that does not exist."""
    return not _codes(error).isdisjoint(_NO_TABLE) or "no such table" in str(error)


def driver_error(error: BaseException) -> Any:
    """Returns the driver's error for which Tortoise has raised another one, if it says so."""
    if isinstance(error, DBConnectionError):
        return error.__context__
    return error.args[0] if error.args else None


def _codes(error: BaseException) -> set[Any]:
    """Returns the code of an error that Tortoise raises for one of the driver."""
    cause = driver_error(error)
    return {getattr(cause, "sqlstate", None), *getattr(cause, "args", ())[:1]}


def tag(name: str) -> str:
    """Returns 8 hexadecimal digits that stand for a table in the names of its triggers."""
    return hashlib.blake2b(name.encode(), digest_size=_TAG_SIZE).hexdigest()


def md5_digest(text: str) -> str:
    """Returns the digest of an object's text that databases compute as ``md5(text)``."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def literal(text: str) -> str:
    """Returns a text as a literal of standard SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(*names: str | None) -> str:
    """Returns a name in double quotes, after that of its schema unless this is None."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names if name is not None)


def backquoted(*names: str | None) -> str:
    """Returns a name as ``quoted`` does, in the quotes of MySQL."""
    return ".".join("`" + name.replace("`", "``") + "`" for name in names if name is not None)


def store_coverage(table: str, coverage: str) -> tuple[str, ...]:
    """Returns the statements that note the installed coverage."""
    return f"DELETE FROM {table}", f"INSERT INTO {table} (captured) VALUES ({literal(coverage)})"


async def select(client: Any, statement: str, values: list[Any] | None = None) -> CatalogueRows:
    """Returns the rows of a statement by the names of their columns."""
    rows: CatalogueRows = await client.execute_query_dict(statement, *([values] if values else []))
    return rows
