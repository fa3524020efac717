"""Declared classes, recorded when Python creates them and bound when a cache opens."""

from typing import Final
from weakref import WeakSet

declared: Final[WeakSet[type]] = WeakSet()
"""All live cache classes and manager classes."""

declared_values: Final[WeakSet[type]] = WeakSet()
"""All live subclasses of ``ValueCache``."""
