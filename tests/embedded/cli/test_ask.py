"""``fivestage ask``: one question to an app, without Kafka."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from support.preloaded import run

from .conftest import GENEROUS, variables

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

APP = """
import asyncio
import os
import signal
import sys
import time

from fivestage import Pipeline

app = Pipeline(builtins=False)


@app.resource
async def client():
    print("opened", file=sys.stderr)
    yield "client"
    print("closed", file=sys.stderr)


@app.node("mine", intents={"general", "greeting"})
async def mine(query, ctx):
    word = query.user_input
    if word == "fail":
        raise ValueError("a reason")
    if word == "thread":
        await asyncio.to_thread(time.sleep, 3600)
    if word == "deaf":
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
    if word == "leave":
        asyncio.create_task(asyncio.sleep(3600))
    if word == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(3600)
    if word == "interrupt later":
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        await asyncio.sleep(3600)
    if word == "interrupt twice":
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(3600)
    if word == "offer":
        ctx.offer("the first part", confidence=0.4)
        await asyncio.sleep(3600)
    if word.startswith("long "):
        return {"answer": "x" * int(word[5:]), "confidence": 0.5}
    if word == "block":
        time.sleep(0.5)
    if word == "nothing":
        return None
    return {"answer": [ctx.use(client), ctx.lane, word], "confidence": 0.5}
"""


PATIENT = variables(GENEROUS)


def ask(
    folder: Path, *arguments: str, app: str = APP, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder with the app."""
    (folder / "small.py").write_text(app, encoding="utf-8")
    return run(
        [sys.executable, "-m", "fivestage", "ask", "small:app", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_prints_answer_and_waterfall(tmp_path: Path) -> None:
    """The app's resources are opened and closed; the answer and each stage are printed."""
    ran = ask(tmp_path, "hello", "--budget-ms", "20000", **PATIENT)
    assert (ran.returncode, ran.stderr) == (0, "opened\nclosed\n")
    assert 'answer     ["client", "prod", "hello"]' in ran.stdout
    assert "\nintent     greeting (greeting)\n" in ran.stdout
    assert "  success  node mine  lane prod  " in ran.stdout
    for stage in ("intent", "decision", "processing", "validation", "reflection"):
        assert f"\n{stage} " in ran.stdout
    assert "\nerror " not in ran.stdout


def test_prints_the_event_as_json(tmp_path: Path) -> None:
    """``--json`` prints the result as the service would publish it."""
    ran = ask(tmp_path, "hello", "--json", "--lane", "canary")
    found = json.loads(ran.stdout)
    assert (found["status"], found["answer"], found["lane"]) == (
        "success",
        ["client", "canary", "hello"],
        "canary",
    )


def test_a_node_that_raises(tmp_path: Path) -> None:
    """The exit code is 1; the error, and where it was raised, are printed."""
    ran = ask(tmp_path, "fail")
    assert ran.returncode == 1
    assert "error      Processing failed: a reason" in ran.stdout
    assert "error_type=ValueError" in ran.stderr
    assert f"where={tmp_path / 'small.py'}:24" in ran.stderr


def test_a_resource_that_does_not_open(tmp_path: Path) -> None:
    """What a resource raises is printed at once, with its place, and is not tried again."""
    app = APP.replace('    yield "client"', '    raise RuntimeError("no net")\n    yield "client"')
    ran = ask(tmp_path, "hello", app=app)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines() == [
        "opened",
        "fivestage: resource 'client' could not be opened:",
        "  RuntimeError: no net",
        f"  at {tmp_path / 'small.py'}:16, in client",
    ]


def test_a_budget_above_the_limit(tmp_path: Path) -> None:
    """A budget above the settings' total has no effect, and one line says what to set instead."""
    ran = ask(tmp_path, "hello", "--budget-ms", "2000", "--json")
    assert json.loads(ran.stdout)["metrics"]["budget_ms"] == 250
    (line,) = [one for one in ran.stderr.splitlines() if one.startswith("fivestage:")]
    assert "--budget-ms 2000: a query gets 250 ms at most, pipeline.total_timeout_ms;" in line


@pytest.mark.parametrize(
    ("option", "status"), [("--allow-partial", "success"), ("--no-allow-partial", "timeout")]
)
def test_a_partial_answer(tmp_path: Path, option: str, status: str) -> None:
    """``--allow-partial`` makes an offered answer a success."""
    limits = PATIENT | {"FIVESTAGE_PIPELINE__STAGE_TIMEOUTS_MS": '{"processing": 500}'}
    ran = ask(tmp_path, "offer", option, "--json", **limits)
    found = json.loads(ran.stdout)
    assert (found["status"], found["answer"], found["partial"]) == (status, "the first part", True)


def test_an_answer_that_is_too_large(tmp_path: Path) -> None:
    """An answer that fits no event is an error as in the service; a long one is printed in part."""
    ran = ask(tmp_path, "long 2000000", **PATIENT)
    assert (ran.returncode, "  error  result_too_large  " in ran.stdout) == (1, True)
    assert "error      the answer takes more than the 1048000 bytes of the topic's records" in ran.stdout
    ran = ask(tmp_path, "long 100000", **PATIENT)
    assert ran.returncode == 0
    assert "x ... (96000 more characters; --json prints all)" in ran.stdout
    assert len(json.loads(ask(tmp_path, "long 100000", "--json", **PATIENT).stdout)["answer"]) == 100_000


@pytest.mark.parametrize("word", ["thread", "deaf", "block"])
def test_code_that_does_not_come_back(tmp_path: Path, word: str) -> None:
    """The command ends with a timeout, whatever the node does with its thread or its cancellation."""
    ran = ask(tmp_path, word)
    assert ran.returncode == 1
    assert "  timeout  node mine" in ran.stdout
    blocks = "as it did not give control back to the event loop; code that blocks belongs in a def"
    assert (word == "block") == (blocks in ran.stdout)


def test_an_answer_that_validation_rejects(tmp_path: Path) -> None:
    """The exit code is 1, since the answer is bad, and the reason names the rule."""
    ran = ask(tmp_path, "nothing")
    assert (ran.returncode, "  degraded  " in ran.stdout) == (1, True)
    assert (
        "\nwhy        answered, but validation rejected the answer: there is no answer: it is null\n"
        in ran.stdout
    )


@pytest.mark.parametrize("word", ["interrupt", "interrupt later", "interrupt twice"])
def test_interrupted(tmp_path: Path, word: str) -> None:
    """Ctrl-C ends the query and closes the resources; the second one interrupts code that blocks."""
    ran = ask(tmp_path, word, **PATIENT)
    assert (ran.returncode, ran.stdout) == (130, "")
    assert {"opened", "closed"} <= set(ran.stderr.splitlines()), ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_task_that_is_left(tmp_path: Path) -> None:
    """Tasks that a node leaves behind are cancelled, without a word."""
    ran = ask(tmp_path, "leave", "--budget-ms", "20000", **PATIENT)
    assert (ran.returncode, ran.stderr) == (0, "opened\nclosed\n")


def test_a_variable_that_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt section is a warning, once, with what may have been meant."""
    monkeypatch.setenv("FIVESTAGE_PIPELIN__TOTAL_TIMEOUT_MS", "7")
    ran = ask(tmp_path, "hello", "--budget-ms", "60000")
    warned = [line for line in ran.stderr.splitlines() if "variable has no effect" in line]
    assert (ran.returncode, len(warned)) == (0, 1)
    assert "did you mean FIVESTAGE_PIPELINE__TOTAL_TIMEOUT_MS?" in warned[0]


def test_wrong_use(tmp_path: Path) -> None:
    """A lane that no query may have, and an app that is not there, exit with 2."""
    ran = ask(tmp_path, "hello", "--lane", "a b")
    assert (ran.returncode, ran.stdout, ran.stderr[:16]) == (2, "", "fivestage: lane:")
    (tmp_path / "fivestage.toml").write_text("[pipeline]\ntotal_timeout_ms = 0\n", encoding="utf-8")
    ran = ask(tmp_path, "hello", "--config", "fivestage.toml")
    assert (ran.returncode, "pipeline.total_timeout_ms" in ran.stderr) == (2, True)


def test_an_app_that_configures_its_log(tmp_path: Path) -> None:
    """A node that fails is still named in the log after ``dictConfig``, which disables all loggers."""
    configures = "import logging.config\nlogging.config.dictConfig({'version': 1})\n"
    ran = ask(tmp_path, "fail", app=configures + APP)
    assert ran.returncode == 1
    assert "node failed" in ran.stderr
