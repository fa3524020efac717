"""Answers of querysets as plain values, which ``==`` compares with all that instances hold."""

from typing import Any

from tortoise.models import Model


def plain(value: Any, depth: int = 4) -> Any:
    """Returns a value with all that its instances hold, as plain values."""
    if isinstance(value, Model):
        if not depth:
            return type(value), value.pk
        held: dict[str, Any] = {}
        for name, part in sorted(vars(value).items()):
            if hasattr(part, "related_objects"):
                if part._fetched:
                    held[name] = [plain(each, depth - 1) for each in part.related_objects]
            elif not name.startswith("_aiomodelcache"):
                held[name] = plain(part, depth - 1)
        return type(value), held
    if isinstance(value, list | tuple):
        return type(value)([plain(each, depth) for each in value])
    if isinstance(value, dict):
        return {key: plain(each, depth) for key, each in value.items()}
    return value
