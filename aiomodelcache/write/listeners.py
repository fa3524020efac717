"""The cache as a listener of Tortoise's signals, for models that are no ``CachedModel``.

Tortoise keys listeners by exact class and cannot remove them. So one set of functions serves all models. Tortoise runs
them as separate tasks, beside other listeners that may raise.
"""

from typing import Any, cast

from tortoise.models import Model
from tortoise.signals import Signals

from aiomodelcache.write.saves import after_delete, after_save, before_delete, before_save


def listen_to_signals(model: type[Model]) -> None:
    """Registers the listeners for the signals of a model that is no ``CachedModel``. Idempotent."""
    register = cast("Any", model).register_listener
    register(Signals.pre_save, _before_save)
    register(Signals.post_save, _after_save)
    register(Signals.pre_delete, _before_delete)
    register(Signals.post_delete, _after_delete)


async def _before_save(model: type[Model], instance: Model, *arguments: Any) -> None:
    await before_save(instance, *arguments, in_task=True)


async def _after_save(model: type[Model], instance: Model, *arguments: Any) -> None:
    await after_save(instance, *arguments)


async def _before_delete(model: type[Model], instance: Model, client: Any) -> None:
    await before_delete(instance, client, in_task=True)


async def _after_delete(model: type[Model], instance: Model, client: Any) -> None:
    await after_delete(instance, client)
