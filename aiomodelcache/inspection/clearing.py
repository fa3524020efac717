"""Clearing models and cached functions by their names."""

from collections.abc import Sequence

from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.inspection.targets import FoundDeclaration, all_targets
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.write.manual import clear_declarations, clear_models


def clearable(cache: OpenCache) -> list[FoundDeclaration]:
    """Returns the declarations that can be cleared: models, classes of values and cached functions."""
    return [target for target in all_targets(cache) if target.model is not None or target.value is not None]


async def clear_targets(cache: OpenCache, targets: Sequence[FoundDeclaration]) -> list[str]:
    """Invalidates everything about declarations, in all processes and in O(1). Returns their names.

    Raises ``CommandError`` for one that cannot be cleared alone, and ``BackendError`` as ``ModelCache.clear`` does.
    """
    for target in targets:
        if target.model is None and target.value is None:
            raise CommandError(f"{target.name} cannot be cleared alone: clear its model.")
    await clear_models(cache, [target.model for target in targets if target.model is not None])
    values = [target.value.declaration.result(cache) for target in targets if target.value is not None]
    await clear_declarations(cache, [(result, []) for result in values])
    return list(dict.fromkeys(target.name for target in targets))
