"""Whether programs that were built with one version of an event's JSON Schema work with another version.

A writer's schema fits a reader's if the reader accepts all that the writer may write. Producers of queries
write by the schema that they were built with, and the service reads by its own; of all other events the
service is the writer. A keyword that the schemas of ``export`` do not have counts as a limit.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_LOWEST = ("minimum", "minLength")
_HIGHEST = ("maximum", "maxLength")
_READ_OTHERWISE = {
    *("$comment", "$defs", "$id", "$ref", "$schema", "additionalProperties", "const", "default"),
    *("deprecated", "description", "enum", "examples", "items", "properties", "readOnly", "required"),
    *("title", "type", "writeOnly"),
}
"""Keywords that are no limits. All others, known or not, are compared as they are."""
_NULL = {"null"}
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

Schema = Mapping[str, Any]


class Change(NamedTuple):
    """A difference between two versions of a schema."""

    field: str
    """Such as ``stages[].node``; empty for the event itself."""
    what: str
    breaks: bool
    """Whether a program that was built with the old version may fail, or miss something."""


class _Field(NamedTuple):
    types: frozenset[str]
    words: frozenset[str] | None
    """None for any."""
    limits: dict[str, Any]
    is_required: bool


def changes(old: Schema, new: Schema, *, is_input: bool) -> list[Change]:
    """Compare two versions of the schema of an event.

    Args:
        old: The one that a program was built with.
        new: The one of the service.
        is_input: Whether the program writes the event, as producers of queries do.
    """
    before, after = dict(_fields(old, old)), dict(_fields(new, new))
    found = [Change(name, "was removed", breaks=True) for name in _missing(before, after)]
    for name in _missing(after, before):
        needed = is_input and after[name].is_required
        found.append(Change(name, "was added, and is required" if needed else "was added", needed))
    for name in before.keys() & after.keys():
        found += _changes_of(name, before[name], after[name], is_input=is_input)
    return sorted(found)


def _missing(fields: Mapping[str, _Field], others: Mapping[str, _Field]) -> list[str]:
    """The fields that others lack, without what these contain."""
    found: list[str] = []
    for name in fields:
        if name not in others and not (found and re.match(re.escape(found[-1]) + r"[.\[{]", name)):
            found.append(name)
    return found


def _changes_of(name: str, old: _Field, new: _Field, *, is_input: bool) -> Iterator[Change]:
    writer, reader = (old, new) if is_input else (new, old)
    if old.is_required != new.is_required:
        what = "is required" if new.is_required else "may be absent"
        yield Change(name, what, breaks=reader.is_required)
    if old.types != new.types:
        what = f"is {_listed(new.types)}, was {_listed(old.types)}"
        yield Change(name, what, breaks=not _wider(writer.types) <= _wider(reader.types))
    if old.words != new.words:
        fits = reader.words is None or (writer.words is not None and writer.words <= reader.words)
        yield Change(name, _said(old.words, new.words), breaks=not fits)
    for key in sorted(old.limits.keys() | new.limits.keys()):
        was, now = old.limits.get(key), new.limits.get(key)
        if was != now:
            fits = _fits(key, writer.limits.get(key), reader.limits.get(key))
            yield Change(name, f"has {key} {now}, was {was}", breaks=not fits)


def _fits(key: str, writer: Any, reader: Any) -> bool:
    if reader is None or writer is None:
        return reader is None
    if key in _LOWEST:
        return bool(writer >= reader)
    return bool(writer <= reader) if key in _HIGHEST else bool(writer == reader)


def _wider(types: frozenset[str]) -> frozenset[str]:
    """A reader of numbers accepts integers."""
    return types | {"integer"} if "number" in types else types


def _listed(types: frozenset[str]) -> str:
    return "any" if types == _TYPES else " or ".join(sorted(types))


def _said(old: frozenset[str] | None, new: frozenset[str] | None) -> str:
    if new is None:
        return "may be any"
    if old is None:
        return "is one of " + ", ".join(sorted(new))
    more, less = ", ".join(sorted(new - old)), ", ".join(sorted(old - new))
    return " and ".join(filter(None, (more and f"may be {more}", less and f"is never {less}")))


def _fields(
    schema: Schema, root: Schema, name: str = "", *, is_required: bool = True, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, _Field]]:
    """Every field with its path, the event itself first; a type within itself is not followed."""
    schema, nullable = _without_null(schema)
    if reference := schema.get("$ref"):
        if reference in above:
            return
        above = (*above, reference)
        schema = root["$defs"][reference.rpartition("/")[2]]
    yield name, _field(schema, nullable=nullable, is_required=is_required)
    for path, inner, is_needed in _inner(schema, name):
        yield from _fields(inner, root, path, is_required=is_needed, above=above)


def _field(schema: Schema, *, nullable: bool, is_required: bool) -> _Field:
    words = [schema["const"]] if "const" in schema else schema.get("enum")
    return _Field(
        types=_types_of(schema) | (_NULL if nullable else set()),
        words=None if words is None else frozenset(map(str, words)),
        limits={key: limit for key, limit in schema.items() if key not in _READ_OTHERWISE}
        | ({"additionalProperties": False} if schema.get("additionalProperties") is False else {}),
        is_required=is_required,
    )


def _types_of(schema: Schema) -> frozenset[str]:
    types = schema.get("type", _TYPES)
    return frozenset([types] if isinstance(types, str) else types)


def _inner(schema: Schema, name: str) -> Iterator[tuple[str, Schema, bool]]:
    """The path, the schema, and whether it is required, of what a value contains."""
    required = schema.get("required", ())
    for field, inner in schema.get("properties", {}).items():
        yield f"{name}.{field}" if name else field, inner, field in required
    for key, kind, sign in (("items", "array", "[]"), ("additionalProperties", "object", "{}")):
        others: Any = schema.get(key, True)
        if isinstance(others, dict) or (others is True and {kind} <= _types_of(schema) <= {kind, "null"}):
            yield f"{name}{sign}", {} if others is True else others, False


def _without_null(schema: Schema) -> tuple[Schema, bool]:
    """Take null out of two alternatives; returns whether it was one of them."""
    match schema.get("anyOf"):
        case [other, {"type": "null"}] | [{"type": "null"}, other]:
            return other, True
    return schema, False
