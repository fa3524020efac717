"""``ModelCacheMiddleware`` for Taskiq."""

from typing import Any, Self, Unpack, cast

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib.registration import StoreOrURL, required
from aiomodelcache.scopes.request import local_cache


class ModelCacheMiddleware:
    """A Taskiq middleware that opens a cache in each worker, and gives each task a ``local_cache()``.

    The cache opens after the handlers of ``WORKER_STARTUP``, one of which opens Tortoise, and closes before those of
    ``WORKER_SHUTDOWN``. It does not open in a process that only sends tasks. Settings are those of ``CacheConfig``,
    durations in seconds. ``task_scope=False`` gives tasks no scope. ``cache`` is the ``ModelCache``.

    Raises ``ImportError`` without Taskiq, and ``CacheConfigurationError`` for a wrong setting. A worker raises it for a
    wrong declaration, or if Tortoise is not open::

        broker.add_middlewares(ModelCacheMiddleware("redis://localhost:6379/0", namespace="shop"))
    """

    broker: Any = None

    def __new__(
        cls, url: StoreOrURL, *, namespace: str = "", task_scope: bool = True, **settings: Unpack[Settings]
    ) -> Self:
        """Makes the object also one of Taskiq's class, which only this call imports."""
        base = required("taskiq", "taskiq").TaskiqMiddleware
        return cast("Self", object.__new__(type(cls.__name__, (cls, base), {"__doc__": cls.__doc__})))

    def __init__(
        self, url: StoreOrURL, *, namespace: str = "", task_scope: bool = True, **settings: Unpack[Settings]
    ) -> None:
        self.cache = ModelCache(url, namespace=namespace, **settings)
        self._task_scope = task_scope
        self._scopes: dict[str, local_cache] = {}

    def set_broker(self, broker: Any) -> None:
        """Has the broker close the cache before anything else. Taskiq calls it."""
        self.broker = broker
        # Taskiq calls the handlers of an event before the middlewares, at the end too.
        broker.event_handlers[required("taskiq", "taskiq").TaskiqEvents.WORKER_SHUTDOWN].insert(0, self._close)

    async def startup(self) -> None:
        """Opens the cache in a worker."""
        if self.broker.is_worker_process:
            await self.cache.open()

    async def _close(self, state: object) -> None:
        await self.cache.close()

    def pre_execute(self, message: Any) -> Any:
        """Begins the scope of a task."""
        if self._task_scope:
            self._scopes[message.task_id] = scope = local_cache()
            scope.__enter__()
        return message

    def post_execute(self, message: Any, result: object) -> None:
        """Ends the scope of a task, which has returned or failed."""
        scope = self._scopes.pop(message.task_id, None)
        if scope is not None:
            scope.__exit__(None, None, None)
