"""JSON Schemas of the events, for programs in other languages: ``fivestage schemas export``."""

from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from fivestage_schemas.base import SCHEMA_VERSION, Event
from fivestage_schemas.query import QueryEvent
from fivestage_schemas.result import PipelineResult
from fivestage_schemas.stage_result import StageResult
from fivestage_schemas.timeout import TimeoutEvent

EVENTS: Final[dict[str, type[Event]]] = {
    "query_event": QueryEvent,
    "stage_result": StageResult,
    "pipeline_result": PipelineResult,
    "timeout_event": TimeoutEvent,
}
"""The models by the names of their schemas."""

_ADDED_LATER = {"StageResult": {"attempts"}, "PipelineResult": {"validated", "partial"}}
"""Fields that retained events of earlier services do not have, so that no reader may require them."""


class _Generator(GenerateJsonSchema):
    """Schemas as generators of code read them best."""

    def field_title_should_be_set(self, _: Any, /) -> bool:
        """Without titles of fields: generators of types make a name of each."""
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """``type: [string, null]`` where that is possible: jsonschema2pojo makes an Object of ``anyOf``."""
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str) and "enum" not in inner:
            return {**inner, "type": [inner["type"], "null"]}
        return self.get_flattened_anyof([inner, {"type": "null"}])


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema (draft 2020-12) of each event, by the names of ``EVENTS``.

    That of a query is for its producers: it requires what a query must have. Those of the other events are
    for their readers: they require every field that the service always writes, unless retained events of
    earlier versions lack it. Fields without a schema are allowed in all, since later versions add some.
    """
    return {name: _json_schema(name, model) for name, model in EVENTS.items()}


def _json_schema(name: str, model: type[Event]) -> dict[str, Any]:
    is_input = model is QueryEvent
    schema = model.model_json_schema(
        mode="validation" if is_input else "serialization", schema_generator=_Generator
    )
    definitions: dict[str, dict[str, Any]] = schema.get("$defs", {})
    if not is_input:
        for of in (schema, *definitions.values()):
            _require_written(of)
    head = {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:fivestage:{name}:{SCHEMA_VERSION}"}
    return {**head, **_in_markdown(schema)}


def _require_written(schema: dict[str, Any]) -> None:
    """Require all properties but those that were added later, and leave out their defaults."""
    if "properties" not in schema:
        return
    later = _ADDED_LATER.get(schema["title"], set())
    schema["required"] = [name for name in schema["properties"] if name not in later]
    for name in schema["required"]:
        schema["properties"][name].pop("default", None)


def _in_markdown(schema: Any) -> Any:
    """Descriptions in one line, with code as in Markdown."""
    if isinstance(schema, list):
        return [_in_markdown(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    shown = {key: _in_markdown(value) for key, value in schema.items()}
    if isinstance(description := shown.get("description"), str):
        shown["description"] = " ".join(description.replace("``", "`").split())
    return shown
