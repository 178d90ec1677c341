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
from typer.testing import CliRunner

from bench.controls_loads import LOADS
from bench.controls_run import CONTROLS as SWITCHES
from bench.controls_run import settings_for
from fivestage._asyncio import CLEAN_UP_S
from fivestage.cli import app
from fivestage.dispatch.watchdog import OVERDUE_CPU_S, OVERDUE_S
from fivestage.executors.abandoned_cpu import MAX_CORES
from fivestage.executors.process import worker
from fivestage.executors.process.overtime import MOST_S
from fivestage.executors.stall_detector import OUTSIDE_LIMIT_S
from fivestage.executors.worker_set import MAX_STALLED
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.pipeline.thread_pool import MAX_REPLACED
from fivestage.service import health
from fivestage.settings import Settings, TopicSettings
from long.__main__ import VERBS as LONG_VERBS
from support.checker import wait_for_results
from support.feeder import write

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    "README.md",
    ".github/CONTRIBUTING.md",
    "deploy/README.md",
    "deploy/kafka-image/README.md",
    "docs/controls.md",
]
ALL_DOCUMENTS = [*DOCUMENTS, "ARCHITECTURE.md", "CHANGELOG.md", ".github/SECURITY.md"]
CONTROLS = (ROOT / "docs/controls.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str = README) -> list[str]:
    """The lines of all shell blocks, without comments; those that go on in the next line as one."""
    joined = [re.sub(r" *\\\n *", " ", block) for block in blocks("sh", text)]
    lines = [line for block in joined for line in block.splitlines()]
    return [re.sub(r" +# .*", "", line).strip() for line in lines if line.strip()]


def run(command: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one line as a user's shell would, with the command ``fivestage`` of this environment."""
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
    """That of a user, where compiled files are kept, so that a command starts in half the time."""
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
    """What the README asks is answered; what a wrong setting refused is listed, and replayed once."""
    lines = commands()
    start = lines.index("fivestage broker")
    assert lines[start + 1] == "fivestage run"
    asks = lines[start + 2 : start + 5]
    letters = [line for line in lines if line.startswith("fivestage dlq")]
    assert len(letters) == 4
    async with EmbeddedBroker(TopicSettings().all, partitions=8) as broker:
        settings = {"FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap, "FIVESTAGE_ADMIN__PORT": "0"}
        service = subprocess.Popen(
            [sys.executable, "-m", "fivestage", "run"],
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
    assert "Nairobi" in asked[2].stdout
    listed, as_json, dry, replayed = [one.stdout for one in done]
    assert ("unknown_lane" in listed, as_json.count('"not_json"')) == (True, 1)
    assert (dry.count("would be replayed"), replayed.count(": replayed\n")) == (2, 1)


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


def test_config_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's commands about settings run as printed, and show where a setting comes from."""
    (tmp_path / "fivestage.toml").write_text('[kafka]\ngroup_id = "mine"\n', encoding="utf-8")
    wanted = [line for line in commands() if line.startswith("fivestage config")]
    assert len(wanted) == 2
    for line in wanted:
        run_here(line, tmp_path, monkeypatch)
    shown = run_here("fivestage config show --config fivestage.toml", tmp_path, monkeypatch)
    assert re.search(r'^kafka.group_id = "mine" +# fivestage.toml$', shown, flags=re.MULTILINE)


def test_controls_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the page about controls begins with is accepted, and is what the gallery calls off."""
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


def test_what_is_said_of_abandoned_code() -> None:
    """Every limit that the document gives is that of the code."""
    text = section_of("ARCHITECTURE.md", "Code that does not come back")
    executor = Settings().executor
    for limit in (
        f"*overdue* {OVERDUE_S:g} s after its end",
        f"{OVERDUE_CPU_S * 1000:g} ms of CPU",
        f"({executor.max_overdue} of {executor.threads}, in all workers together)",
        f"for more than half of {health.RUN_ON_S:g} s",
        f"`executor.max_abandoned` calls ({executor.max_abandoned}) have run on for {health.RUN_ON_S:g} s",
        f"costs a thread; up to {MAX_REPLACED} are replaced",
        f"up to {MOST_S:g} s of CPU and {worker.RUN_ON_S:g} s in all",
        f"{worker.RUN_ON_S:g} s after the end its process is killed",
        f"Noticed after {OUTSIDE_LIMIT_S * 1000:g} ms",
        f"once more after {CLEAN_UP_S * 1000:g} ms",
    ):
        assert limit in text, limit
    assert (MAX_CORES, MAX_STALLED) == (0.5, MAX_REPLACED)


def section_of(document: str, heading: str) -> str:
    """A section of a document in one line, up to the next heading of its level."""
    text = (ROOT / document).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    return " ".join(text.partition("\n## ")[0].split())


HERE, HELP = "tests/test_documents.py", "tests/cli/test_help.py::test_example_parses"
WITH_A_BROKER, SETTINGS = f"{HERE}::test_commands_with_a_broker", f"{HERE}::test_config_commands"
IMAGE = "tests/deploy/test_image.py::test_answers_without_rights"
TOPICS = "tests/kafka/test_commands.py::test_create_then_check"
KAFKA_IMAGE = "tests/kafka/test_broker.py::test_version"
RUN_BY = {
    "fivestage broker": "tests/cli/test_round_trip.py::test_broker_and_run_end",
    "fivestage run": WITH_A_BROKER,
    "fivestage run --config fivestage.toml": HELP,
    """echo '{"query_id":"a","user_input":"What is 15 + 7?"}' | fivestage produce -""": WITH_A_BROKER,
    'fivestage produce "What is the capital of Kenya?"': WITH_A_BROKER,
    "fivestage watch --from-beginning --max 2": WITH_A_BROKER,
    "fivestage topics create --partitions 8": TOPICS,
    "fivestage topics check": TOPICS,
    "fivestage dlq list": WITH_A_BROKER,
    "fivestage dlq list --reason not_json --limit 10 --json": WITH_A_BROKER,
    "fivestage dlq replay --dry-run": WITH_A_BROKER,
    "fivestage dlq replay --reason unknown_lane": WITH_A_BROKER,
    "fivestage config show": SETTINGS,
    "fivestage config check --config fivestage.toml": SETTINGS,
    "docker build -f deploy/Dockerfile -t fivestage .": IMAGE,
    "docker run --rm --read-only --cap-drop ALL": IMAGE,
    "docker build -f deploy/Dockerfile -t fivestage --build-arg BASE_IMAGE=": IMAGE,
    "export BASE_IMAGE=": IMAGE,
    "export PIP_ARGS=": IMAGE,
    "for lock in runtime build; do": IMAGE,
    "pip download --require-hashes": IMAGE,
    "done": IMAGE,
    "deploy/acls.sh User:fivestage": "tests/faults/test_sasl.py::test_least_rights_and_no_leaks",
    "deploy/kafka-image/build.sh kafka": ".ci/services.sh",
    "docker run --rm -p 127.0.0.1:9092:9092 fivestage-kafka:4.3.1": KAFKA_IMAGE,
    'pip install ".[embedded]"': "Makefile",
    'HATCH_BUILD_HOOKS_ENABLE=1 pip install ".[embedded]"': "Makefile",
    "docker compose -f deploy/compose.yaml": "tests/test_hygiene.py::test_the_container_has_no_rights",
}
"""What runs a printed command, or does the same as one that takes other machines; by how its line starts."""


def test_every_printed_command_is_run() -> None:
    """A new one needs a test, or a verb that CI or a longer run takes; none is listed that is not printed."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ALL_DOCUMENTS]
    printed = {line for text in texts for line in commands(text)}
    others = {line for line in printed if not line.startswith("make ")}
    used = {line: max(filter(line.startswith, RUN_BY), key=len, default="") for line in others}
    assert [line for line, start in used.items() if not start] == []
    assert set(RUN_BY) - set(used.values()) == set()
    for place in set(RUN_BY.values()):
        path, _, name = place.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, place


NOT_IN_CI = {"kafka-image", "sbom", "lock", "test-python", "test-fast", "wheel", "long"}
"""``kafka-image``: .ci/services.sh builds it; ``test-python``, and so ``test-fast``: CI runs them with one
version; ``test-compiled`` makes the wheel; ``long`` runs those that take hours; the others need an index."""


def _ci() -> str:
    return (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_every_printed_verb_is_run() -> None:
    """Each verb of make exists, and CI runs it, or ``make long`` where it takes hours."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ci = set(re.findall(r"^\s*(?:\w+=\S+ )*make (?:[A-Z]+=\S+ )*([\w-]+)", _ci(), re.MULTILINE))
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ALL_DOCUMENTS]
    verbs = {line.split()[1] for text in texts for line in commands(text) if line.startswith("make ")}
    verbs |= {verb for text in texts for verb in re.findall(r"`make ([a-z-]+)", text)}
    for verb in verbs:
        assert f"\n{verb}:" in makefile or verb.startswith("test-python"), verb
        assert verb in ci or verb in LONG_VERBS or verb in NOT_IN_CI, verb


@pytest.mark.parametrize("document", ALL_DOCUMENTS)
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
