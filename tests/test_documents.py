"""Every command and every piece of code printed in the documents is run, or held against what runs it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.controls_loads import LOADS
from bench.controls_run import CONTROLS as SWITCHES
from bench.controls_run import settings_for
from fivestage import watch
from fivestage.bus.embedded import EmbeddedBroker
from fivestage.executors import process_worker
from fivestage.executors.cpu import MAX_CORES
from fivestage.executors.overtime import MOST_S
from fivestage.executors.stall import OUTSIDE_PATIENCE_S
from fivestage.executors.worker_set import MAX_STALLED
from fivestage.patrol import OVERDUE_CPU_S, OVERDUE_S
from fivestage.settings import Settings, TopicSettings
from fivestage.threads import MAX_REPLACED
from fivestage.waits import CLEAN_UP_S
from support.checker import wait_for_results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    "README.md",
    ".github/CONTRIBUTING.md",
    "deploy/README.md",
    "deploy/kafka-image/README.md",
    "docs/controls.md",
]
CONTROLS = (ROOT / "docs/controls.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str = README) -> list[str]:
    """The lines of all shell blocks, without comments."""
    lines = [line for block in blocks("sh", text) for line in block.splitlines()]
    return [line.partition("   #")[0].strip() for line in lines if line.strip()]


def run(command: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one line as a user's shell would, with the command ``fivestage`` of this environment."""
    line = re.sub(r"(^|\| )fivestage ", rf"\1{shlex.quote(sys.executable)} -m fivestage ", command)
    environment = {**os.environ, **settings}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """An embedded broker in place of the one that the README starts in a terminal."""
    async with EmbeddedBroker(TopicSettings().all, partitions=8) as broker:
        yield broker.bootstrap


@pytest.mark.broker
async def test_try_it(bootstrap: str, tmp_path: Path) -> None:
    """The commands of "Try it": the service answers both questions, and watch shows 22 and Nairobi."""
    lines = commands()
    start = lines.index("fivestage broker")
    assert lines[start + 1] == "fivestage run"
    asks = lines[start + 2 : start + 5]
    settings = {"FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": bootstrap, "FIVESTAGE_ADMIN__PORT": "0"}
    service = subprocess.Popen(
        [sys.executable, "-m", "fivestage", "run"], env={**os.environ, **settings}, stderr=subprocess.DEVNULL
    )
    try:
        done = [run(line, tmp_path, **settings) for line in asks]
    finally:
        service.terminate()
        assert service.wait(20) == 0
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    assert "22" in done[2].stdout
    assert "Nairobi" in done[2].stdout


@pytest.mark.broker
@pytest.mark.fault(29)
async def test_dead_letter_commands(bootstrap: str, tmp_path: Path) -> None:
    """The commands about dead letters run as printed, and replay what a wrong setting refused."""
    lines = [line for line in commands() if line.startswith("fivestage dlq")]
    assert len(lines) == 4
    settings = {"FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": bootstrap, "FIVESTAGE_ADMIN__PORT": "0"}
    lanes = {"FIVESTAGE_LANES": '["prod"]'}
    service = subprocess.Popen(
        [sys.executable, "-m", "fivestage", "run"],
        env={**os.environ, **settings, **lanes},
        stderr=subprocess.DEVNULL,
    )
    try:
        for question in ("no-json", '{"query_id":"a","user_input":"2+2","lane":"canary"}'):
            asked = run(f"echo '{question}' | fivestage produce -", tmp_path, **settings)
            assert asked.returncode == 0
        await asyncio.to_thread(wait_for_results, bootstrap, TopicSettings().dead_letters, 2)
        listed, as_json, dry, replayed = [run(line, tmp_path, **settings) for line in lines]
    finally:
        service.terminate()
        assert service.wait(20) == 0
    assert [one.returncode for one in (listed, as_json, dry, replayed)] == [0] * 4, replayed.stderr
    assert ("unknown_lane" in listed.stdout, as_json.stdout.count('"not_json"')) == (True, 1)
    assert (dry.stdout.count("would be replayed"), replayed.stdout.count(": replayed\n")) == (2, 1)


def test_a_node_of_your_own(tmp_path: Path) -> None:
    """The README's node runs without Kafka as printed, in at most fifteen lines."""
    app, question, _ = blocks("python")
    assert len([line for line in app.splitlines() if line.strip()]) <= 15
    (tmp_path / "myapp.py").write_text(app, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", question], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "success Hello! You have" in done.stdout


def test_resources_of_your_own(tmp_path: Path) -> None:
    """The README's resources open, are used and close as printed."""
    (tmp_path / "myapp.py").write_text(blocks("python")[2], encoding="utf-8")
    ask = (
        "import asyncio\nfrom fivestage import Orchestrator\nfrom myapp import app\n"
        "async def main():\n"
        "    async with Orchestrator(app) as orchestrator:\n"
        "        print((await orchestrator.process_query('hello')).answer)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("Hello!\n", "")


def test_config_commands(tmp_path: Path) -> None:
    """The README's commands about settings work with a file that names each setting of its table."""
    (tmp_path / "fivestage.toml").write_text('[kafka]\ngroup_id = "mine"\n', encoding="utf-8")
    wanted = [line for line in commands() if line.startswith("fivestage config")]
    assert len(wanted) == 2
    for line in wanted:
        assert run(line, tmp_path).returncode == 0
    shown = run("fivestage config show --config fivestage.toml", tmp_path).stdout
    assert re.search(r'^kafka.group_id = "mine" +# fivestage.toml$', shown, flags=re.MULTILINE)


def test_controls_switched_off(tmp_path: Path) -> None:
    """The file that the page about controls begins with is accepted, and is what the gallery calls off."""
    (tmp_path / "fivestage.toml").write_text(blocks("toml", CONTROLS)[0], encoding="utf-8")
    [check] = commands(CONTROLS)
    assert run(check, tmp_path).returncode == 0
    given = tomllib.loads(blocks("toml", CONTROLS)[0])
    off = settings_for("off", LOADS["10 %"]).model_dump(mode="json")
    assert given == {
        section: {name: off[section][name] for name in entries} for section, entries in given.items()
    }
    switched = {(section, name) for one in SWITCHES.values() for section in one for name in one[section]}
    assert {(section, name) for section in given for name in given[section]} == switched


def test_what_is_said_of_abandoned_code() -> None:
    """Every limit that the document gives is that of the code."""
    text = section_of("ARCHITECTURE.md", "Code that does not come back")
    executor = Settings().executor
    for limit in (
        f"*overdue* {OVERDUE_S:g} s after its end",
        f"{OVERDUE_CPU_S * 1000:g} ms of CPU",
        f"({executor.max_overdue} of {executor.threads}, in all workers together)",
        f"for more than half of {watch.RUN_ON_S:g} s",
        f"`executor.max_abandoned` calls ({executor.max_abandoned}) have run on for {watch.RUN_ON_S:g} s",
        f"costs a thread; up to {MAX_REPLACED} are replaced",
        f"up to {MOST_S:g} s of CPU and {process_worker.RUN_ON_S:g} s in all",
        f"{process_worker.RUN_ON_S:g} s after the end its process is killed",
        f"Noticed after {OUTSIDE_PATIENCE_S * 1000:g} ms",
        f"once more after {CLEAN_UP_S * 1000:g} ms",
    ):
        assert limit in text, limit
    assert (MAX_CORES, MAX_STALLED) == (0.5, MAX_REPLACED)


def section_of(document: str, heading: str) -> str:
    """A section of a document in one line, up to the next heading of its level."""
    text = (ROOT / document).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    return " ".join(text.partition("\n## ")[0].split())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document: str) -> None:
    """Every make verb and script printed exists, and CI runs the verbs that need no special machine."""
    text = (ROOT / document).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for line in commands(text):
        if line.startswith("make "):
            verb = line.split()[1]
            assert f"\n{verb}:" in makefile, line
            assert f"make {verb}" in ci or verb.startswith(("bench", "chaos", "faults", "soak")), line
        elif line.startswith(("deploy/", ".ci/")):
            assert (ROOT / line.split()[0]).exists(), line


@pytest.mark.parametrize("document", [*DOCUMENTS, "ARCHITECTURE.md", ".github/SECURITY.md"])
def test_links(document: str) -> None:
    """Links between documents lead somewhere: to files, and to headings in them."""
    path = ROOT / document
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", path.read_text(encoding="utf-8")):
        there = path.parent / target if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), anchor


def anchors(text: str) -> set[str]:
    """What links can name of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
