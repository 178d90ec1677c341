"""Models, classes and functions as lines of text, for golden lists."""

from __future__ import annotations

import inspect
import json
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUNDS = (
    *("format", "minLength", "maxLength", "pattern", "minItems", "maxItems"),
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
)


def fields_of(model: type[BaseModel]) -> list[str]:
    """Return the fields of a model: ``name: type, bounds = default``, without a default where required."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    return [
        f"{name}: {shape(field, definitions)}{_default(field)}"
        for name, field in schema.get("properties", {}).items()
    ]


def _default(field: dict[str, Any]) -> str:
    return f" = {json.dumps(field['default'])}" if "default" in field else ""


def shape(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a field in a JSON schema, in a few words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return "|".join(definitions[name].get("enum", [name]))
    if "anyOf" in field:
        return " or ".join(shape(one, definitions) for one in field["anyOf"])
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return "|".join(field["enum"])
    bounds = "".join(f", {name} {field[name]}" for name in BOUNDS if name in field)
    return f"{_kind(field, definitions)}{bounds}"


def _kind(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    kind = field.get("type", "any")
    if kind == "array":
        return f"array of {shape(field.get('items', {}), definitions)}"
    values = field.get("additionalProperties")
    if kind == "object" and isinstance(values, dict):
        return f"object of {shape(values, definitions)}"
    return str(kind)


def members_of(name: str, value: Any) -> Iterator[str]:
    """Return a public name and, of this project's classes, public members; of functions parameters."""
    if inspect.isclass(value):
        yield f"{name}{_parameters(value)}"
        if not issubclass(value, BaseModel | Enum):  # their fields and words are events
            for member, one in _members(value):
                yield f"{name}.{member}{_parameters(one)}"
    else:
        yield f"{name}{_parameters(value)}"


def _members(value: type) -> Iterator[tuple[str, Any]]:
    for owner in value.__mro__:
        if owner.__module__.startswith("fivestage"):
            for member, one in vars(owner).items():
                if not member.startswith("_"):
                    yield member, one


def _parameters(value: Any) -> str:
    """Return the parameters of a callable; empty for anything else."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not inspect.isroutine(value) and not (inspect.isclass(value) and "__init__" in vars(value)):
        return ""
    signature = inspect.signature(value)
    bare = [
        one.replace(annotation=inspect.Parameter.empty, default=_plain(one.default))
        for one in signature.parameters.values()
        if one.name not in {"self", "cls"}
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


class _Other:
    """Stands for a default that has no plain text."""

    def __repr__(self) -> str:
        return "..."


def _plain(default: Any) -> Any:
    is_plain = default is inspect.Parameter.empty or isinstance(
        default, bool | int | float | str | tuple | None
    )
    return default if is_plain else _Other()
