"""Declared classes, recorded when Python creates them and bound when a cache opens."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from tortoise.models import Model

from aiomodelcache.orm.meta import is_abstract
from aiomodelcache.write import methods, querysets
from aiomodelcache.write.unopened import cached_models

declared: Final[WeakSet[type]] = WeakSet()
"""All live cache classes and manager classes."""

declared_values: Final[WeakSet[type]] = WeakSet()
"""All live subclasses of ``ValueCache``."""

CACHED: Final = "__aiomodelcache__"
"""Marker attribute of ``CachedModel``. The cache binds its subclasses without any further declaration."""


def declare(cls: type) -> None:
    """Records a cache class or a manager class."""
    declared.add(cls)
    model: Any = cls.__dict__.get("model")
    if isinstance(model, type) and issubclass(model, Model):
        record_model(model)


def record_model(model: type[Model]) -> None:
    """Records a cached model, so that its writes warn while no cache is open. Idempotent."""
    if not is_abstract(model):
        cached_models.add(model)
        querysets.track_querysets(model)
        if not hasattr(model, CACHED):
            methods.wrap_methods(model)


def module_of(declaration: Any) -> str:
    """Returns the module of a class or function, by the name under which other processes import it.

    Python calls the module that it was started with ``__main__``.
    """
    module = str(declaration.__module__)
    if module != "__main__":
        return module
    main: Any = sys.modules[module]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return Path(file).stem if file is not None else module


def path_of(cls: type) -> str:
    """Returns the name of a cache class with its module. The keys of its entries contain it."""
    return f"{module_of(cls)}.{cls.__name__}"


def label_of(cls: type, others: Iterable[type]) -> str:
    """Returns the name under which a class is counted: its own, with its module if another has the same name."""
    namesakes = [other for other in others if other is not cls and other.__name__ == cls.__name__]
    return path_of(cls) if namesakes else cls.__name__
