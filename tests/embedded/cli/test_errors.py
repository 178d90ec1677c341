from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from fivestage.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Fivestage, Start


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Hold a port on which something other than a broker listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port() -> Iterator[int]:
    """Reserve a port on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["watch"],
        ["explain", "a"],
        ["produce", "hello"],
        ["topics", "check"],
        ["topics", "create"],
        ["dlq", "list"],
        ["dlq", "replay"],
    ],
    ids=" ".join,
)
def test_no_broker(fivestage: Fivestage, free_port: int, arguments: list[str]) -> None:
    """Without a broker a command gives up and exits with 2, with the reason and how to start one."""
    ran = fivestage(*arguments, "--bootstrap", f"127.0.0.1:{free_port}")
    assert (ran.code, ran.out) == (2, "")
    assert f"127.0.0.1:{free_port}" in ran.err
    assert "connection refused" in ran.err
    assert "fivestage broker" in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.broker
def test_port_taken(fivestage: Fivestage, taken_port: int) -> None:
    """A port in use is named, with the remedy."""
    ran = fivestage("broker", "--port", str(taken_port))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"fivestage: cannot listen on 127.0.0.1:{taken_port}: Address already in use; choose another --port\n"
    )


@pytest.mark.broker
@pytest.mark.parametrize("arguments", [["run"], ["watch"], ["explain", "a"]], ids=" ".join)
def test_missing_topic(fivestage: Fivestage, bootstrap: str, arguments: list[str]) -> None:
    """A missing topic is named, with the command that creates it."""
    ran = fivestage(*arguments, "--bootstrap", bootstrap, TOPICS__RESULTS="nowhere")
    assert (ran.code, ran.out) == (2, "")
    assert "'nowhere' does not exist" in ran.err.replace('\\"', '"')
    assert "fivestage topics create" in ran.err


@pytest.mark.broker
def test_topics_check(fivestage: Fivestage, bootstrap: str) -> None:
    """``topics check`` reports every topic; its exit code says whether all are well."""
    good = fivestage("topics", "check", "--bootstrap", bootstrap)
    assert (good.code, good.err, good.out.count("can be used: 4 partitions")) == (0, "", 5)
    bad = fivestage("topics", "check", "--bootstrap", bootstrap, TOPICS__TIMEOUTS="nowhere")
    assert (bad.code, bad.err, bad.out.count("can be used")) == (1, "", 4)


@pytest.mark.broker
def test_topics_create_when_all_exist(fivestage: Fivestage, bootstrap: str) -> None:
    """``topics create`` with nothing to do says so."""
    ran = fivestage("topics", "create", "--bootstrap", bootstrap)
    assert (ran.code, ran.out) == (0, "nothing to do: all topics are there\n")


@pytest.mark.broker
def test_topics_create_on_the_embedded_broker(fivestage: Fivestage, bootstrap: str) -> None:
    """A new name is usable at once; standard error reports a number of partitions other than requested."""
    ran = fivestage("topics", "create", "--bootstrap", bootstrap, TOPICS__RESULTS="new.results")
    assert (ran.code, ran.out) == (0, "created new.results\n")
    assert ran.err.startswith("fivestage: the embedded broker gives a new topic 4 partitions; ")
    good = fivestage("topics", "check", "--bootstrap", bootstrap, TOPICS__RESULTS="new.results")
    assert (good.code, good.out.count("can be used: 4 partitions")) == (0, 5)
    asked = ("topics", "create", "--bootstrap", bootstrap, "--partitions", "4")
    ran = fivestage(*asked, TOPICS__RESULTS="new.results", TOPICS__TIMEOUTS="new.timeouts")
    assert (ran.code, ran.out, ran.err) == (0, "created new.timeouts\n", "")


@pytest.mark.broker
def test_topics_create_setting_on_the_embedded_broker(start: Start, bootstrap: str) -> None:
    """With topics.create a service creates missing topics on the embedded broker and gets ready."""
    own = {"TOPICS__CREATE": "true", "TOPICS__QUERIES": "own.queries", "KAFKA__GROUP_ID": "own"}
    running = start("run", "--bootstrap", bootstrap, ADMIN__PORT="0", **own)
    assert '"partitions":[0,1,2,3]' in running.line_with('"ready"')
    assert running.end(signal.SIGTERM) == 0


def test_free_threaded_python(environment: dict[str, str]) -> None:
    """Python without the interpreter lock is rejected in one line, before anything else."""
    free = "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1"
    script = f"{free}; from fivestage.__main__ import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", script, "run"], env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("fivestage: free-threaded builds of Python are not supported: use python3.")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["broker", "demo"])
def test_the_embedded_broker_is_not_installed(environment: dict[str, str], command: str) -> None:
    """The missing extra is named in one line."""
    missing = "import sys; sys.modules['confluent_kafka'] = None"
    script = f"{missing}; from fivestage.__main__ import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", script, command], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == (
        'fivestage: the embedded broker needs confluent-kafka: pip install "fivestage[embedded]"'
    )


def test_plaintext_off_loopback(fivestage: Fivestage) -> None:
    """Queries are sent unencrypted to another host only with the setting."""
    ran = fivestage("watch", "--bootstrap", "kafka.example:9092")
    assert (ran.code, ran.out) == (2, "")
    assert "would send queries unencrypted" in ran.err
    allowed = fivestage("config", "check", "--bootstrap", "kafka.example:9092", KAFKA__ALLOW_PLAINTEXT="true")
    assert (allowed.code, allowed.out) == (0, "the settings are valid\n")


HELPER = """
def load():
    try:
        {}["key"]
    except KeyError as error:
        raise ValueError("x") from error
"""
FAILING: dict[str, tuple[str, list[tuple[str, int]], str]] = {
    "syntax": (
        "from fivestage import Pipeline\napp = Pipeline(\n",
        [("app", 2)],
        "SyntaxError: '(' was never closed (failing_app.py, line 2)",
    ),
    "import": (
        "import json\nimport no_such_module\n",
        [("app", 2)],
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "syntax of another": (
        "import failing_syntax\n",
        [("app", 1), ("syntax", 1)],
        "SyntaxError: invalid syntax",
    ),
    "a call": (
        "import failing_helper\nfailing_helper.load()\n",
        [("helper", 4), ("app", 2), ("helper", 6)],
        "ValueError: x",
    ),
    "a declaration": (
        "from fivestage import Pipeline\napp = Pipeline()\napp.node('mine', intents='greeting')\n",
        [("app", 3)],
        "node 'mine': intents is the text 'greeting', not a set; write intents={'greeting'}",
    ),
    "an exit": ("raise SystemExit('no model')\n", [("app", 1)], "SystemExit: no model"),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_app_that_cannot_be_imported(fivestage: Fivestage, folder: Path, name: str) -> None:
    """The output has the author's frames only, then the error; exit code 2."""
    source, frames, text = FAILING[name]
    (folder / "failing_app.py").write_text(source)
    (folder / "failing_helper.py").write_text(HELPER)
    (folder / "failing_syntax.py").write_text("def\n")
    ran = fivestage("run", "failing_app:app")
    assert (ran.code, ran.out) == (2, "")
    line = json.loads(ran.err)
    traceback = line.get("traceback", "")
    found = re.findall(r'File "(.*)", line (\d+)', traceback)
    assert found == [(str(folder / f"failing_{module}.py"), str(line)) for module, line in frames]
    assert "importlib" not in traceback
    assert line["event"] == "cannot run"
    assert line["error"].startswith(f"importing failing_app:app failed: {text}")


def test_a_start_that_fails_on_a_terminal(fivestage: Fivestage, folder: Path) -> None:
    """For people the traceback and the error are plain text, as from other commands."""
    (folder / "failing_app.py").write_text("raise LookupError('no model')\n")
    (folder / "f.toml").write_text('[logging]\nformat = "text"\n')
    ran = fivestage("run", "failing_app:app", "--config", "f.toml")
    assert (ran.code, ran.out) == (2, "")
    first, *_, last = ran.err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "fivestage: importing failing_app:app failed: LookupError: no model"


def test_wrong_setting(fivestage: Fivestage, folder: Path) -> None:
    """A wrong key or value is named by its key; the value, which may be secret, is not shown."""
    (folder / "f.toml").write_text('[kafka]\nsasl_pasword = "hunter2"\n[admission]\nmax_in_flight = -12345\n')
    ran = fivestage("config", "check", "--config", "f.toml")
    assert (ran.code, ran.out) == (2, "")
    assert "kafka.sasl_pasword: no such setting" in ran.err
    assert "admission.max_in_flight" in ran.err
    assert "hunter2" not in ran.err
    assert "12345" not in ran.err


def test_config_show(fivestage: Fivestage, folder: Path) -> None:
    """Every value is shown with its source; secrets are masked."""
    (folder / "f.toml").write_text(
        'lane = "canary"\n[kafka]\ngroup_id = "from-file"\nclient_id = "mine"\n[topics]\n'
    )
    ran = fivestage(
        *("config", "show", "--config", "f.toml", "--bootstrap", "localhost:1"),
        KAFKA__GROUP_ID="from-environment",
        KAFKA__SASL_PASSWORD="hunter2",  # noqa: S106 - an example
        ADMISSION='{"max_in_flight": 9}',
        LANES='["canary", "prod"]',
    )
    shown = {line.split(" = ")[0]: line.split(" = ")[1].split("  # ") for line in ran.out.splitlines()}
    origins = {key: (value.strip(), origin) for key, (value, origin) in shown.items()}
    assert origins["kafka.bootstrap_servers"] == ('"localhost:1"', "command line")
    assert origins["kafka.group_id"] == ('"from-environment"', "environment")
    assert origins["kafka.client_id"] == ('"mine"', "f.toml")
    assert origins["lane"] == ('"canary"', "f.toml")
    assert origins["admission.max_in_flight"] == ("9", "environment")
    assert origins["lanes.prod"][1] == "environment"
    assert origins["topics.queries"] == ('"fivestage.queries"', "default")
    assert "hunter2" not in ran.out
    assert origins["kafka.sasl_password"] == ('"**********"', "environment")


def test_unknown_variable(fivestage: Fivestage) -> None:
    """A misspelt environment variable, which has no effect, is reported."""
    ran = fivestage("config", "check", KAFAK__GROUP_ID="x")
    assert (ran.code, ran.out) == (0, "the settings are valid\n")
    assert "FIVESTAGE_KAFAK__GROUP_ID" in ran.err
    assert "did you mean FIVESTAGE_KAFKA__GROUP_ID?" in ran.err
    ran = fivestage("run", "no_such:app", KAFAK__GROUP_ID="x")
    assert (ran.code, ran.err.count('"variable has no effect"')) == (2, 1)
    assert "did you mean FIVESTAGE_KAFKA__GROUP_ID?" in ran.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["config", "check", "--config", "nowhere.toml"], "cannot read nowhere.toml: No such file"),
        (["produce", "--file", "nowhere.jsonl"], "cannot read nowhere.jsonl: No such file"),
        (["produce"], "give one of TEXT, --file FILE, or -"),
        (["produce", "hello", "--file", "f"], "give one of TEXT, --file FILE, or -"),
        (["produce", "-", "--lane", "prod"], "--lane, --budget-ms and --allow-partial need TEXT"),
        (["produce", "-", "--no-allow-partial"], "--lane, --budget-ms and --allow-partial need TEXT"),
        (["produce", "hello", "--lane", "a b"], "lane: "),
        (["produce", "\udcff"], "the query's text is not UTF-8"),
        (["explain", "\udcff", "--file", "-"], "QUERY_ID is not UTF-8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line(arguments: list[str], text: str) -> None:
    """Errors that a user can fix are one line on standard error, with exit code 2."""
    ran = CliRunner().invoke(app, arguments)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("fivestage: ")
    assert text in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_replay_to_one_of_several_topics() -> None:
    """The error names the option that chooses one."""
    ran = CliRunner().invoke(app, ["dlq", "replay"], env={"FIVESTAGE_TOPICS__QUERIES": "a,b"})
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.endswith("may be several topics: choose the one to write to, with --topic\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere:app"], "cannot import nowhere:app"),
        (["json:loads"], "json:loads is a function, not a fivestage.Pipeline"),
        (["json:nothing"], "module json has no 'nothing'"),
        ([":app"], "names no module"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml: No such file"),
    ],
    ids=" ".join,
)
def test_a_start_that_fails(fivestage: Fivestage, arguments: list[str], text: str) -> None:
    """What prevents the start of the service is one line of its log, with exit code 2."""
    ran = fivestage("run", *arguments)
    line = json.loads(ran.err)
    assert (ran.code, ran.out) == (2, "")
    assert list(line) == ["timestamp", "level", "event", "logger", "error", "exit_code"]
    assert (line["level"], line["event"], line["exit_code"]) == ("error", "cannot run", 2)
    assert text in line["error"]


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        ("config check --bootstrap kafka.example:9092 >&-", 2, 1),
        ("produce >&-", 2, 1),
        ("run --help >&-", 0, 0),
        ("check fivestage.nodes.llm:ask >&-", 2, 1),
        ("explain a --file - <&-", 1, 1),
        ("config show >/dev/full", 1, 1),
        ("schemas export --help >/dev/full", 1, 1),
        ("--help >/dev/full", 1, 1),
        ("produce 2>/dev/full", 2, 0),
    ],
)
def test_standard_streams(environment: dict[str, str], arguments: str, code: int, lines: int) -> None:
    """Where a standard stream is closed or full, a command keeps its exit code, and prints a line at most."""
    command = f'exec "$0" -m fivestage {arguments}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == lines, done.stderr
