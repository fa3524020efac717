"""Declared classes, recorded when Python creates them and bound when a cache opens."""

from typing import Final
from weakref import WeakSet

declared: Final[WeakSet[type]] = WeakSet()
"""Every live cache class and manager class."""

declared_values: Final[WeakSet[type]] = WeakSet()
"""Every live subclass of ``ValueCache``."""
