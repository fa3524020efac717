"""Group versions: versions of those rows of a table that share the values of a declared key.

A query for the rows of one group depends on the group's version instead of the table's, so writes to other groups leave
it valid. A row invalidates the groups of its old and of its new values. A write that names no groups, such as a large
bulk write, marks the model's epoch.
"""

from tortoise.models import Model

from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.entries.policy import InvalidationType, Policy
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.meta import Values


class GroupVersions:
    """The versions of the groups of one model's rows, by the values of ``attributes``."""

    unique = False

    def __init__(self, rows: RowEntries, attributes: tuple[str, ...], columns: frozenset[str], space: KeySpace) -> None:
        self.schema = rows.schema
        self.attributes = attributes
        self.watched = columns - rows.queries_ignore | frozenset(attributes)
        """The columns whose change may change a query."""
        self.policy = Policy(InvalidationType.UNSET)
        self.counters = rows.counters
        self.partitions = rows.partitions
        self.prefix = space.table_key(self.schema.connection, self.schema.table) + b":"

    @property
    def model(self) -> type[Model]:
        """The model of the rows."""
        return self.schema.model

    def key(self, values: Values) -> bytes:
        """Returns the key of the version of the group with these (normalised) values."""
        return self.prefix + self.partitions.encode(map(self.schema.key_value, self.attributes, values))
