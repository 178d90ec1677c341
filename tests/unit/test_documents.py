"""The code and the commands printed in documents are run."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from fivestage._asyncio import CLEAN_UP_S
from fivestage.cli import app
from fivestage.dispatch.watchdog import OVERDUE_CPU_S, OVERDUE_S
from fivestage.executors.abandoned_cpu import MAX_CORES
from fivestage.executors.process import worker
from fivestage.executors.process.overtime import MAX_CPU_S
from fivestage.executors.stall_detector import OUTSIDE_LIMIT_S
from fivestage.executors.worker_set import MAX_STALLED
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.pipeline.thread_pool import MAX_REPLACED
from fivestage.service import health
from fivestage.settings import Settings, TopicSettings
from support.checker import wait_for_results
from support.documents import blocks, commands, section, text_of
from support.feeder import write
from tools.bench.controls_loads import LOADS
from tools.bench.controls_run import CONTROLS as SWITCHES
from tools.bench.controls_run import settings_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONTROLS, AUTHORS = text_of("docs/controls.md"), text_of("docs/authors.md")


def run(command: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a user's shell would, with this environment's ``fivestage``."""
    line = re.sub(r"(^|\| )fivestage ", rf"\1{shlex.quote(sys.executable)} -m fivestage ", command)
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """A user's environment, which keeps compiled files, so that a command starts in half the time."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **settings}


def run_here(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command that needs no Kafka in this process, in a folder, and return its output."""
    monkeypatch.chdir(folder)
    name, *arguments = shlex.split(command)
    assert name == "fivestage"
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.broker
@pytest.mark.fault(29)
async def test_commands_with_a_broker(tmp_path: Path) -> None:
    """The README's node answers what the README asks; dead letters are listed, and replayed once."""
    readme = text_of("README.md")
    lines = commands(readme)
    start = lines.index("fivestage broker")
    assert lines[start + 1] == "fivestage run myapp:app"
    asks = lines[start + 2 : start + 5]
    letters = commands(text_of("docs/dead-letters.md"))
    assert len(letters) == 4
    (tmp_path / "myapp.py").write_text(blocks("python", readme)[0], encoding="utf-8")
    async with EmbeddedBroker(TopicSettings().all, partitions=8) as broker:
        settings = {"FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap, "FIVESTAGE_ADMIN__PORT": "0"}
        service = subprocess.Popen(
            [sys.executable, "-m", "fivestage", "run", "myapp:app"],
            cwd=tmp_path,
            env=environment({**settings, "FIVESTAGE_LANES": '["prod"]'}),
            stderr=subprocess.DEVNULL,
        )
        try:
            asked = [await asyncio.to_thread(run, line, tmp_path, **settings) for line in asks]
            unreadable = [("x", b"no-json"), ("a", b'{"query_id":"a","user_input":"2+2","lane":"canary"}')]
            await asyncio.to_thread(write, broker.bootstrap, TopicSettings().queries, unreadable)
            await asyncio.to_thread(wait_for_results, broker.bootstrap, TopicSettings().dead_letters, 2)
            done = [await asyncio.to_thread(run, line, tmp_path, **settings) for line in letters]
        finally:
            service.terminate()
            assert await asyncio.to_thread(service.wait, 20) == 0
    assert [one.returncode for one in (*asked, *done)] == [0] * 7, [one.stderr for one in (*asked, *done)]
    assert "22" in asked[2].stdout
    assert "Hello!" in asked[2].stdout
    listed, as_json, dry, replayed = [one.stdout for one in done]
    assert ("unknown_lane" in listed, as_json.count('"not_json"')) == (True, 1)
    assert (dry.count("would be replayed"), replayed.count(": replayed\n")) == (2, 1)


def test_a_node_of_your_own(tmp_path: Path) -> None:
    """The printed node answers the printed question without Kafka."""
    node, question, *_ = blocks("python", AUTHORS)
    assert len(node.splitlines()) <= 15
    assert "Hello!" in asked(node, question, tmp_path)


def test_the_first_question(tmp_path: Path) -> None:
    """The node at the top of the README is short, and answers the question below it without Kafka."""
    (node,), [question, *_] = blocks("python", text_of("README.md")), commands(text_of("README.md"))
    assert len(node.splitlines()) <= 10
    (tmp_path / "myapp.py").write_text(node, encoding="utf-8")
    ran = run(question, tmp_path)
    assert (ran.returncode, "Hello!" in ran.stdout) == (0, True), ran


def test_resources_of_your_own(tmp_path: Path) -> None:
    """The printed resources open, are used and close."""
    question = (
        "import asyncio\nfrom fivestage import Orchestrator\nfrom myapp import app\n"
        "async def main():\n"
        "    async with Orchestrator(app) as orchestrator:\n"
        "        print((await orchestrator.process_query('hello')).answer)\n"
        "asyncio.run(main())\n"
    )
    assert (
        asked(blocks("python", section("Clients, pools, models", AUTHORS))[0], question, tmp_path)
        == "Hello!\n"
    )


def asked(node: str, question: str, folder: Path) -> str:
    """What a program that uses ``myapp`` prints; it succeeds, and prints nothing on standard error."""
    (folder / "myapp.py").write_text(node, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", question], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_config_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed commands about settings run, and show where a setting comes from."""
    (tmp_path / "fivestage.toml").write_text('[kafka]\ngroup_id = "mine"\n', encoding="utf-8")
    wanted = commands(text_of("docs/settings.md"))
    assert len(wanted) == 2
    for line in wanted:
        run_here(line, tmp_path, monkeypatch)
    shown = run_here("fivestage config show --config fivestage.toml", tmp_path, monkeypatch)
    assert re.search(r'^kafka.group_id = "mine" +# fivestage.toml$', shown, flags=re.MULTILINE)


def test_schema_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed commands write the schemas and find them unchanged."""
    [export, check] = commands(text_of("docs/events.md"))
    assert "pipeline_result.json" in run_here(export, tmp_path, monkeypatch)
    assert "pipeline_result: unchanged" in run_here(check, tmp_path, monkeypatch)


def test_controls_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file of docs/controls.md is accepted, and is the gallery's column *off*."""
    (tmp_path / "fivestage.toml").write_text(blocks("toml", CONTROLS)[0], encoding="utf-8")
    [check] = commands(CONTROLS)
    run_here(check, tmp_path, monkeypatch)
    given = tomllib.loads(blocks("toml", CONTROLS)[0])
    off = settings_for("off", LOADS["10 %"]).model_dump(mode="json")
    assert given == {
        section: {name: off[section][name] for name in entries} for section, entries in given.items()
    }
    switched = {(section, name) for one in SWITCHES.values() for section in one for name in one[section]}
    assert {(section, name) for section in given for name in given[section]} == switched


def test_limits_of_abandoned_code() -> None:
    """Every limit that the page names is the one in the code."""
    text = " ".join(text_of("docs/blocking-code.md").split())
    executor = Settings().executor
    for limit in (
        f"*overdue* {OVERDUE_S:g} s after its end",
        f"{OVERDUE_CPU_S * 1000:g} ms of CPU",
        f"({executor.max_overdue} of {executor.threads}, in all workers together)",
        f"for more than half of {health.RUN_ON_S:g} s",
        f"`executor.max_abandoned` calls ({executor.max_abandoned}) have run on for {health.RUN_ON_S:g} s",
        f"costs a thread. Up to {MAX_REPLACED} are replaced",
        f"up to {MAX_CPU_S:g} s of CPU and {worker.RUN_ON_S:g} s in all",
        f"{worker.RUN_ON_S:g} s after the end its process is killed",
        f"Noticed after {OUTSIDE_LIMIT_S * 1000:g} ms",
        f"once more after {CLEAN_UP_S * 1000:g} ms",
    ):
        assert limit in text, limit
    assert (MAX_CORES, MAX_STALLED) == (0.5, MAX_REPLACED)
