"""Settings of nodes: sources, models, texts of errors, and that no value is ever shown."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator
from typer.testing import CliRunner

from fivestage import (
    ConfigurationError,
    InvalidAppError,
    Orchestrator,
    Pipeline,
    Plan,
    StageContext,
    StageType,
)
from fivestage.cli import app as commands
from fivestage.pipeline.loader import load_app
from fivestage.pipeline.node_settings import NodeSettings
from fivestage.pipeline.settings import MAX_BYTES
from fivestage.settings import Settings
from support.documents import blocks, section, text_of

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret-7f3a"  # noqa: S105 - a canary
FILE = """
[nodes.qa]
url = "http://qa"
api_key = "s3cret-7f3a"
since = 2026-01-02
[nodes.qa.retry]
most = 3
[nodes."Old-1"]
names = ["a"]
"""


class Retry(BaseModel):
    """A table within the settings."""

    most: int = 1


class Qa(BaseModel):
    """The settings of the node ``qa``."""

    url: str
    api_key: SecretStr = SecretStr("")
    top_k: int = Field(default=5, gt=0)
    words: list[str] = []
    since: date | None = None
    retry: Retry = Retry()

    @field_validator("url")
    @classmethod
    def _https(cls, given: str) -> str:
        if given.startswith("ftp:"):
            raise ValueError("a URL must begin with http")
        if given.startswith("bad:"):
            raise ValueError(f"{given} cannot be used")
        return given


def app_of(model: type[BaseModel] | None = Qa, *names: str) -> Pipeline:
    """Return an app with the node ``qa``, and others without a model."""
    app = Pipeline(builtins=False)
    app.node("qa", settings=model)(lambda _query, _ctx: 1)
    for name in names:
        app.node(name)(lambda _query, _ctx: 1)
    return app


def refusal(given: dict[str, Any], app: Pipeline | None = None, config: Path | None = None) -> str:
    """Return why these settings are refused; in one line."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(config, {"nodes": given}).for_nodes(app or app_of())
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable wins over the file, key by key; lists, tables and whole nodes may be JSON."""
    (tmp_path / "f.toml").write_text(FILE)
    monkeypatch.setenv("FIVESTAGE_NODES__QA__TOP_K", "7")
    monkeypatch.setenv("FIVESTAGE_NODES__QA__URL", "http://other")
    monkeypatch.setenv("FIVESTAGE_NODES__QA__WORDS", '["x", "y"]')
    monkeypatch.setenv("FIVESTAGE_NODES", '{"Old-1": {"size": 2}, "qa": {"url": "http://third"}}')
    settings = Settings.load(tmp_path / "f.toml")
    found = settings.for_nodes(app_of(Qa, "Old-1"))
    qa = found.find("qa")
    assert isinstance(qa, Qa)
    assert (qa.url, qa.top_k, qa.words, qa.retry.most) == ("http://other", 7, ["x", "y"], 3)
    assert (qa.api_key.get_secret_value(), qa.since) == (SECRET, date(2026, 1, 2))
    assert dict(found.find("Old-1")) == {"names": ["a"], "size": 2}


def test_a_text_from_the_environment_stays_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits for a field that is a text are no number."""

    class Model(BaseModel):
        pin: str

    monkeypatch.setenv("FIVESTAGE_NODES__QA__PIN", "0123")
    assert Settings.load().for_nodes(app_of(Model)).find("qa").pin == "0123"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"qaa": {"url": "x"}}, "nodes.qaa: there is no node or resource of this name (did you mean 'qa'?)"),
        ({"zzz": {}}, "nodes.zzz: there is no node or resource of this name (there are: qa)"),
        (
            {},
            "nodes.qa.url: not set: needed in [nodes.qa] or the environment, in a test in nodes={'qa': ...}",
        ),
        (
            {"qa": {"url": SECRET, "tpo_k": 1}},
            "nodes.qa.tpo_k: there is no such setting (did you mean 'top_k'?)",
        ),
        ({"qa": {"url": SECRET, "top_k": 0}}, "nodes.qa.top_k: Input should be greater than 0"),
        ({"qa": {"url": SECRET, "top_k": SECRET}}, "nodes.qa.top_k: Input should be a valid integer"),
        ({"qa": {"url": f"ftp:{SECRET}"}}, "nodes.qa.url: a URL must begin with http"),
        ({"qa": {"url": f"bad:{SECRET}"}}, "nodes.qa.url: invalid (value_error); the message is left out"),
        (
            {"qa": {"url": "x", "retry": {"most": SECRET}}},
            "nodes.qa.retry.most: Input should be a valid integer",
        ),
        ({"qa": SECRET}, "nodes.qa: Input should be a valid dictionary"),
        ({"qa": {"url": object()}}, "nodes.qa.url: expected text, a number, a boolean, a list or a table"),
        ({"qa": {"url": SECRET + "x" * MAX_BYTES}}, "bytes are more than 49152: keep long texts in files"),
    ],
)
def test_refused(given: dict[str, Any], said: str) -> None:
    """Each error names the node and the key, says what to do, and quotes no value."""
    assert said in refusal(given)


def test_errors_name_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file or the variable, whichever set the value; all errors are reported at once."""
    config = tmp_path / "f.toml"
    config.write_text(FILE + "[nodes.qaa]\nx = 1\n")
    monkeypatch.setenv("FIVESTAGE_NODES__QA__TOP_K", SECRET)
    monkeypatch.setenv("FIVESTAGE_NODES", '{"qa": {"since": "never"}}')
    said = refusal({}, config=config).split("; ")
    assert (
        f"nodes.qaa: there is no node or resource of this name (did you mean 'qa'?) (from {config})" in said
    )
    assert any(one.startswith("nodes.Old-1: ") and one.endswith(f"(from {config})") for one in said)
    [top_k] = [one for one in said if one.startswith("nodes.qa.top_k: ")]
    assert top_k.endswith("(from FIVESTAGE_NODES__QA__TOP_K)")
    [since] = [one for one in said if one.startswith("nodes.qa.since: ")]
    assert since.endswith("(from FIVESTAGE_NODES)")


def test_a_list_that_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to write a list in a variable."""
    monkeypatch.setenv("FIVESTAGE_NODES__QA__WORDS", "x,y")
    said = "Input should be a valid list, in the environment as JSON (from FIVESTAGE_NODES__QA__WORDS)"
    assert refusal({"qa": {"url": "x"}}) == f"nodes.qa.words: {said}"


def test_models_that_take_more_keys() -> None:
    """A model may allow or ignore other keys, and give a field another name."""

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    class Renamed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        top_k: int = Field(alias="topK")

    class Either(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = Field(default=1, validation_alias=AliasChoices("size", "length"))

    assert NodeSettings.of(app_of(Open), {"qa": {"any": 1}}).find("qa").any == 1
    assert NodeSettings.of(app_of(Either), {"qa": {"length": 2}}).find("qa").size == 2
    assert refusal({"qa": {"lenght": 2}}, app_of(Either)).startswith("nodes.qa.lenght: Extra inputs are not")
    assert NodeSettings.of(app_of(Renamed), {"qa": {"topK": 3}}).find("qa").top_k == 3
    assert refusal({"qa": {"topK": 3, "top_k": 3}}, app_of(Renamed)).startswith(
        "nodes.qa.top_k: there is no such"
    )


def test_a_validator_that_fails() -> None:
    """What else a validator raises is named by its class; its text may quote the value."""

    class Model(BaseModel):
        url: str

        @field_validator("url")
        @classmethod
        def _known(cls, given: str) -> str:
            return {"a": "b"}[given]

    assert refusal({"qa": {"url": SECRET}}, app_of(Model)) == "nodes.qa: Model raised KeyError"


def test_settings_given_in_code() -> None:
    """An Orchestrator takes instances of the model too, and refuses those of another."""
    given = Qa(url="http://qa")
    assert NodeSettings.of(app_of(), {"qa": given}).find("qa") is given
    with pytest.raises(ConfigurationError, match=r"nodes.qa: expected a Qa or a mapping, got Retry"):
        Orchestrator(app_of(), nodes={"qa": Retry()})
    with pytest.raises(ConfigurationError, match=r"nodes.qa.url: not set"):
        Orchestrator(app_of())


@pytest.mark.parametrize("model", [{"url": "x"}, Retry(), int, "Qa"])
def test_a_model_is_a_class_of_pydantic(model: Any) -> None:
    """Anything else is refused when the node is declared."""
    with pytest.raises(InvalidAppError, match=r"node 'qa': settings must be a class derived from pydantic"):
        Pipeline().node("qa", settings=model)


def test_without_a_model() -> None:
    """A node that declares none gets a read-only mapping, which names a missing key and shows no value."""
    found = NodeSettings.of(app_of(None), {"qa": {"key": SECRET}}).find("qa")
    assert (found["key"], len(found), list(found)) == (SECRET, 1, ["key"])
    assert SECRET not in f"{found!r} {found}"
    with pytest.raises(KeyError, match=r"nodes.qa.other is not set"):
        found["other"]
    assert dict(NodeSettings.of(app_of(None)).find("qa")) == {}


def test_no_representation_shows_a_value(tmp_path: Path) -> None:
    """Neither of the settings nor of the parts that hold them; also of values that count as false."""
    (tmp_path / "f.toml").write_text(FILE + "[nodes.zero]\nnothing = 0\nempty = ''\n")
    settings = Settings.load(tmp_path / "f.toml")
    found = settings.for_nodes(app_of(Qa, "Old-1", "zero"))
    orchestrator = Orchestrator(app_of(Qa, "Old-1", "zero"), nodes=found)
    shown = (
        f"{settings!r} {settings} {settings.model_dump(mode='json')} {settings.model_dump_json()} {found!r}"
    )
    assert SECRET not in f"{shown} {orchestrator!r} {orchestrator.resources!r}"
    assert set(settings.model_dump(mode="json")["nodes"]["zero"].values()) == {"**********"}


def test_config_show_and_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value is a mask with its source, a table of a node too; ``check`` takes the variables."""
    (tmp_path / "f.toml").write_text(FILE)
    monkeypatch.setenv("FIVESTAGE_NODES__QA__TOP_K", SECRET)
    shown = CliRunner().invoke(commands, ["config", "show", "--config", str(tmp_path / "f.toml")])
    lines = {line.split(" = ")[0]: line.split(" = ")[1].split("  # ") for line in shown.output.splitlines()}
    nodes = {key: (value.strip(), origin) for key, (value, origin) in lines.items() if "nodes" in key}
    file = str(tmp_path / "f.toml")
    keys = dict.fromkeys(["qa.url", "qa.api_key", "qa.since", "qa.retry", "Old-1.names"], file)
    expected = {**keys, "qa.top_k": "environment"}
    assert nodes == {f"nodes.{key}": ('"**********"', source) for key, source in expected.items()}
    assert SECRET not in shown.output
    checked = CliRunner().invoke(commands, ["config", "check", "--config", file])
    assert (checked.exit_code, checked.stdout) == (0, "the settings are valid\n")
    assert "[nodes.qa], [nodes.Old-1]: not checked here" in checked.stderr
    assert "fivestage check MODULE:APP --config FILE" in checked.stderr


def test_a_value_that_is_missing(tmp_path: Path) -> None:
    """The error says so if no file of settings was read."""
    (tmp_path / "f.toml").touch()
    with pytest.raises(ConfigurationError, match=r"\(no settings file was read: --config FILE\)$"):
        Settings.load().for_nodes(app_of())
    for settings in (Settings.load(tmp_path / "f.toml"), Settings()):
        with pytest.raises(ConfigurationError, match=r"not set: .* in a test in nodes=\{'qa': ...\}$"):
            settings.for_nodes(app_of())


def test_stages_before_the_choice_and_contexts_of_tests_have_none() -> None:
    """The error says how to get settings there."""
    ctx: StageContext = StageContext("prod", 1.0, lambda: 0.0, StageType.INTENT)
    with pytest.raises(InvalidAppError, match=r"none has been chosen in the intent stage; let a resource"):
        _ = ctx.settings
    ctx.node = "qa"
    with pytest.raises(InvalidAppError, match=r"run the node with Orchestrator\(app, nodes=\{'qa': ...\}\)"):
        _ = ctx.settings


def test_only_resources_ask_the_app() -> None:
    """``app.settings`` elsewhere, or of an unknown name, is an error that says so."""
    app = app_of()
    with pytest.raises(InvalidAppError, match=r"works in the function of a resource"):
        app.settings("qa")
    with pytest.raises(InvalidAppError, match=r"'other'.*there is no node or resource of this name"):
        app.settings("other")


async def test_the_printed_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers with the printed file and variable, and with settings that a test gives."""
    page = section("Settings of a node", text_of("docs/authors.md"))
    [node], [file] = blocks("python", page), blocks("toml", page)
    (tmp_path / "search_app.py").write_text(node, encoding="utf-8")
    (tmp_path / "f.toml").write_text(file, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    app = load_app("search_app:app")
    monkeypatch.setenv("FIVESTAGE_NODES__SEARCH__API_KEY", SECRET)
    loaded = Settings.load(tmp_path / "f.toml").for_nodes(app)
    given = {"search": {"url": "here", "api_key": ""}}
    answers = [await answer(app, "question", nodes) for nodes in (loaded, given)]
    assert answers == ["5 pages from https://search.example", "3 pages from here"]


async def answer(app: Pipeline, intent: str, nodes: Any) -> Any:
    """Ask for an intent; return the answer."""
    app.intent(lambda _query, _ctx: {"intent": intent, "confidence": 1.0})
    plan = Plan.of(total_timeout_ms=60_000, stage_timeouts_ms=dict.fromkeys(StageType, 60_000))
    return (await Orchestrator(app, plan=plan, nodes=nodes).process_query("what?")).answer
