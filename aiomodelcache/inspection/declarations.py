"""The cached functions and classes of values that loaded modules declare, by name."""

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

from tortoise.models import Model

from aiomodelcache.declare.cached import CachedFunction
from aiomodelcache.declare.registry import declared_values
from aiomodelcache.declare.value_declarations import ValueDeclaration
from aiomodelcache.declare.values import ValueCache, declaration_of


@dataclass(frozen=True, slots=True, eq=False)
class DeclaredValue:
    """A cached function, or a class of values. ``make`` returns the query for arguments."""

    short: str
    """The name in its module."""
    declaration: ValueDeclaration
    make: Callable[..., Any]
    function: Any
    """The user's function or method that computes the value."""
    source: Any

    @property
    def names(self) -> set[str]:
        """The names by which a command may call it."""
        return {self.short, self.declaration.name}


def functions_and_values() -> list[DeclaredValue]:
    """Returns all cached functions and classes of values of the loaded modules, by name, without methods."""
    found: dict[str, DeclaredValue] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("aiomodelcache."):
            continue
        for value in list(getattr(module, "__dict__", {}).values()):  # programs put other objects there, too
            if type(value) is CachedFunction:
                function = cast("CachedFunction[..., Any]", value)
                wrapped: Any = cast("Any", function).__wrapped__
                declaration = function.declaration
                declared = DeclaredValue(wrapped.__qualname__, declaration, function.query, wrapped, function)
                found.setdefault(declaration.name, declared)
    for cls in declared_values:
        if not cls.__subclasses__():
            declaration = declaration_of(cast("type[ValueCache[Any]]", cls))
            method: Any = cast("Any", cls).get_value
            found.setdefault(declaration.name, DeclaredValue(cls.__name__, declaration, cls, method, cls))
    return [found[name] for name in sorted(found)]


def values_derived_from(models: Collection[type[Model]]) -> list[DeclaredValue]:
    """Returns the functions and classes of values that depend on none but these models by their declaration."""
    return [
        each
        for each in functions_and_values()
        if all(model in models or not _is_model(model) for model in each.declaration.depends_on)
    ]


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Model)
