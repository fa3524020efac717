"""The state of a queryset as plain values: what its SQL and the form of its result are made from.

Two querysets of one state send the same statements. The state is read without building SQL. If a part of it cannot be
read, the SQL text and its parameters stand for the part. Such parts are a pypika term, or a value that only a field of
the user's own can convert. Knows Tortoise, not caches.
"""

import datetime
import decimal
import enum
import re
import uuid
from collections.abc import Container, Iterable
from typing import Any, Final, cast

from pypika_tortoise.terms import Term
from tortoise.expressions import Case, CombinedExpression, F, Function, Q, RawSQL, Subquery, Value, When
from tortoise.models import Model
from tortoise.query_utils import Prefetch
from tortoise.queryset import (
    AwaitableQuery,
    BulkCreateQuery,
    DeleteQuery,
    RawSQLQuery,
    UnionQuery,
    UpdateQuery,
)
from tortoise.timezone import get_timezone, get_use_tz

from aiomodelcache.encoding.messages import SafeError
from aiomodelcache.orm.meta import (
    default_ordering,
    full_name,
    has_own_rows,
    joins_nothing,
    managers_of,
    pk_of,
    related_model,
    shapes_of,
    unique_attributes,
)
from aiomodelcache.orm.query_copies import copied_query, state_attributes, unread_slots

_PLAIN: Final = frozenset(
    {type(None), bool, int, float, str, bytes, decimal.Decimal, datetime.date, datetime.timedelta}
)
"""Types whose values ``repr`` tells apart."""
_BASES: Final = (bool, int, float, str, bytes, decimal.Decimal, datetime.timedelta)
_LAST: Final = "~"
"""The place after all names of columns."""
_COMBINED: Final = frozenset({CombinedExpression, When, Case, Value})
_OVERRIDABLE: Final = frozenset({"database_func", "populate_field_object"})
"""Names that a class derived from ``Function`` may define. With others, its SQL is part of the key."""
_CLOCKS: Final = r"""(?xi)
      (?<!["`.\w])
      (?: (?: now | sysdate | curdate | curtime | clock_timestamp | statement_timestamp | transaction_timestamp
            | timeofday
          ) \s* \(
        | (?: unix_timestamp | julianday | unixepoch | date | time | datetime ) \s* \( \s* \)
        | (?: current_date | current_time | current_timestamp | localtime | localtimestamp | utc_date | utc_time
            | utc_timestamp
          ) \b (?! ["`] )
      )
    | 'now'
    """
"""SQL functions that return another moment each time. ``re`` compiles it at the first use, because that takes long."""
_CHANCE: Final = r"""(?xi)
      (?<!["`.\w])
      (?: rand | random | randomblob | random_normal | uuid | uuid_short | gen_random_uuid | uuid_generate_v\w+
        | uuidv\w+ | nextval
      ) \s* \(
    """
"""SQL functions that return another value each time."""


class QueryNotCacheable(SafeError):
    """The error for a query whose answer must not be stored. Its text gives the reason and the remedy."""


def state_of_query(query: Any, *, clocks: bool = False) -> Any:
    """Returns the state of a query of Tortoise, as nested tuples and lists. Raises ``QueryNotCacheable``.

    ``clocks``: the query may ask the database for the time. Raises ``TypeError`` for anything but a query.
    """
    return _Reading(clocks).query(query)


def setting_state(models: Iterable[type[Model]]) -> str:
    """Returns everything else that the answer of a query depends on: tables, orderings, managers, and time zones."""
    described = [
        (
            full_name(model),
            default_ordering(model),
            [_path(cast("Any", type(each))) for each in managers_of(model)],
            shapes_of(model),
        )
        for model in models
    ]
    return repr((sorted(described, key=repr), get_use_tz(), get_timezone()))


class _Reading:
    """The reading of one query's state."""

    def __init__(self, clocks: bool) -> None:
        self._clocks = clocks
        self._model: Any = None
        """The model that names refer to."""
        self._unreadable = False
        """True if a part of the innermost query cannot be read."""
        self._annotated: Container[str] = ()
        """Names of conditions on annotations of the innermost query."""

    # Queries --------------------------------------------------------------------------------------

    def query(self, query: Any) -> Any:
        """Returns the state of a query, inner ones included."""
        _check_kind(query)
        outer = self._model, self._unreadable, self._annotated
        self._model, self._unreadable, self._annotated = query.model, False, getattr(query, "_custom_filters", ())
        kind = cast("Any", type(query))
        parts = [
            (name, self._slot(name, value)) for name, value in state_attributes(query) if value or type(value) is int
        ]
        sql = self._sql(query) if self._unreadable else None
        self._model, self._unreadable, self._annotated = outer
        return kind.__module__, kind.__qualname__, full_name(query.model), parts, sql

    def _slot(self, name: str, value: Any) -> Any:
        if name == "_db":
            return value.connection_name
        if name == "_q_objects":
            return [self._q(q) for q in (sorted(value, key=self._place) if len(value) > 1 else value)]
        if name == "_annotations":
            return [(key, self.value(each)) for key, each in value.items()]
        if name == "_prefetch_map":
            return sorted([(key, self._prefetches(key, each)) for key, each in value.items()])
        if name == "_prefetch_queries":
            return [(key, [(attr, self.query(query)) for attr, query in each]) for key, each in value.items()]
        if name == "_qs":
            return [self.query(query) for query in value]
        if name == "_orderings":
            return [(field, order.value) for field, order in value]
        return self.value(value)

    def _prefetches(self, relation: str, forwarded: Iterable[Any]) -> Any:
        """Returns the state of a prefetch by name: of the related model's manager, and of what follows."""
        related: Any = related_model(self._model, relation)
        states: list[Any] = [self.query(related.all()) if has_own_rows(related) else full_name(related)]
        outer, self._model = self._model, related
        for each in forwarded:
            if type(each) is Prefetch:
                custom: Any = each
                states.append((custom.relation, custom.to_attr, self.query(custom.queryset)))
            else:
                name, _, then = each.partition("__")
                states.append((name, self._prefetches(name, [then] if then else [])))
        self._model = outer
        return sorted(states, key=repr)

    def _sql(self, query: Any) -> Any:
        """Returns the SQL text of a copy of a query, and its parameters."""
        built = copied_query(query)
        built._make_query()
        text, parameters = built.query.get_parameterized_sql()
        self._refuse_unstable(text)
        self._unreadable = False
        state = [self.value(parameter) for parameter in parameters]
        if self._unreadable:
            raise QueryNotCacheable(
                f"a query of {query.model.__name__} has a parameter whose value cannot be part of a key: use a number, "
                "text, a date, a UUID, or an enum member"
            )
        return text, state

    # Conditions and expressions --------------------------------------------------------------------

    def _q(self, q: Any) -> Any:
        if cast("Any", type(q)) is not Q:
            return self._unread(q)
        names = sorted(q.filters, key=self._place_of_name) if len(q.filters) > 1 else q.filters
        filters = [(name, self.value(q.filters[name])) for name in names]
        return [self._q(child) for child in q.children], filters, q.join_type, q._is_negated

    def _place(self, q: Any) -> str:
        """Returns the place of a condition among those that a row must all meet, so that their order does not count."""
        if cast("Any", type(q)) is not Q or q.children or len(q.filters) != 1:
            return _LAST
        return self._place_of_name(next(iter(q.filters)))

    def _place_of_name(self, name: str) -> str:
        """Returns the place of a condition among others: one for all that join tables.

        Their order counts. Of two relations that lead to one table, Tortoise follows the first one for both.
        """
        return name if name not in self._annotated and joins_nothing(self._model, name) else _LAST

    def _function(self, function: Any) -> Any:
        kind = cast("Any", type(function))
        called = function.database_func
        if not _is_known_function(kind) or not isinstance(called, type) or not _is_of_libraries(called):
            return self._unread(function)
        self._refuse_unstable(f"{kind.__name__}(field) {called.__name__}(field)")
        state = {name: value for name, value in _attributes(function).items() if name != "field_object"}
        return _path(kind), _path(called), [(name, self.value(value)) for name, value in sorted(state.items())]

    def _term(self, term: Any) -> Any:
        kind = cast("Any", type(term))
        if kind is Subquery:
            return "Subquery", term.alias, self.query(term.query)
        if kind is RawSQL:
            self._refuse_unstable(term.sql)
            return "RawSQL", term.alias, term.sql
        return self._unread(term)

    def _unread(self, part: Any) -> Any:
        self._unreadable = True
        return _path(cast("Any", type(part)))

    def _refuse_unstable(self, text: str) -> None:
        """Raises ``QueryNotCacheable`` for SQL with a function whose value differs each time."""
        chance = re.search(_CHANCE, text)
        clock = None if self._clocks else re.search(_CLOCKS, text)
        found = chance or clock
        if found is not None:
            name = found[0].strip(" ('").upper()
            remedy = "" if chance else "give it a timeout, for which its answer may be true, "
            raise QueryNotCacheable(
                f"a query with {name} has another answer each time: {remedy}pass a value, rounded to how long it may "
                "be true, or await the query itself"
            )

    # Values ---------------------------------------------------------------------------------------

    def value(self, value: Any) -> Any:
        """Returns a value in a form whose ``repr`` differs for values that differ."""
        kind = cast("Any", type(value))
        if kind in _PLAIN:
            return value
        if kind is list:
            return [self.value(item) for item in value]
        if kind is tuple:
            return tuple([self.value(item) for item in value])
        if kind in (set, frozenset):
            return "set", sorted([repr(self.value(item)) for item in value])
        if kind is dict:
            return "dict", [(self.value(key), self.value(item)) for key, item in value.items()]
        if isinstance(value, datetime.datetime | datetime.time):
            return _path(kind), value.isoformat(), value.fold
        if isinstance(value, uuid.UUID):
            return "UUID", value.int
        if isinstance(value, enum.Enum):
            return _path(kind), value.name, self.value(value.value)
        if isinstance(value, Model):
            names = [pk_of(kind), *unique_attributes(kind)]
            return full_name(kind), [self.value(vars(value).get(name)) for name in names]
        return self._expression(value)

    def _expression(self, value: Any) -> Any:
        kind = cast("Any", type(value))
        if kind is Q:
            return "Q", self._q(value)
        if kind is F:
            return "F", value.name
        if issubclass(kind, Function):
            return self._function(value)
        if kind in _COMBINED:
            return kind.__name__, [(name, self.value(part)) for name, part in sorted(_vars(value).items())]
        if issubclass(kind, Term):
            return self._term(value)
        if issubclass(kind, AwaitableQuery):
            return "query", self.query(value)
        for base in _BASES:
            if isinstance(value, base) and not getattr(value, "__dict__", None):
                return _path(kind), cast("Any", base).__repr__(value)
        return self._unread(value)


def _check_kind(query: Any) -> None:
    """Raises ``TypeError`` for anything but a query, and ``QueryNotCacheable`` for a query that is no plain read."""
    kind = cast("Any", type(query))
    if not issubclass(kind, AwaitableQuery | UnionQuery):
        raise TypeError("it is no queryset")
    if issubclass(kind, UpdateQuery | DeleteQuery | BulkCreateQuery):
        raise QueryNotCacheable(f"its class {kind.__name__} writes: await it itself")
    if issubclass(kind, RawSQLQuery):
        raise QueryNotCacheable(
            "the text of a raw query does not say what it depends on: await it in a function under @cached"
        )
    if getattr(query, "_select_for_update", False):
        raise QueryNotCacheable("a query with select_for_update locks rows: await it itself")
    unread = unread_slots(query)
    if unread:
        raise QueryNotCacheable(
            f"its class {kind.__name__} has attributes that this version of aiomodelcache does not know "
            f"({', '.join(unread)}): await it in a function under @cached"
        )


def _is_known_function(kind: Any) -> bool:
    """Returns True if the SQL of a function follows from its attributes: its class overrides no method."""
    return all(
        _is_of_libraries(cls) or not {name for name in _vars(cls) if not name.startswith("__")} - _OVERRIDABLE
        for cls in kind.__mro__
    )


def _is_of_libraries(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("tortoise", "pypika_tortoise", "builtins")


def _attributes(function: Any) -> dict[str, Any]:
    slots = {name: getattr(function, name) for name in Function.__slots__ if hasattr(function, name)}
    return {**slots, **getattr(function, "__dict__", {})}


def _vars(thing: Any) -> dict[str, Any]:
    return dict(cast("dict[str, Any]", vars(thing)))


def _path(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
