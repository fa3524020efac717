"""Values on the command line, ``slug=pycon``, converted by the field or the annotation that they are for."""

import enum
import inspect
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from tortoise import fields
from tortoise.models import Model

from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.orm.meta import attributes_of, field_names, is_relation, meta_of, pk_of

_TRUTH: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Argument(NamedTuple):
    """One argument. ``name`` is empty for an argument by position. ``is_json``: written as ``name:=json``."""

    name: str
    text: str
    is_json: bool = False


def parse_arguments(texts: Iterable[str]) -> list[Argument]:
    """Splits ``name=text``, ``name:=json``, and plain text. Raises ``CommandError`` for a name given twice."""
    found: list[Argument] = []
    for text in texts:
        name, equals, value = text.partition("=")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if equals and name.isidentifier():
            found.append(Argument(name, value, is_json))
        else:
            found.append(Argument("", text))
    names = [argument.name for argument in found if argument.name]
    for name in names:
        if names.count(name) > 1:
            raise CommandError(f"{name} is given twice.")
    return found


def model_values(model: type[Model], arguments: Iterable[Argument]) -> dict[str, Any]:
    """Returns the values of a model's key. Raises ``CommandError``."""
    values: dict[str, Any] = {}
    for argument in arguments:
        if not argument.name:
            raise CommandError(f"{model.__name__} takes the values of a key by name, like slug=pycon.")
        values[argument.name] = field_value(model, argument)
    return values


def field_value(model: type[Model], argument: Argument) -> Any:
    """Returns an argument as a value of the field that it names. Raises ``CommandError``."""
    name = argument.name.removesuffix("__exact")
    name = pk_of(model) if name == "pk" else name
    if name not in field_names(model):
        known = sorted(each for each in field_names(model) if not each.startswith("_"))
        raise CommandError(f"{model.__name__} has no field {name}. Its fields: {', '.join(known)}.")
    if argument.is_json:
        return _json(f"{model.__name__}.{name}", argument.text)
    if is_relation(model, name):
        [name] = attributes_of(model, [name])
    field: Any = meta_of(model).fields_map[name]
    try:
        return _of_field(field, argument.text)
    except Exception as error:  # of the user's own field
        hint = f" NULL is written as {argument.name}:=null." if field.null else ""
        raise CommandError(
            f"{model.__name__}.{name} cannot have this value, which no {type(field).__name__} accepts.{hint}"
        ) from error


def _of_field(field: Any, text: str) -> Any:
    kind = getattr(field, "enum_type", None)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(member for member in kind if text in (member.name, str(member.value)))
    if isinstance(field, fields.BooleanField):
        return _TRUTH[text.lower()]
    if isinstance(field, fields.BinaryField):
        return bytes.fromhex(text)
    if isinstance(field, fields.JSONField):
        return json.loads(text)
    if field.field_type in (int, float):
        return field.field_type(text)
    return field.to_python_value(text)


def function_arguments(
    name: str, signature: inspect.Signature, hints: Mapping[str, Any], arguments: Iterable[Argument]
) -> tuple[list[Any], dict[str, Any]]:
    """Returns arguments by position and by name, converted by the annotations. Raises ``CommandError``."""
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    by_name = {parameter.name: parameter for parameter in parameters}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in arguments:
        if argument.name in by_name:
            named[argument.name] = _of_annotation(name, argument, hints.get(argument.name, inspect.Parameter.empty))
        elif argument.name and not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
            known = ", ".join(by_name) or "none"
            raise CommandError(f"{name} has no argument {argument.name}. Its arguments: {known}.")
        else:
            at = len(positional)
            own = parameters[at].name if at < len(parameters) else ""
            positional.append(_of_annotation(name, argument, hints.get(own, inspect.Parameter.empty)))
    return positional, named


def hints_of(function: Any) -> dict[str, Any]:
    """Returns the annotations of a function's arguments, or none of them if a name cannot be resolved."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # names that only type checkers import
        return {}


def _of_annotation(function: str, argument: Argument, annotation: Any) -> Any:
    where = f"{function}: {argument.name or 'an argument'}"
    if argument.is_json:
        value = _json(where, argument.text)
        return value if _is_untyped(annotation) else _converted(where, value, annotation)
    if isinstance(annotation, type) and issubclass(annotation, Model):
        pk = pk_of(annotation)
        return annotation.construct(**{pk: field_value(annotation, Argument(pk, argument.text))})
    if _is_untyped(annotation):
        try:
            return json.loads(argument.text)
        except ValueError:
            return argument.text
    if annotation is str:
        return argument.text
    return _converted(where, argument.text, annotation)


def _is_untyped(annotation: Any) -> bool:
    return annotation is inspect.Parameter.empty or annotation is Any or isinstance(annotation, typing.TypeVar)


def _converted(where: str, value: Any, annotation: Any) -> Any:
    try:
        return msgspec.convert(value, annotation, strict=False)
    except Exception as error:
        shown = getattr(annotation, "__name__", str(annotation))
        raise CommandError(f"{where} must be of the type {shown}.") from error


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{where}: the text after := is not JSON.") from error
