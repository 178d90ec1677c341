"""The JSON Schemas of the events: what is exported, and what a change of them breaks."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from typer.testing import CliRunner

from fivestage.cli import app
from fivestage_schemas.compatibility import changes
from fivestage_schemas.export import EVENTS, json_schemas
from support import everything
from support.documents import ROOT, text_of

from .test_schemas import WRONG, golden

if TYPE_CHECKING:
    from pathlib import Path

SCHEMAS = json_schemas()
PUBLISHED = {"stage_results": "stage_result", "results": "pipeline_result", "timeouts": "timeout_event"}


def validator(name: str) -> Any:
    """A validator that we did not write."""
    return jsonschema_rs.validator_for(SCHEMAS[name], validate_formats=True)


@pytest.mark.parametrize("name", EVENTS)
def test_the_exported_files_are_those_in_the_tree(name: str) -> None:
    """Readers without Python take them from ``schemas/json``; ``fivestage schemas export`` writes them."""
    assert json.loads(text_of(f"schemas/json/{name}.json")) == SCHEMAS[name]
    assert sorted(path.stem for path in (ROOT / "schemas/json").iterdir()) == sorted(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_samples_fit(name: str) -> None:
    """A sample fits the schema of its event, also with a field of a later version."""
    jsonschema_rs.meta.validate(SCHEMAS[name])
    assert validator(name).is_valid({**golden(name), "a_later_field": 1})


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_values_do_not_fit(name: str, wrong: dict[str, Any]) -> None:
    """What the models refuse, the schemas refuse too."""
    assert not validator(name).is_valid({**golden(name), **wrong})


def test_published_events_fit() -> None:
    """Every kind of event that the service publishes has all that its schema requires of it."""
    seen = set()
    for record in everything.run().sink.records:
        if name := PUBLISHED.get(record.output.value):
            validator(name).validate(json.loads(record.value or b""))
            seen.add(name)
    assert seen == set(PUBLISHED.values())


def test_events_of_earlier_services_fit() -> None:
    """Fields that were added since are not required of retained events."""
    stage, result = golden("stage_result"), golden("pipeline_result")
    del stage["attempts"], result["validated"], result["partial"]
    assert validator("stage_result").is_valid(stage)
    assert validator("pipeline_result").is_valid({**result, "stages": [stage]})


def test_generators_of_types_get_plain_schemas() -> None:
    """Null is one of the types of a field, and only events have titles."""
    properties = SCHEMAS["pipeline_result"]["properties"]
    assert properties["error"]["type"] == ["string", "null"]
    assert not any("title" in field for field in properties.values())
    assert "``" not in json.dumps(SCHEMAS)


def edited(name: str, path: str, **fields: Any) -> dict[str, Any]:
    """A copy of a schema with other properties at a path of keys; None deletes one."""
    schema = copy.deepcopy(SCHEMAS[name])
    place = schema
    for key in path.split("/") if path else ():
        place = place[key]
    for key, value in fields.items():
        place.pop(key, None)
        if value is not None:
            place[key] = value
    return schema


@pytest.mark.parametrize("name", EVENTS)
def test_the_same_schema_has_no_changes(name: str) -> None:
    """Descriptions and defaults do not count."""
    other = edited(name, "properties/query_id", description="the id", default="x")
    assert changes(other, SCHEMAS[name], is_input=name == "query_event") == []


CHANGES = [
    ("properties", {"late": {"type": "string"}}, "late was added", False, False),
    ("properties", {"late": {"$ref": "#/$defs/Source"}}, "late was added", False, False),
    ("properties", {"metrics": None}, "metrics was removed", True, True),
    ("", {"required": ["query_id"]}, "lane may be absent", True, False),
    ("properties/node", {"type": "string"}, "node is string, was null or string", False, True),
    ("properties/started_at", {"type": ["integer", "string", "null"]},
     "started_at is integer or null or string, was null or string", True, False),
    ("properties/confidence", {"maximum": 2}, "confidence has maximum 2, was 1", True, False),
    ("properties/confidence", {"minimum": 0.5}, "confidence has minimum 0.5, was 0", False, True),
    ("properties/lane", {"maxLength": None}, "lane has maxLength None, was 64", True, False),
    ("properties/lane", {"pattern": "^a$"}, "lane has pattern ^a$, was ^[A-Za-z0-9._-]+$", True, True),
    ("properties/answer", {"type": "string"}, "answer is string, was any", False, True),
    ("$defs/PipelineStatus", {"enum": ["success", "error", "timeout", "expired", "lost"]},
     "status may be lost", True, False),
    ("$defs/PipelineStatus", {"enum": ["success", "error", "timeout"]},
     "status is never expired", False, True),
    ("$defs/PipelineStatus", {"enum": None}, "status may be any", True, False),
    ("properties/confidence", {"exclusiveMinimum": 0},
     "confidence has exclusiveMinimum 0, was None", False, True),
    ("properties/stages", {"maxItems": 5}, "stages has maxItems 5, was None", False, True),
    ("", {"additionalProperties": False}, " has additionalProperties False, was None", False, True),
    ("properties/answer", {"anyOf": [{"type": "string"}, {"type": "number"}]},
     "answer has anyOf [{'type': 'string'}, {'type': 'number'}], was None", False, True),
    ("properties/stages", {"items": None}, "stages[] is any, was object", True, False),
    ("", {"deprecated": True, "properties": SCHEMAS["pipeline_result"]["properties"] | {"late": {}}},
     "late was added", False, False),
    ("$defs/Attempt/properties/duration_ms", {"type": "integer"},
     "stages[].attempts[].duration_ms is integer, was number", False, True),
    ("properties/schema_version", {"const": "2"}, "schema_version may be 2 and is never 1", True, True),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "what", "breaks_readers", "breaks_writers"), CHANGES)
def test_what_a_change_breaks(
    path: str, fields: dict[str, Any], what: str, *, breaks_readers: bool, breaks_writers: bool
) -> None:
    """A reader fails if more is written than it accepts, a writer if less is accepted than it writes."""
    old, new = SCHEMAS["pipeline_result"], edited("pipeline_result", path, **fields)
    for is_input, breaks in ((False, breaks_readers), (True, breaks_writers)):
        found = [
            (f"{change.field} {change.what}", change.breaks)
            for change in changes(old, new, is_input=is_input)
        ]
        assert (what, breaks) in found


def test_a_field_that_producers_must_write_breaks_them() -> None:
    """Queries without it would be refused."""
    new = edited("query_event", "", required=["query_id", "user_input", "lane"])
    new["properties"]["tenant"] = {"type": "string"}
    new["required"].append("tenant")
    assert [
        change[:2] for change in changes(SCHEMAS["query_event"], new, is_input=True) if change.breaks
    ] == [
        ("lane", "is required"),
        ("tenant", "was added, and is required"),
    ]


def test_a_type_within_itself_ends() -> None:
    """Schemas from elsewhere may have one."""
    tree = {"properties": {"inner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Tree"}]}}}
    schema = {**tree, "$defs": {"Tree": tree}}
    assert changes(schema, schema, is_input=False) == []


def invoke(*arguments: object) -> tuple[int, list[str]]:
    """Exit code and lines of output of ``fivestage schemas``."""
    ran = CliRunner().invoke(app, ["schemas", *map(str, arguments)])
    return ran.exit_code, ran.output.splitlines()


def test_export_to_a_folder_and_check_it(tmp_path: Path) -> None:
    """The folder is made, the files are named, and nothing has changed in them."""
    folder = tmp_path / "a" / "b"
    assert invoke("export", folder) == (0, [str(folder / f"{name}.json") for name in EVENTS])
    assert invoke("check", folder) == (0, [f"{name}: unchanged" for name in EVENTS])


def test_export_to_standard_output() -> None:
    """One object with all schemas by their names."""
    code, lines = invoke("export")
    assert (code, json.loads("\n".join(lines))) == (0, SCHEMAS)


def test_check_says_what_breaks(tmp_path: Path) -> None:
    """Changes are printed with their field; exit code 1 if one breaks a program."""
    old = edited("pipeline_result", "properties", partial=None)
    (tmp_path / "pipeline_result.json").write_text(json.dumps(old), encoding="utf-8")
    assert invoke("check", tmp_path) == (0, ["pipeline_result: partial was added"])
    old["properties"]["cost"] = {"type": "number"}
    (tmp_path / "pipeline_result.json").write_text(json.dumps(old), encoding="utf-8")
    assert invoke("check", tmp_path) == (
        1,
        ["pipeline_result: cost was removed (breaks)", "pipeline_result: partial was added"],
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"properties": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"properties": []}',
        '{"properties": {"a": 1}}',
        '{"properties": {"a": {"$ref": "#/$defs/b"}}}',
    ],
)
def test_files_that_are_no_schemas(tmp_path: Path, text: str) -> None:
    """Exit code 2, and the file is named."""
    (tmp_path / "stage_result.json").write_text(text, encoding="utf-8")
    code, [line] = invoke("check", tmp_path)
    assert (code, str(tmp_path / "stage_result.json") in line) == (2, True)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    """Exit code 2, with what to do or why."""
    assert invoke("check", tmp_path) == (
        2,
        [f"fivestage: no schemas in {tmp_path}: fivestage schemas export {tmp_path} writes them"],
    )
    (tmp_path / "file").touch()
    code, [line] = invoke("export", tmp_path / "file")
    assert (code, line) == (2, f"fivestage: cannot write to {tmp_path / 'file'}: File exists")
    assert invoke("check", tmp_path / "file") == (2, [f"fivestage: {tmp_path / 'file'} is no folder"])
