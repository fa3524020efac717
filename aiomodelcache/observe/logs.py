"""The log of lookups: one record for each, at DEBUG."""

import logging
from typing import Final

from aiomodelcache.observe.events import Lookup, Observer, Operation

lookup_logger: Final = logging.getLogger("aiomodelcache.lookups")


class LookupLog(Observer):
    """An observer that logs each lookup, without any value of a column or of a key."""

    def end(self, operation: Operation) -> None:
        """Logs a lookup."""
        if isinstance(operation, Lookup):
            milliseconds = (operation.duration or 0.0) * 1000
            fields = {
                "cache": operation.cache,
                "kind": operation.kind,
                "outcome": operation.outcome,
                "reason": operation.reason,
                "key": operation.key,
                "keys": len(operation.keys),
                "size": operation.size,
                "duration_ms": round(milliseconds, 3),
                "background": operation.background,
                "error": None if operation.error is None else type(operation.error).__name__,
            }
            lookup_logger.debug(
                "%s of %s: %s in %.3f ms",
                operation.kind,
                operation.cache,
                operation.outcome,
                milliseconds,
                extra=fields,
            )
