"""``fivestage check``: what it finds in an app, and what it prints."""

from __future__ import annotations

import functools
import json
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from fivestage import Pipeline
from fivestage.cli import app as command
from fivestage.cli.check.findings import Findings, find
from fivestage.cli.check.view import options_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


async def answer(query: Any, ctx: Any) -> Any:
    """Do what a node does."""


def app_with(**options: Any) -> Pipeline:
    """A Pipeline with the built-in nodes, and one more."""
    app = Pipeline()
    app.node("mine", **options)(answer)
    return app


def test_nothing_is_found_in_a_good_app() -> None:
    """The built-in app, and one with a node for a built-in intent, have no problems."""
    assert find(Pipeline()) == Findings()
    assert find(app_with(intents={"greeting"})) == Findings()


def test_a_node_without_intents() -> None:
    """The built-in decision never chooses it; the author's own may."""
    app = app_with()
    assert [text[:33] for text in find(app).errors] == ["node mine: is never chosen: the bu"[:33]]
    assert 'add intents={"general"}' in find(app).errors[0]
    app.decision(answer)
    assert find(app) == Findings()


def test_an_intent_that_queries_never_have() -> None:
    """A node for intents that the built-in stage does not know is never chosen; a typo is a warning."""
    app = app_with(intents={"question"})
    (error,) = find(app).errors
    assert error.startswith("node mine: is never chosen: the built-in intent stage knows mathematical,")
    app.intent(answer)
    assert find(app) == Findings()
    found = find(app_with(intents={"greeting", "greetng"}))
    assert (found.errors, found.warnings[0][:37]) == ([], "node mine: is not chosen for greetng:")


def test_intents_that_no_node_takes() -> None:
    """Without the built-in nodes some queries end as errors, or all."""
    app = Pipeline(builtins=False)
    assert (
        find(app).errors[0].startswith("no node takes the intents mathematical, factual, greeting, general:")
    )
    app.node("mine", intents={"greeting"})(answer)
    assert find(app).warnings[0].startswith("no node takes the intents mathematical, factual, general:")
    app.node("rest", intents={"general"})(answer)
    assert find(app) == Findings()
    own = Pipeline(builtins=False)
    own.intent(answer)
    assert find(own).errors == ["there is no node: declare one with @app.node(name, intents={...})"]


def test_a_check_that_is_never_called() -> None:
    """A node's validate belongs to the built-in validation."""
    app = app_with(intents={"greeting"}, validate=answer)
    assert find(app) == Findings()
    app.validation(answer)
    assert find(app).warnings[0].startswith("node mine: its validate is never called:")


class WithResources:
    """An app with an ``async def`` and a ``def`` resource."""

    def __init__(self) -> None:
        self.app = Pipeline()

        async def http() -> AsyncIterator[str]:
            yield "client"

        def model() -> Iterator[str]:
            yield "model"

        self.http = self.app.resource(http)
        self.model = self.app.resource(model)
        self.module = types.ModuleType("clients")
        vars(self.module)["http"] = self.http

    def users(self) -> dict[str, Callable[..., Any]]:
        """Functions that use the ``async def`` resource, each in another way."""
        http, clients = self.http, self.module

        def directly(_query: Any, ctx: Any) -> Any:
            return ctx.use(http)

        def inside(_query: Any, ctx: Any) -> Any:
            def use() -> Any:
                return ctx.use(http)

            return [use() for _ in "ab"]

        def in_module(_query: Any, ctx: Any) -> Any:
            return ctx.use(clients.http)

        def with_more(_more: int, _query: Any, ctx: Any) -> Any:
            return ctx.use(http)

        class Node:
            def __call__(self, _query: Any, ctx: Any) -> Any:
                return ctx.use(http)

            def method(self, _query: Any, ctx: Any) -> Any:
                return ctx.use(http)

        @functools.wraps(directly)
        def decorated(query: Any, ctx: Any) -> Any:
            return directly(query, ctx)

        partial = functools.partial(with_more, 1)
        named: dict[str, Callable[..., Any]] = {
            "partial": partial,
            "object": Node(),
            "method": Node().method,
            "decorated": decorated,
        }
        return {"directly": directly, "inside": inside, "in_module": in_module, **named}


@pytest.mark.parametrize("way", WithResources().users())
def test_an_async_def_resource_in_a_def(way: str) -> None:
    """A ``def`` node, stage or check cannot use a resource of the event loop, however it mentions it."""
    one = WithResources()
    function = one.users()[way]
    text = "is a def, which runs in a thread, and uses the resource http, which is an async def"
    one.app.node("mine", intents={"greeting"})(function)
    assert [error.partition(": ")[0] for error in find(one.app).errors if text in error] == ["node mine"]
    one.app.validation(function)
    assert [error.partition(": ")[0] for error in find(one.app).errors] == [
        "stage validation",
        "node mine",
    ]


def test_resources_that_can_be_used() -> None:
    """An ``async def`` uses both kinds of resources, a ``def`` those of the process."""
    one = WithResources()
    http, model = one.http, one.model

    @one.app.node("a", intents={"greeting"})
    async def on_loop(_query: Any, ctx: Any) -> Any:
        return ctx.use(http), ctx.use(model)

    @one.app.node("b", intents={"greeting"})
    def in_thread(_query: Any, ctx: Any) -> Any:
        return ctx.use(model)

    @functools.wraps(on_loop)
    def returns_its_call(query: Any, ctx: Any) -> Any:
        return on_loop(query, ctx)

    one.app.node("c", intents={"greeting"})(returns_its_call)
    assert find(one.app) == Findings()
    other = Pipeline()
    other.node("a", intents={"greeting"})(on_loop)
    assert [text.partition(";")[0] for text in find(other).errors] == [
        "node a: uses the resource http, which belongs to another Pipeline",
        "node a: uses the resource model, which belongs to another Pipeline",
    ]


async def forgotten() -> AsyncIterator[str]:
    """Yield a client, without the decorator."""
    yield "client"


class Client:
    """What a resource would yield."""


def wrong_users() -> dict[str, tuple[Callable[..., Any], str]]:
    """Functions that pass something to ``ctx.use`` that is no resource, each with what is said of it."""
    module, local = types.ModuleType("clients"), Client()
    vars(module)["http"] = forgotten

    async def of_a_global(_query: Any, ctx: Any) -> Any:
        return ctx.use(forgotten)

    async def by_name(_query: Any, context: Any) -> Any:
        return context.use("http")

    async def of_a_class(_query: Any, ctx: Any) -> Any:
        async with ctx.use(Client) as client:
            return client

    def inside(_query: Any, ctx: Any) -> Any:
        return [ctx.use(local) for _ in "ab"]

    def of_a_module(_query: Any, ctx: Any) -> Any:
        return ctx.use(module.http).get(ctx.use)

    return {
        "global": (
            of_a_global,
            "ctx.use(forgotten): forgotten is no resource of this app; decorate it with @",
        ),
        "text": (
            by_name,
            "ctx.use('http'): a resource is not used by its name; pass the resource itself: ctx",
        ),
        "class": (of_a_class, "ctx.use(Client): Client is a class; declare a function that yields an object"),
        "object": (
            inside,
            "ctx.use(local): it is no resource; pass what @app.resource has made of a function",
        ),
        "module": (of_a_module, "ctx.use(module.http): module.http is no resource of this app; decorate it"),
    }


@pytest.mark.parametrize("way", wrong_users())
def test_what_is_used_is_no_resource(way: str) -> None:
    """A forgotten decorator, a text, a class and any other object in ``ctx.use`` are found before the run."""
    function, said = wrong_users()[way]
    app = Pipeline()
    app.node("mine", intents={"greeting"})(function)
    (error,) = find(app).errors
    assert error.startswith(f"node mine: {said}")


def test_uses_that_are_not_known_before_they_run() -> None:
    """What a parameter, a local variable or another object's ``use`` gets is left to the run."""
    app = Pipeline()
    driver = Client()

    @app.node("mine", intents={"greeting"})
    async def mine(query: Any, ctx: Any) -> Any:
        chosen = query.context["resource"]
        driver.use("http")  # type: ignore[attr-defined]
        return ctx.use(chosen), ctx.use(query), ctx.use(chosen.http), ctx.use(undefined)  # type: ignore[name-defined] # noqa: F821

    assert find(app) == Findings()


GOOD = """
from fivestage import Pipeline

app = Pipeline()


@app.resource
async def http():
    yield "client"


@app.node("greeter", intents={"greeting"}, not_failures=(KeyError, ValueError))
async def greet(query, ctx):
    return ctx.use(http)
"""


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, *options: str) -> Any:
    """Run the command on a module with that text."""
    name = f"checked_{abs(hash((text, options)))}"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return CliRunner().invoke(command, ["check", f"{name}:app", *options])


def test_prints_what_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each stage, node and resource, with its kind, place, intents and options."""
    ran = run(tmp_path, monkeypatch, GOOD)
    lines = [line.split() for line in ran.output.splitlines()]
    assert ran.exit_code == 0
    assert lines[0] == ["stage", "intent", "built", "in"]
    name = lines[6][4].partition(".")[0]
    assert (
        lines[6] == f"node greeter async def {name}.py:12 greeting not_failures=KeyError, ValueError".split()
    )
    assert lines[7] == f"resource http async def {name}.py:7 one per event loop".split()
    assert lines[8] == ["no", "problems", "found"]


def test_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as one JSON object."""
    found = json.loads(run(tmp_path, monkeypatch, GOOD, "--json").output)
    assert (found["works"], found["errors"], found["warnings"]) == (True, [], [])
    greeter = found["nodes"]["greeter"]
    assert (greeter["intents"], greeter["options"], greeter["async"]) == (
        ["greeting"],
        {"not_failures": "KeyError, ValueError"},
        True,
    )
    assert found["stages"]["intent"]["built_in"]
    assert found["resources"]["http"]["async"]


def test_exit_code_of_an_app_that_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 for an error that was found, and for a module that fails to import; 2 for one that is not there."""
    ran = run(tmp_path, monkeypatch, GOOD.replace('"greeting"', '"question"'))
    assert (ran.exit_code, ran.output.count("error: node greeter: is never chosen")) == (1, 1)
    ran = run(tmp_path, monkeypatch, GOOD.replace("(query, ctx)", "(query)"))
    assert (ran.exit_code, "declare it as async def greet(query, ctx)" in ran.stderr) == (1, True)
    ran = run(tmp_path, monkeypatch, GOOD.replace("(query, ctx)", "(query"), "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["works"], "SyntaxError" in ran.stderr) == (1, False, True)
    ran = CliRunner().invoke(command, ["check", "no_such_module:app"])
    assert (ran.exit_code, "No module named" in ran.stderr) == (2, True)


def test_a_timeout_is_shown_as_it_was_declared() -> None:
    """By the name and in the unit of the argument."""
    app = app_with(intents={"greeting"}, limit=2, timeout_ms=80, validate=answer)
    assert options_of(app.nodes["mine"]) == {"validate": "mine.validate", "limit": "2", "timeout_ms": "80"}


TYPED = """
from fivestage import Pipeline
from pydantic import BaseModel

app = Pipeline()


class Quote(BaseModel):
    prefix: str


@app.node("quote", intents={"greeting"}, settings=Quote)
async def quote(query, ctx):
    return ctx.settings.prefix
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[nodes.quote]\nprefix = 'a'\n", None),
        (
            "[nodes.quote]\nprefx = 'a'\n",
            "nodes.quote.prefx: there is no such setting (did you mean 'prefix'?)",
        ),
        ("[nodes.quot]\nprefix = 'a'\n", "nodes.quot: there is no node or resource of this name"),
        ("", "nodes.quote.prefix: not set: needed in [nodes.quote]"),
    ],
)
def test_settings_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str | None
) -> None:
    """With ``--config`` the settings of nodes are checked too; without it they are not."""
    (tmp_path / "f.toml").write_text(text)
    assert run(tmp_path, monkeypatch, TYPED).exit_code == 0
    ran = run(tmp_path, monkeypatch, TYPED, "--config", str(tmp_path / "f.toml"))
    assert (ran.exit_code, f"error: {said}" in ran.output) == (int(said is not None), said is not None)
    assert "no settings file" not in ran.output
    found = json.loads(run(tmp_path, monkeypatch, TYPED, "--json", "-c", str(tmp_path / "f.toml")).stdout)
    assert (found["works"], len(found["errors"])) == (said is None, int(said is not None))


def test_options_of_what_is_declared() -> None:
    """What differs from its default is shown, by the names of classes and functions, also if it is nested."""

    @dataclass(frozen=True)
    class Rules:
        limit: int | None = None
        retries: int = 0
        retry_on: tuple[type[Exception], ...] = ()

    @dataclass(frozen=True)
    class Declared:
        handler: Any = 1
        rules: Rules | None = None
        settings: Any = None

    rules = Rules(limit=8, retry_on=(KeyError, OSError))
    assert options_of(Declared(handler=2, rules=rules, settings=Pipeline)) == {
        "limit": "8",
        "retry_on": "KeyError, OSError",
        "settings": "Pipeline",
    }
