"""The garbage collector's work on objects that live as long as the process: ``freeze_gc``.

With many requests in flight, many young objects are alive, and full collections are frequent. Each visits everything
that the process holds, mostly modules, unless it is frozen. Must not know caches.
"""

import gc


class LongLived:
    """The objects that exist when a cache opens, left out of collections until it closes."""

    def __init__(self, *, freeze: bool) -> None:
        self._freeze = freeze
        self._frozen = False

    def freeze(self) -> None:
        """Collects garbage and freezes the remaining objects, if told to. Blocks the event loop for about 0.1 s."""
        if not self._freeze:
            return
        self._frozen = not gc.get_freeze_count()
        gc.collect()
        gc.freeze()

    def unfreeze(self) -> None:
        """Undoes ``freeze``, unless other code had frozen objects before, which stay frozen then. Idempotent."""
        if self._frozen:
            self._frozen = False
            gc.unfreeze()
