"""The faults of declarations: writes that would not be noticed, models of one table, keys that compare loosely.

Looks at classes and at the source of their methods. Sends nothing, and must not know servers.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from tortoise.models import Model
from tortoise.signals import Signals

from aiomodelcache.declare.model import CachedModel
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.inspection.diagnosis import Finding
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import columns_of, managers_of
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.write import listeners
from aiomodelcache.write.querysets import TrackedQuerySet

_METHODS: Final = ("save", "delete", "create", "bulk_create", "bulk_update", "get_or_create", "update_or_create")
"""Methods of models that write."""
_HOOKS: Final = ("_pre_save", "_post_save", "_pre_delete", "_post_delete", "_wait_for_listeners", "register_listener")
"""Methods of Tortoise that send signals."""
_OF_QUERYSETS: Final = ("update", "delete", "bulk_create", "bulk_update", "create", "get_or_create", "update_or_create")
"""Methods of querysets that write."""
_SIGNALS: Final = (Signals.pre_save, Signals.post_save, Signals.pre_delete, Signals.post_delete)


def of_models(cache: OpenCache) -> list[Finding]:
    """Returns the faults of all cached models of a cache that was opened just now."""
    found = [*_shared_tables(cache)]
    for model in cache.models:
        found += [*_signals(model), *_overridden(model, model, (*_METHODS, *_HOOKS)), *_managers(model)]
    subjects = {each.subject for each in found}
    for subject, text in (
        ("tables", "each has one cached model, or several with the same columns"),
        ("signals", "of all cached models reach the cache"),
        ("methods", "of all cached models that write call their parents'"),
        ("managers", "of all cached models return querysets whose writes are noticed"),
    ):
        if subject not in subjects:
            found.append(Finding("ok", subject, text))
    return found


# Tables -----------------------------------------------------------------------------------------------


def _shared_tables(cache: OpenCache) -> Iterator[Finding]:
    by_table: dict[tuple[str, str], list[ModelEntries]] = {}
    for entries in cache.models.values():
        by_table.setdefault((entries.schema.connection, entries.schema.table), []).append(entries)
    for (_, table), sharing in sorted(by_table.items()):
        if len({entries.schema.fingerprint for entries in sharing}) > 1:
            names = sorted(entries.schema.name for entries in sharing)
            text = f"{', '.join(names)} cache rows of {table} with other columns, so each replaces the others' entries"
            remedy = "Cache the one that is read often, and derive the others from Tortoise's Model:"
            yield Finding("warning", "tables", text, remedy, (f"class {names[-1]}(Model):",))


# Signals, methods, managers ---------------------------------------------------------------------------


def _signals(model: type[Model]) -> Iterator[Finding]:
    if issubclass(model, CachedModel):  # its own methods call the cache
        return
    known: Any = cast("Any", model)._listeners
    for signal in _SIGNALS:
        heard = known.get(signal, {}).get(model, [])
        if not any(each.__module__ == listeners.__name__ for each in heard):
            text = f"{signal.name} of {model.__name__} does not reach the cache, so its writes leave old entries"
            remedy = "Leave _listeners to Tortoise, and add your own by its decorators:"
            yield Finding("error", "signals", text, remedy, (f"@{signal.name}({model.__name__})",))
            return


def _overridden(cls: type, model: type[Model], names: tuple[str, ...], subject: str = "methods") -> Iterator[Finding]:
    """Yields methods of a class, or of its parents, that neither call their parents' nor write in another known way."""
    for name in names:
        for owner in cls.__mro__:
            if owner.__module__.partition(".")[0] in ("tortoise", "aiomodelcache"):
                break
            if name in vars(owner):
                if not _goes_on(vars(owner)[name], name):
                    where = f"{owner.__name__}.{name}"
                    of_model = "" if owner is model else f" (of {model.__name__})"
                    text = f"{where}{of_model} does not call super().{name}(), so its writes may leave old entries"
                    kind = "signals" if name in _HOOKS else subject
                    yield Finding("warning", kind, text, "Write through the parent's method:", _call(name))
                break


def _call(name: str) -> tuple[str, ...]:
    waits = "" if name in ("register_listener", "update", "bulk_create", "bulk_update") else "await "
    return (f"return {waits}super().{name}(*args, **kwargs)",)


_CAPTURED: Final = frozenset({*_METHODS, *_OF_QUERYSETS, "invalidate", "invalidate_cache", "clear"})


def _goes_on(attribute: Any, name: str) -> bool:
    """Returns True if a method calls its parent's, or writes by a method whose writes are noticed, or is not known."""
    function: Any = inspect.unwrap(getattr(attribute, "__func__", attribute))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # made by other code
        return True
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {func.attr for func in calls if isinstance(func, ast.Attribute)}
    if name in _HOOKS:
        return name in called
    return bool(called & _CAPTURED) or any(isinstance(func, ast.Name) and func.id == "super" for func in calls)


def _managers(model: type[Model]) -> Iterator[Finding]:
    for manager in managers_of(model):
        kind = type(manager).__name__
        try:
            queryset: Any = manager.get_queryset()
        except Exception as error:  # of the application's code, such as one without a tenant
            text = f"{kind} of {model.__name__} cannot be examined ({type(error).__name__})"
            yield Finding("ok", "managers", text)
            continue
        if not isinstance(queryset, TrackedQuerySet):
            text = f"{kind} of {model.__name__} returns querysets whose writes are not noticed"
            remedy = "Define get_queryset in the manager's class, and return what the parent returns:"
            paste = ("def get_queryset(self):", "    return super().get_queryset()")
            yield Finding("error", "managers", text, remedy, paste)
        else:
            yield from _overridden(type(queryset), model, _OF_QUERYSETS, "managers")


# Collations -------------------------------------------------------------------------------------------


def of_collations(cache: OpenCache) -> list[Finding]:
    """Returns the keys that are not cached because a column compares loosely. The columns must have been inspected."""
    found: list[Finding] = []
    for entries in cache.models.values():
        named: list[tuple[str, Any]] = [(_label(index), index) for index in entries.indexes if not index.unique]
        found += [_loosely_compared(label, each) for label, each in named if each.compares_loosely]
    for cls, bound in cache.classes.items():
        if isinstance(bound, ResultEntries) and not bound.cacheable:
            found.append(_loosely_compared(cls.__name__, bound))
    return found or [Finding("ok", "collations", "no list or result is by a key that compares loosely")]


def _label(index: IndexEntries) -> str:
    return f"{index.schema.name} ({', '.join(index.fields)})"


def _loosely_compared(label: str, entries: Any) -> Finding:
    schema: ModelSchema = entries.schema
    names = [name for name in entries.attributes if name in schema.loose_columns]
    text = f"{label} is not cached, because {schema.table} compares {', '.join(names)} loosely, or not as declared"
    columns = columns_of(schema.model, names)
    declared = {column: schema.declared_type(name) for name, column in columns.items()}
    fix = _RETYPE.get(schema.dialect)
    if fix is None:
        remedy = "Look the rows up by a number, a UUID or a foreign key, and remove the key."
        return Finding("warning", "collations", text, remedy)
    lines = [fix(schema.table, column, declared[column]) for column in declared]
    return Finding("warning", "collations", text, "Let the column compare exactly, or remove the key:", tuple(lines))


def _retype_postgres(table: str, column: str, declared: str) -> str:
    collation = ' COLLATE "default"' if "CHAR" in declared.upper() or "TEXT" in declared.upper() else ""
    return f'ALTER TABLE "{table}" ALTER COLUMN "{column}" TYPE {declared}{collation};'


def _retype_sqlite(table: str, column: str, declared: str) -> str:
    return f'ALTER TABLE "{table}" ADD COLUMN "new_{column}" {declared};  -- copy the values, drop the old one, rename'


_RETYPE: Final[dict[str, Callable[[str, str, str], str]]] = {"postgres": _retype_postgres, "sqlite": _retype_sqlite}
"""The statements that make a column compare exactly. MySQL has no collation for texts of which that is certain."""
