"""The garbage collector's work on objects that live as long as the process: ``freeze_gc``.

With many requests in flight, many young objects are alive, and full collections are frequent. Each visits everything
that the process holds, mostly modules, unless it is frozen. Must not know caches.
"""

import gc
import threading
from typing import Final

_lock: Final = threading.Lock()
_holders: Final = set["LongLived"]()
"""Those of this process for which objects are frozen, and no other code had frozen any before the first of them."""


class LongLived:
    """The objects that exist when a cache opens, left out of collections until the last such cache closes."""

    def __init__(self, *, freeze: bool) -> None:
        self._freeze = freeze

    def freeze(self) -> None:
        """Collects garbage and freezes the remaining objects, if told to. Blocks the event loop for about 0.1 s."""
        if not self._freeze:
            return
        with _lock:
            if _holders or not gc.get_freeze_count():
                _holders.add(self)
            gc.collect()
            gc.freeze()

    def unfreeze(self) -> None:
        """Undoes ``freeze`` for the last holder, unless other code had frozen objects before. Idempotent."""
        with _lock:
            if self in _holders:
                _holders.remove(self)
                if not _holders:
                    gc.unfreeze()
