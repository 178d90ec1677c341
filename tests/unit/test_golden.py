"""The public surface of the running product, compared with the reviewed lists in ``tests/golden``."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import orjson
import pytest
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

import fivestage_schemas
from fivestage.cli import app
from fivestage.core.codec.dead_letter import DeadLetter, mark_headers, read_letter, replay_headers
from fivestage.core.codec.decode import UnreadableReason
from fivestage.core.codec.refused_event import REFUSED, without_data
from fivestage.core.records import Output, OutputRecord, PlainRecord
from fivestage.settings import Settings
from fivestage_schemas import PipelineResult, StageResult, TimeoutEvent
from support import everything
from support.golden import compare
from support.shapes import fields_of, members_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.testing import MemoryBus

MODELS: dict[Output, type[BaseModel]] = {
    Output.STAGE_RESULTS: StageResult,
    Output.RESULTS: PipelineResult,
    Output.TIMEOUTS: TimeoutEvent,
}
PUBLIC = (
    "fivestage",
    "fivestage.nodes.facts",
    "fivestage.nodes.llm",
    "fivestage.testing",
    "fivestage_schemas",
)
"""What authors import from."""
OF_PROCESSES = {"worker_died"}
"""Needs a process: ``tests/realtime/test_process_executor.py`` tests it."""


@pytest.fixture(scope="module")
def bus() -> MemoryBus:
    """Run every kind of record through a memory bus, in virtual time."""
    return everything.run()


def letters(bus: MemoryBus) -> list[DeadLetter]:
    """Return the dead letters, parsed."""
    found = [
        read_letter(PlainRecord("fivestage.dead-letters", 0, number, 0, one.key, one.value, one.headers))
        for number, one in enumerate(bus.sink.of(Output.DEAD_LETTERS))
    ]
    return [letter for letter in found if isinstance(letter, DeadLetter)]


def test_records(bus: MemoryBus) -> None:
    """One record of each published kind, to the byte: key, headers in order, value."""
    kinds: dict[tuple[object, ...], OutputRecord] = {}
    for record in bus.sink.records:
        kinds.setdefault(kind_of(record), record)
    shown: list[str] = []
    for kind, record in kinds.items():
        shown += [f"# {', '.join(str(word) for word in kind if word is not None)}", f"key: {record.key!r}"]
        shown += [f"{name}: {value!r}" for name, value in record.headers]
        shown += [repr(record.value), ""]
    compare("records.txt", shown)


def kind_of(record: OutputRecord) -> tuple[object, ...]:
    """Return the kind of a record: its topic and outcome."""
    if record.output is Output.DEAD_LETTERS:
        headers = dict(record.headers)
        return record.output, headers["dlq.reason"].decode(), None if record.key else "without a key"
    event = orjson.loads(record.value or b"")
    names = ("stage_type", "status", "outcome", "scope", "reason", "error_type")
    marks = (word for word in ("degraded", "partial") if event.get(word))
    return record.output, *(event.get(name) for name in names), *marks


def test_headers(bus: MemoryBus) -> None:
    """The headers of each kind of record; ``?`` marks optional ones."""
    kinds: dict[str, list[set[str]]] = {}
    for record in bus.sink.records:
        kinds.setdefault(str(record.output), []).append({name for name, _ in record.headers})
    for letter in letters(bus):
        kinds.setdefault("replayed", []).append({name for name, _ in replay_headers(letter)})
        kinds.setdefault("dead_letters, mark", []).append({name for name, _ in mark_headers(letter)})
    lines = []
    for kind, found in kinds.items():
        always = set.intersection(*found)
        lines += [f"{kind}: {name}{'' if name in always else '?'}" for name in set.union(*found)]
    compare("headers.txt", sorted(lines))


def test_published_events_have_the_fields_of_their_models(bus: MemoryBus) -> None:
    """Each published event has exactly the fields of its model, nested ones too."""
    seen = set()
    for record in bus.sink.records:
        if record.output in MODELS:
            model, value = MODELS[record.output], orjson.loads(record.value or b"")
            assert set(value) == set(model.model_fields), record.output
            written = model.model_validate(value).model_dump(mode="json")
            assert structure(value) == structure(written)
            seen.add(record.output)
    assert seen == set(MODELS)


def structure(value: Any) -> Any:
    """Return the field names in a JSON value, without values."""
    if isinstance(value, dict):
        return {name: structure(one) for name, one in value.items()}
    return [structure(one) for one in value] if isinstance(value, list) else None


def test_events() -> None:
    """The fields of the events with their types, bounds, words and defaults."""
    lines: list[str] = []
    for name in fivestage_schemas.__all__:
        value = getattr(fivestage_schemas, name)
        if inspect.isclass(value) and issubclass(value, BaseModel):
            lines += [f"{name}.{line}" for line in fields_of(value)]
        elif isinstance(value, int | str):
            lines.append(f"{name} = {value!r}")
    compare("events.txt", sorted(lines))


def test_dead_letter_reasons(bus: MemoryBus) -> None:
    """Each reason is used by some record, by its name."""
    found = {letter.reason for letter in letters(bus)}
    compare("dlq_reasons.txt", sorted(found))
    assert found == set(UnreadableReason)
    given = {letter.record.key: letter.reason for letter in letters(bus)}
    assert [reason for reason in everything.UNREADABLE if given.get(reason.encode(), reason) != reason] == []


def words_in(records: list[OutputRecord]) -> set[str]:
    """Return the ``error_type`` of all events, without class names of exceptions."""
    found = {orjson.loads(one.value or b"").get("error_type") for one in records if one.output in MODELS}
    return {word for word in found if word is not None and word.islower()}


def test_error_types(bus: MemoryBus) -> None:
    """The fixed words of ``error_type`` beside class names."""
    refused = [without_data(one, REFUSED, "code 87") for one in bus.sink.of(Output.RESULTS)]
    words = words_in(bus.sink.records) | words_in([one for one in refused if one is not None])
    compare("error_types.txt", sorted(words | OF_PROCESSES))


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting with its type, bounds and the default that ``fivestage config show`` prints."""
    for name in [name for name in os.environ if name.startswith("FIVESTAGE_")]:
        monkeypatch.delenv(name)
    shown = CliRunner().invoke(app, ["config", "show"])
    assert shown.exit_code == 0, shown.output
    defaults = {}
    for line in shown.output.splitlines():
        setting, _, origin = line.rpartition("  # ")
        assert origin == "default", line
        key, _, value = setting.partition(" = ")
        defaults[key.strip()] = value.strip()
    types = dict(settings_types(Settings))
    declared = {key: key if key in types else key.rpartition(".")[0] for key in defaults}
    assert set(declared.values()) == set(types)
    compare("settings.txt", sorted(f"{key}: {types[declared[key]]} = {defaults[key]}" for key in defaults))


def settings_types(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Return each setting's dotted key and type."""
    types = dict(line.split(": ", 1) for line in fields_of(model))
    for name, field in model.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, BaseModel):
            yield from settings_types(section, f"{name}.")
        else:
            yield f"{prefix}{name}", types[name].partition(" = ")[0]


def commands(command: Any, path: str = "fivestage") -> Iterator[str]:
    """Return every command with its arguments and options."""
    yield path
    for one in command.params:
        annotation = one.type_descriptor.annotation
        words = get_args(annotation) if get_origin(annotation) is Literal else ()
        kind = "|".join(words) or getattr((get_args(annotation) or (annotation,))[0], "__name__", "?")
        if one.param_type_name == "argument":
            yield f"{path} {one.name.upper()}{'' if one.required else '?'}: {kind}"
        else:
            many = ", any number" if one.multiple else ""
            yield f"{path} {'/'.join([*one.opts, *one.secondary_opts])}: {kind}{many}"
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


def test_commands() -> None:
    """Every command of the command line with its arguments and options."""
    compare("commands.txt", sorted(commands(get_command(app))))


def test_names() -> None:
    """The public Python names, with members of classes and parameters of functions."""
    lines: list[str] = []
    for name in PUBLIC:
        module = importlib.import_module(name)
        for exported in module.__all__:
            lines += members_of(f"{name}.{exported}", getattr(module, exported))
    compare("names.txt", sorted(set(lines)))
