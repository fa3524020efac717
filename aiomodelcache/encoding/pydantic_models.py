"""Models of pydantic as parts of a message: their JSON, and the names of the fields that were set.

Pydantic validates the JSON when it is read. Does not import pydantic.
"""

from collections.abc import Iterator
from typing import Any, cast

from aiomodelcache.encoding.codec import DecodeError


def dump_model(model: Any) -> list[Any]:
    """Returns the JSON of a model, and the names of the set fields of each model in it that has unset ones."""
    names_set = [
        None if each.model_fields_set == _fields(each) else sorted(each.model_fields_set) for each in _models_in(model)
    ]
    text = model.model_dump_json(round_trip=True, by_alias=False, warnings=False)
    return [text, names_set if any(names is not None for names in names_set) else None]


def load_model(cls: Any, data: Any) -> Any:
    """Returns the model. Raises ``DecodeError``, or an exception of pydantic, for data that is none of the class."""
    text, names_set = data
    model = cls.model_validate_json(text, by_alias=False, by_name=True)
    if names_set is None:
        return model
    for each, names in zip(_models_in(model), names_set, strict=True):
        fields = _fields(each)
        if names is not None and not {*fields, *(each.model_extra or ())}.issuperset(names):
            raise DecodeError("it names fields that its model does not have")
        object.__setattr__(each, "__pydantic_fields_set__", fields if names is None else set(names))
    return model


def _fields(model: Any) -> set[str]:
    kind: Any = cast("Any", type(model))
    return {*kind.model_fields}


def _models_in(value: Any) -> Iterator[Any]:
    """Yields a model and the models in its fields, in a fixed order."""
    kind: Any = cast("Any", type(value))
    if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields"):
        yield value
        for name in kind.model_fields:
            yield from _models_in(value.__dict__.get(name))
        yield from _models_in(value.model_extra)
    elif issubclass(kind, list | tuple):
        for item in value:
            yield from _models_in(item)
    elif issubclass(kind, dict):
        for item in value.values():
            yield from _models_in(item)
