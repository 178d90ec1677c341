"""The reference of docs/authors.md has every public name, and nothing else; what it prints runs."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

import fivestage
from fivestage import BatchContext, BatchItem, Orchestrator, Pipeline, Query, Resource, errors
from fivestage._asyncio import CLEAN_UP_S
from fivestage.core import extra_load
from fivestage.core.plan import Plan
from fivestage.executors.process import offer_sender
from fivestage.nodes.decision import GENERAL
from fivestage.nodes.intent import INTENTS, MAX_LENGTH, classify
from fivestage.nodes.llm import ChatModel, add_llm_node
from fivestage.observability.label_bounds import MAX_NODES
from fivestage.pipeline.call_result import MAX_ERROR_CHARS
from fivestage.pipeline.node_calls import JITTER_S
from fivestage.pipeline.resource_manager import CLOSE_S
from fivestage.pipeline.settings import MAX_BYTES
from fivestage.settings import Settings
from fivestage.testing import MemoryBus, call_node
from fivestage_schemas import (
    MAX_USER_INPUT_BYTES,
    Attempt,
    AttemptKind,
    PipelineMetrics,
    PipelineResult,
    StageResult,
)
from support.documents import ROOT, blocks, section, text_of
from support.tables import tables_in

from .test_golden import PUBLIC

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = text_of("docs/authors.md")
GOLDEN = (ROOT / "tests/golden/names.txt").read_text(encoding="utf-8").splitlines()
"""The public names with the parameters of functions, which test_golden.py compares to the code."""
NAME = r"[A-Za-z_]+"


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The rows of a table in a section."""
    return tables_in(section(heading, PAGE))[number]


def names_in(cell: str) -> list[str]:
    """The names in a cell, without the arguments of functions."""
    return re.findall(rf"`({NAME})(?:\([^`]*\))?`", cell)


def listed(heading: str, *numbers: int) -> list[str]:
    """The names in the first column of some tables of a section."""
    return [name for number in numbers or (0,) for row in table(heading, number) for name in names_in(row[0])]


def public(one: object) -> list[str]:
    """The public members of a class or an object."""
    return [name for name in dir(one) if not name.startswith("_")]


async def bus() -> MemoryBus:
    """A bus, with the attributes of an object."""
    return MemoryBus(Pipeline())


@pytest.mark.parametrize(
    ("heading", "numbers", "of"),
    [
        ("The query", (0,), Query),
        ("The context of stages and nodes", (0, 1), fivestage.StageContext),
        ("Batch items and their context", (0,), BatchItem),
        ("Batch items and their context", (1,), BatchContext),
        ("The app", (0,), Pipeline()),
        ("The app", (1,), Resource),
        ("Ask without Kafka", (2,), Orchestrator()),
        ("Ask without Kafka", (3,), Plan),
    ],
    ids=str,
)
def test_every_member_is_there(heading: str, numbers: tuple[int, ...], of: object) -> None:
    """The tables have each public member once, and no other name."""
    assert sorted(listed(heading, *numbers)) == sorted(public(of))


async def test_every_member_of_the_bus_is_there() -> None:
    """So does the table of the bus, which has its parts as attributes."""
    assert sorted(listed("Test kit", 2)) == sorted(public(await bus()))


def test_signatures_are_those_of_the_code() -> None:
    """A function with its arguments has all of them, with their defaults; ``...`` stands for the others."""
    known = {line.rpartition(".")[2] if "(" not in line else line for line in GOLDEN}
    ends = {re.sub(rf"^(?:{NAME}\.)+(?={NAME}\()", "", line) for line in known}
    reference = PAGE.partition("\n# Reference\n")[2]
    rows = [row for rows in tables_in(reference) for row in rows]
    printed = {code for row in rows for code in re.findall(rf"`({NAME}\([^`]*\))`", row[0])}
    whole = {code for code in printed if not code.endswith(", ...)")}
    assert whole - ends == set()
    short = {code.removesuffix("...)") for code in printed - whole}
    assert [one for one in short if not any(end.startswith(one) for end in ends)] == []
    assert len(whole) > 20


def arguments_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a function, without ``self``, and their defaults."""
    found = inspect.signature(function).parameters
    return {name: one.default for name, one in found.items() if name != "self"}


def shown(default: Any) -> str:
    """A default as a table shows it."""
    if default is inspect.Parameter.empty:
        return "required"
    if default in ((), ""):
        return {(): "`()`", "": '`""`'}[default]
    return f"`{default}`" if isinstance(default, str) else str(default)


@pytest.mark.parametrize(
    ("heading", "number", "function"),
    [
        ("The node of a language model", 0, add_llm_node),
        ("Ask without Kafka", 0, Orchestrator.__init__),
        ("Ask without Kafka", 1, Orchestrator.process_query),
        ("Test kit", 0, call_node),
        ("Test kit", 1, MemoryBus.__init__),
    ],
)
def test_every_argument_is_there(heading: str, number: int, function: Callable[..., Any]) -> None:
    """The table has each argument with its default, in their order."""
    rows = [(names_in(name)[0], default) for name, default, _ in table(heading, number)]
    assert rows == [(name, shown(default)) for name, default in arguments_of(function).items()]


def test_every_argument_of_a_node_is_there() -> None:
    """The table has each argument of the three declarations, and says of which it is one."""
    declarations = {name: getattr(Pipeline, name) for name in ("node", "batch_node", "add_node")}
    wanted = {
        (name, argument, shown(default))
        for name, function in declarations.items()
        for argument, default in arguments_of(function).items()
    }
    found = set()
    for argument, default, of, _ in table("Arguments of a node"):
        for name in declarations if of == "all" else names_in(of):
            found.add((name, *names_in(argument), default))
    assert found == wanted


@pytest.mark.parametrize(
    ("heading", "number", "model"),
    [
        ("Results", 0, PipelineResult),
        ("Results", 1, StageResult),
        ("Results", 2, Attempt),
        ("Results", 3, PipelineMetrics),
        ("The node of a language model", 1, ChatModel),
    ],
)
def test_every_field_is_there(heading: str, number: int, model: Any) -> None:
    """The table has each field of the model, and no other name."""
    assert sorted(listed(heading, number)) == sorted(model.model_fields)


def test_the_kinds_of_attempts() -> None:
    """All are named."""
    (row,) = [row for row in table("Results", 2) if row[0] == "`kind`"]
    assert set(names_in(row[1])) == {str(kind) for kind in AttemptKind}


def test_every_error_type_is_there() -> None:
    """Both pages have each word; this one says what to do, too."""
    words = (ROOT / "tests/golden/error_types.txt").read_text(encoding="utf-8").split()
    assert sorted(listed("Error types")) == sorted(words)
    [_, table_of_events] = tables_in(section("What a query ends as", text_of("docs/events.md")))
    assert sorted(name for row in table_of_events for name in names_in(row[0])) == sorted(words)
    assert [row for row in table("Error types") if len(row) != 3 or not row[2]] == []


def test_every_exception_is_there() -> None:
    """In the order of the tree, with the same exit codes as its docstring."""
    classes = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    assert listed("Exceptions") == classes


def test_the_stages() -> None:
    """Their limits, and which are critical, are the defaults; each has a decorator."""
    rows = [(names_in(row[0])[0], int(row[1]), row[2] == "yes") for row in table("Stages")]
    plan = Plan.of()
    assert rows == [(one.stage_type, one.limit_s * 1000, one.critical) for one in plan.stages]


def test_the_built_in_intents() -> None:
    """All are there, each with its node; the examples have the intent, within the range of confidence."""
    nodes = {intent: name for name, node in Pipeline().nodes.items() for intent in node.intents}
    rows = {names_in(row[0])[0]: row[1:] for row in table("Built-in intents", 0)}
    assert list(rows) == list(INTENTS)
    assert {intent: row[2].strip("`") for intent, row in rows.items() if row[2] != "none"} == nodes
    examples = {
        "mathematical": ["What is 15 + 7?", "15% of 80"],
        "factual": ["Where is Peru?", "tell me more", "the capital of Peru", "so it is?"],
        "greeting": ["good morning"],
        "general": ["so it is", "?!"],
    }
    for intent, texts in examples.items():
        found = [classify(text) for text in texts]
        assert {name for name, _, _ in found} == {intent}
        bounds = [float(one) for one in re.findall(r"[\d.]+", rows[intent][1])]
        assert all(bounds[0] <= confidence <= bounds[-1] for _, confidence, _ in found)
        for example in re.findall(r"`([^`]+ [^`]+)`", rows[intent][0]):
            assert classify(example)[0] == intent
    assert f"the first {MAX_LENGTH} characters" in PAGE
    assert GENERAL in rows


async def test_what_the_built_in_nodes_answer() -> None:
    """They return the keys, and raise the errors, that the page names."""
    rows = {names_in(row[0])[0]: row for row in table("Built-in intents", 1)}
    assert rows.keys() == Pipeline().nodes.keys()
    for name, question in (("math", "15 + 7"), ("facts", "What is the capital of Peru?")):
        data = (await call_node(Pipeline(), name, question, budget_ms=60_000)).data
        assert set(names_in(rows[name][1])) == set(data)
    for question, error in (("hello", "NotAnExpressionError"), ("1 / 0", "DivisionByZeroError")):
        assert error in names_in(rows["math"][2])
        with pytest.raises(fivestage.NodeError) as raised:
            await call_node(Pipeline(), "math", question, budget_ms=60_000)
        assert type(raised.value).__name__ == error


def test_every_name_to_import_is_there() -> None:
    """Each module that authors import from has the names of its row, and no others."""
    found: dict[str, set[str]] = {}
    for place, names in table("Names to import"):
        module, *_ = re.findall(r"`([a-z_.]+)`", place)
        found.setdefault(module, set()).update(names_in(names))
    found["fivestage.testing"].remove("run_app")
    assert found == {name: set(importlib.import_module(name).__all__) for name in PUBLIC if "_" not in name}


def sources() -> dict[str, str]:
    """The Python that authors read: in documents, examples, and the template of ``fivestage new``."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    code = {
        str(path.relative_to(ROOT)): "\n".join(blocks("python", path.read_text(encoding="utf-8")))
        for path in pages
    }
    folders = [(ROOT / "examples", "*.py"), (ROOT / "consumer/fivestage/cli/new/template", "*.py.txt")]
    for folder, pattern in folders:
        for path in sorted(folder.rglob(pattern)):
            code[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    return code


def test_authors_import_public_names_only() -> None:
    """No document, example or template reaches into a module that is not public."""
    imports = re.compile(r"^\s*from (fivestage[\w.]*) import ([\w, ]+)$", flags=re.MULTILINE)
    found = 0
    for place, code in sources().items():
        assert re.findall(r"^\s*import fivestage\.", code, flags=re.MULTILINE) == [], place
        assert len(re.findall(r"\bfrom fivestage", code)) == len(imports.findall(code)), place
        for module, names in imports.findall(code):
            found += 1
            assert module in PUBLIC, f"{place}: {module}"
            assert set(names.split(", ")) <= set(importlib.import_module(module).__all__), place
    assert found > 10


def test_numbers() -> None:
    """Each is that of the code, or the default of the setting beside it."""
    defaults = Settings().model_dump(mode="json")
    for what, value, keys in table("Numbers"):
        named = [key.split(".") for key in re.findall(r"`(\S+)`", keys)]
        wanted = [defaults[head][key] for head, key in named]
        flat = [one for found in wanted for one in (found.values() if isinstance(found, dict) else [found])]
        given = [int(one) * (1000 if value.endswith(" s") else 1) for one in re.findall(r"\d+", value)]
        assert not flat or given == flat, what
    rows = {what: value for what, value, _ in table("Numbers")}
    assert set(rows.items()) >= {
        ("a node that is cancelled has for its clean-up", f"{CLEAN_UP_S * 1000:g} ms"),
        ("resources may take to close, together", f"{CLOSE_S:g} s"),
        ("wait before a retry, at random", f"up to {JITTER_S * 1000:g} ms"),
        ("an offer is sent from a worker process at most every", f"{offer_sender.INTERVAL_S * 1000:g} ms"),
        ("`user_input`", f"{MAX_USER_INPUT_BYTES // 1024} KiB"),
        ("settings of all nodes", f"{MAX_BYTES // 1024} KiB"),
        ("`error` in events", f"{MAX_ERROR_CHARS} characters"),
        ("names of nodes in metrics", f"{MAX_NODES}; further ones are counted together"),
    }
    assert (extra_load.SHARE, extra_load.PER_S) == (1 / 5, 1)


async def test_the_printed_context() -> None:
    """The test of a node with a context made by hand passes."""
    (code,) = blocks("python", section("The context of stages and nodes", PAGE))
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the project's own document
    await names["test_shout"]()


async def test_the_printed_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node answers from the printed table."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python", section("Built-in intents", PAGE))
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the project's own document
    result = await call_node(names["app"], "facts", "What is the price of the laptop?", budget_ms=60_000)
    assert result.data["answer"] == "900 euros"


def test_the_printed_settings_are_valid() -> None:
    """Each block of settings loads, and contradicts nothing."""
    files = blocks("toml", PAGE)
    assert len(files) == 5
    for text in files:
        assert list(Settings.load(None, tomllib.loads(text)).conflicts(cores=2, platform="linux")) == []


def test_every_block_of_code_is_run_by_a_test() -> None:
    """Each section with code is read by a test, which runs it."""
    headings = re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    tests = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
    with_code = [one for one in headings if blocks("(?:python|toml)", section(one, PAGE))]
    first, *others = [one for one in with_code if one != "Threads or processes"]  # settings, loaded above
    assert 'node, question, *_ = blocks("python", AUTHORS)' in tests, first
    assert [one for one in others if f'section("{one}"' not in tests] == []
