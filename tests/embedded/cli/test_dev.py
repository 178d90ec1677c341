"""``fivestage dev``: an author edits, breaks and mends the app while queries come."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from fivestage.settings import AdminSettings
from support.developed import LIMIT_S, MODULE, PARTS, Developed
from support.documents import commands, text_of
from support.probe import get

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.broker
both_kinds = pytest.mark.parametrize("kind", ["thread", "process"])
RESOURCE = """
@app.resource
def model():
{body}


"""
OPEN_LONG = {"breaker.first_open_ms": 600_000, "breaker.open_ms": 600_000}
CANNOT_WORK = """

@app.resource
async def client():
    yield 1


@app.node("other", intents={"other"})
def other(query, ctx):
    return ctx.use(client)
"""
"""A `def` uses the resource of an event loop."""
BROKEN = {
    "SyntaxError": "WORD = \n",
    "ModuleNotFoundError": "import no_such_module\n",
    "ZeroDivisionError": "WORD = 1 / 0\n",
    "SystemExit": "raise SystemExit(3)\n",
}
"""Files by what importing them raises."""


def with_resource(body: str) -> str:
    """Return the app's module with a resource."""
    text = RESOURCE.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    return MODULE.replace("\n\n@app.intent", text + "@app.intent", 1)


def wait_for_file(folder: Path, name: str) -> None:
    """Wait until user code has written a file."""
    ends_at = time.monotonic() + LIMIT_S
    while not (folder / name).exists():
        assert time.monotonic() < ends_at, f"no file {name}"
        time.sleep(0.01)


@both_kinds
def test_reload_keeps_the_membership(tmp_path: Path, kind: str) -> None:
    """New queries get the edited code, one in flight ends in the old; nothing is lost, and no rebalance."""
    with Developed(tmp_path, {"executor.kind": kind}) as dev:
        dev.ready()
        dev.ask("hello", 20)
        dev.results()
        dev.ask("wait")
        wait_for_file(tmp_path, "waits")
        dev.say("two")  # of the same size, within a second of the first write
        dev.wait_for("reloaded")
        dev.ask("hello", 20)
        dev.results(40)
        dev.say("three")
        dev.wait_for("reloaded")
        dev.ask("hello", 20)
        dev.results(60)
        (tmp_path / "go").touch()
        assert dev.answers() == ["one"] * 21 + ["two"] * 20 + ["three"] * 20
        assert dev.end() == 0
        assert len(dev.events("assigned")) == 1
        assert dev.events("revoked") == dev.events("consumer rebuilt") == []


@both_kinds
def test_broken_file(tmp_path: Path, kind: str) -> None:
    """A broken file leaves the earlier app running, and its traceback in the log, until it is mended."""
    with Developed(tmp_path, {"executor.kind": kind}) as dev:
        dev.ready()
        for error, text in BROKEN.items():
            dev.edit(text)
            line = dev.wait_for("not reloaded, the earlier app goes on")
            assert error in line["error"]
            lines = [line, *dev.events("app cannot be imported")[-1:]]
            assert any("parts.py" in one.get("traceback", "") for one in lines)
        dev.ask()
        assert dev.answers() == ["one"]
        dev.say("two")
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers() == ["one", "two"]
        assert dev.end() == 0
        assert len(dev.events("assigned")) == 1


@both_kinds
def test_resource_that_does_not_open(tmp_path: Path, kind: str) -> None:
    """A resource that fails to open leaves the earlier app running; the log names it, and its error."""
    settings = {"executor.kind": kind, "executor.start_timeout_ms": 300}
    with Developed(tmp_path, settings) as dev:
        dev.ready()
        dev.edit(with_resource("raise ConnectionError('no model')\nyield"), "myapp.py")
        line = dev.wait_for("a resource did not open")
        assert (line["resource"], line["error"]) == ("model", "no model")
        line = dev.wait_for("not reloaded, the earlier app goes on")
        assert "resource 'model'" in line["error"]
        assert "ConnectionError" in line["error"]
        dev.ask()
        assert dev.answers() == ["one"]
        dev.edit(with_resource("yield 'model'"), "myapp.py")
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers() == ["one", "one"]
        assert dev.end() == 0


def test_an_app_that_cannot_work(tmp_path: Path) -> None:
    """What ``check`` calls an error leaves the earlier app running."""
    with Developed(tmp_path) as dev:
        dev.ready()
        dev.edit(MODULE + CANNOT_WORK, "myapp.py")
        line = dev.wait_for("not reloaded, the earlier app goes on")
        assert "cannot work" in line["error"]
        assert "client" in line["error"]
        dev.ask()
        assert dev.answers() == ["one"]
        assert dev.end() == 0


WITH_SETTINGS = (
    MODULE.replace(
        "from fivestage import Pipeline\n", "from fivestage import Pipeline\nfrom pydantic import BaseModel\n"
    )
    .replace("app = Pipeline()\n", "app = Pipeline()\n\n\nclass Word(BaseModel):\n    word: str\n")
    .replace('intents={"word"})', 'intents={"word"}, settings=Word)')
    .replace("answer(WORD)", "answer(ctx.settings.word)")
)


@both_kinds
def test_settings_of_a_node(tmp_path: Path, kind: str) -> None:
    """A change of the --config file reaches nodes; an invalid one leaves app and settings as they were."""
    file = tmp_path / "settings.toml"
    file.write_text("[nodes.word]\nword = 'one'\n")
    arguments = ("--config", str(file))
    with Developed(tmp_path, {"executor.kind": kind}, arguments, module=WITH_SETTINGS) as dev:
        dev.ready()
        dev.edit("[nodes.word]\nword = 'two'\n", file.name)
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers() == ["two"]
        for text, said in {
            "[nodes.word]\nwrod = 'three'\n": "nodes.word.wrod",
            "[nodes.word]\nword = \n": f"{file} is not TOML",
            "[breaker]\nopen_ms = 0\n": "breaker.open_ms",
        }.items():
            dev.edit(text, file.name)
            assert dev.wait_for("not reloaded, the earlier app goes on")["error"].startswith(said)
        dev.ask()
        assert dev.answers() == ["two", "two"]
        dev.edit("[nodes.word]\nword = 'three'\n[breaker]\nopen_ms = 900\n", file.name)
        assert dev.wait_for("changed settings need a restart")["settings"] == ["breaker.open_ms"]
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers() == ["two", "two", "three"]
        assert dev.end() == 0
        assert len(dev.events("changed settings need a restart")) == 1


def test_another_app_of_the_name(tmp_path: Path) -> None:
    """An installed module of the same name is named at the start, and not run when the own one is gone."""
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        (folder / "myapp.py").write_text(MODULE)
        (folder / "parts.py").write_text(PARTS.format(folder.name))
    with Developed(own, path=other) as dev:
        dev.ready()
        (own / "myapp.py").rename(own / "renamed.py")
        assert "myapp.py is gone" in dev.wait_for("not reloaded, the earlier app goes on")["error"]
        dev.ask()
        assert dev.answers() == ["one"]
        assert dev.end() == 0
    with Developed(own, path=other, writes=False) as dev:
        assert dev.text_with("is not in this folder").endswith(str(other / "myapp.py"))
        dev.ready()
        assert dev.end() == 0


def test_any_port(tmp_path: Path) -> None:
    """With ``--port 0`` the status page has any port too, unless the settings name one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    for number, port in enumerate([None, free]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Developed(folder, {"admin.port": port}) as dev:
            found = int(dev.text_with("status page").split()[-1].rstrip("/").rpartition(":")[2])
            dev.ready()
            assert (found == port) if port else (found != AdminSettings().port)
            assert dev.end() == 0


HANGS = "from pathlib import Path\nimport threading\nPath('opens').touch()\nthreading.Event().wait()\nyield"


@both_kinds
def test_edit_while_a_resource_opens(tmp_path: Path, kind: str) -> None:
    """An edit does not wait for the resources of the edit before."""
    with Developed(tmp_path, {"executor.kind": kind}) as dev:
        dev.ready()
        dev.edit(with_resource(HANGS), "myapp.py")
        wait_for_file(tmp_path, "opens")
        dev.edit(MODULE, "myapp.py")
        dev.say("two")
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers() == ["two"]
        assert dev.events("not reloaded, the earlier app goes on") == []
        assert dev.end() == 0


@both_kinds
def test_end_while_reloading(tmp_path: Path, kind: str) -> None:
    """Ctrl-C ends the command at once, also while a resource opens that never will."""
    settings = {"executor.kind": kind, "executor.start_timeout_ms": 600_000}  # longer than the test may take
    with Developed(tmp_path, settings) as dev:
        dev.ready()
        dev.ask()
        dev.results()
        dev.edit(with_resource(HANGS), "myapp.py")
        wait_for_file(tmp_path, "opens")
        assert dev.end() == 0
        assert dev.events("shutdown took too long") == []


def test_end_while_importing(tmp_path: Path) -> None:
    """Ctrl-C ends the command also while an import hangs."""
    with Developed(tmp_path) as dev:
        dev.ready()
        dev.edit(
            "from pathlib import Path\nimport threading\nPath('opens').touch()\nthreading.Event().wait()\n"
        )
        wait_for_file(tmp_path, "opens")
        dev.ask()
        assert dev.answers() == ["one"]
        assert dev.end() == 0


@both_kinds
def test_breaker_closes_with_the_bug(tmp_path: Path, kind: str) -> None:
    """What was learned about the broken code is forgotten: a mended node is called at once."""
    with Developed(tmp_path, {"executor.kind": kind, **OPEN_LONG}) as dev:
        dev.ready()
        dev.edit(PARTS.format("one").replace("return word", "return word / 2"))
        dev.wait_for("reloaded")
        last = dev.ask_steadily(60, rate=30)[-1]
        while dev.results()[last]["node"] == "word":  # until its breaker opens
            last = dev.ask()[0]
        dev.say("two")
        dev.wait_for("reloaded")
        last = dev.ask()[0]
        assert dev.results()[last]["answer"] == "two"
        assert dev.end() == 0


@both_kinds
@pytest.mark.parametrize("arguments", [(), ("--show-text",)])
def test_frames_of_a_failure(tmp_path: Path, kind: str, arguments: tuple[str, ...]) -> None:
    """A failing node has one line with its frames; the message only with --show-text, never locals."""
    parts = PARTS.format("one").replace(
        "return word", "local = 'secret-local'\n    raise ValueError('secret')"
    )
    with Developed(tmp_path, {"executor.kind": kind}, arguments, parts=parts) as dev:
        dev.ready()
        dev.ask("hello", 5)
        line = dev.wait_for("node failed")
        assert line["error_type"] == "ValueError"
        frames = [frame.rpartition("/")[2] for frame in line["frames"]]
        assert frames[-2:] == ["myapp.py:22 word", "parts.py:6 answer"]
        assert line.get("error") == ("secret" if arguments else None)
        assert line.get("advice") == (None if arguments else "--show-text shows the message")
        dev.results()
        assert dev.end() == 0
        assert len(dev.events("node failed")) == 1
        assert "secret-local" not in str(dev.log)


@both_kinds
def test_code_that_does_not_end(tmp_path: Path, kind: str) -> None:
    """A mended node is called at once, although the earlier code of that name still computes."""
    endless = PARTS.format("one").replace("return word", "while True: pass")
    settings = {"executor.kind": kind, "executor.stall_ms": 200, "pipeline.total_timeout_ms": 1000}
    with Developed(tmp_path, settings, parts=endless) as dev:
        dev.ready()
        dev.ask("hello", 3)
        dev.results()
        dev.say("two")
        dev.wait_for("reloaded")
        last = dev.ask()[0]
        assert dev.results()[last]["node"] == "word"
        if kind == "thread":
            assert dev.wait_for("code of the replaced app runs on")["nodes"] == ["word"]
        assert dev.end() == 0


def test_broken_from_the_start(tmp_path: Path) -> None:
    """A file that is broken at the start is waited for, with its traceback."""
    with Developed(tmp_path, parts="WORD = \n") as dev:
        assert "SyntaxError" in dev.text_with("waiting for a change")
        assert any("parts.py" in line for line in dev.texts)
        dev.say("one")
        dev.ready()
        dev.ask()
        assert dev.answers() == ["one"]
        assert dev.end() == 0


def test_printed_command(tmp_path: Path) -> None:
    """The command of docs/authors.md, on any port, serves the status page at the address that it prints."""
    assert "fivestage dev myapp:app" in commands(text_of("docs/authors.md"))
    with Developed(tmp_path) as dev:
        address = dev.text_with("status page").split()[-1]
        dev.ready()
        port = int(address.rstrip("/").rpartition(":")[2])
        assert get(port, "/readyz") == (200, "ok\n")
        assert get(port, "/")[0] == 200
        assert dev.end(signal.SIGTERM) == 0


def test_port_in_use(tmp_path: Path) -> None:
    """A port that is in use is named, with the option to choose another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Developed(tmp_path, arguments=("--port", port)) as dev:
            assert f"127.0.0.1:{port}" in dev.text_with("choose another --port")
            assert dev.process.wait(LIMIT_S) == 2


def test_no_such_module(tmp_path: Path) -> None:
    """A module that does not exist is wrong use: there is nothing to wait for."""
    ran = subprocess.run(
        [sys.executable, "-m", "fivestage", "dev", "nowhere:app"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ran.returncode == 2
    assert (
        ran.stderr
        == "fivestage: cannot import nowhere:app: no module 'nowhere'; run from the folder that holds it\n"
    )


def test_new_files(tmp_path: Path) -> None:
    """A new module, and a package in the folder, are the app's too; a watched folder reloads it."""
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "one.txt").write_text("from a prompt")
    with Developed(tmp_path, arguments=("--watch", "prompts")) as dev:
        dev.ready()
        package = tmp_path / "more"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "deep.py").write_text("WORD = 'deep'\n")
        dev.edit("from more.deep import WORD\n\n\ndef answer(word):\n    return word\n")
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers() == ["deep"]
        dev.edit("WORD = 'deeper'\n", "more/deep.py")
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers() == ["deep", "deeper"]
        dev.edit(
            "from pathlib import Path\nWORD = Path('prompts/one.txt').read_text()\nanswer = str\n",
        )
        dev.wait_for("reloaded")
        dev.edit("edited", "prompts/one.txt")
        dev.wait_for("reloaded")
        dev.ask()
        assert dev.answers()[-1] == "edited"
        assert dev.end() == 0
