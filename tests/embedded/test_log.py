"""Every line of a service's standard error is a log line: JSON in a pipe, text on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.checker import wait_for_results
from support.embedded import Installation, patient
from support.feeder import event, write
from support.process import ServiceProcess

pytestmark = pytest.mark.broker
TESTS = Path(__file__).parents[1]
APP = "support.logging_app:app"
HEAD = ["timestamp", "level", "event", "logger"]
PATIENT = patient()
QUERIES = ["talks", "talks-in-a-thread", "fails 1", "fails 2", "fails 3"]


def ask(place: Installation) -> None:
    """Write a query for each node, and wait for the results."""
    for texts, count in ((QUERIES, len(QUERIES)), (["blocks"], len(QUERIES) + 1)):
        records = [(text, event(text.replace(" ", "-"), text)) for text in texts]
        write(place.bootstrap, place.topics.queries, records)
        wait_for_results(place.bootstrap, place.topics.results, count)


def line_of(log: list[dict[str, Any]], event: str) -> dict[str, Any]:
    """Return the line with an event; on a busy machine a query may be moved, and its code log again."""
    line, *others = [line for line in log if line["event"] == event]
    assert all(other | {"timestamp": ""} == line | {"timestamp": ""} for other in others)
    return line


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_json_in_a_pipe(place: Installation, kind: str) -> None:
    """Each line has the shape; lines of nodes name their query, wherever they are written."""
    settings = place.settings({**PATIENT, "executor.kind": kind})
    with ServiceProcess(APP, place.bootstrap, settings) as service:
        ask(place)
        assert service.end() == 0
    log = service.log
    assert [line for line in log if list(line)[:4] != HEAD] == []
    assert {line["level"] for line in log} <= {"info", "warning", "error"}
    assert all(datetime.fromisoformat(line["timestamp"]).tzinfo for line in log)
    assert (line_of(log, "ready")["level"], log[-1]["event"], log[-1]["exit_code"]) == ("info", "ended", 0)
    said = {"query_id": "talks", "lane": "prod", "stage": "processing", "node": "talks"}
    fields: dict[str, dict[str, Any]] = {
        "plain 1": {"hits": 3, "level_": "mine", "logger": "logging_app"},
        "bound": {"hits": str(2**70), "logger": "support.logging_app"},
        "log call failed": {"error_type": "TypeError", "level": "error"},
        "caught": {"error_type": "LookupError", "level": "error"},
        "to_thread": {"level": "info"},
        "run_sync": {"level": "info"},
        "task": {"level": "warning"},
    }
    for event_, own in fields.items():
        line = line_of(log, event_)
        assert line | said | own == line, line
    own = {"query_id": "talks-in-a-thread", "stage": "processing", "node": "talks-in-a-thread"}
    line = line_of(log, "def node\x1b[2J")
    assert line | own == line
    checked = {line["query_id"]: line["stage"] for line in log if line["event"] == "validates"}
    assert checked == dict.fromkeys(["talks", "talks-in-a-thread", "blocks"], "validation")
    assert line_of(log, "uncaught exception in a thread")["error_type"] == "LookupError"
    failed = line_of(log, "node failed")
    assert (failed["node"], failed["count"], failed["query_id"][:-1]) == ("fails", 1, "fails-")
    assert re.fullmatch(r".*/support/logging_app\.py:\d+", failed["where"])
    assert "the question" not in json.dumps(log)


def test_a_blocked_loop_is_reported_twice(place: Installation) -> None:
    """The first line names node, place and query at once, the second one how long it took."""
    settings = place.settings(PATIENT | {"executor.stall_ms": 100})
    with ServiceProcess(APP, place.bootstrap, settings) as service:
        write(place.bootstrap, place.topics.queries, [("b", event("b", "blocks"))])
        begin, end = service.wait_for("event loop blocked"), service.wait_for("event loop responds")
        assert service.end() == 0
    about = {
        "node": "blocks",
        "stage": "processing",
        "query_id": "b",
        "lane": "prod",
        "where": begin["where"],
    }
    assert begin | about == begin
    assert end | about == end
    assert re.fullmatch(r".*/support/logging_app\.py:\d+ blocks", begin["where"])
    assert begin["blocked_ms"] < end["blocked_ms"]
    assert (
        end["blocked_ms"] >= 100
    )  # of 300: time in which a busy machine does not run the check is not counted


def test_lines_before_the_settings(place: Installation) -> None:
    """What is logged while the app is imported has the shape too, whatever the app has configured."""
    with ServiceProcess(APP, place.bootstrap, place.settings(PATIENT)) as service:
        assert service.end() == 0
    [warned, imported] = service.log[:2]
    assert (warned["event"], warned["logger"], warned["category"]) == (
        "an old function", "py.warnings", "FutureWarning",
    )  # fmt: skip
    assert (imported["event"], imported["logger"], imported["level"]) == (
        "imported",
        "logging_app",
        "warning",
    )


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_text_on_a_terminal(place: Installation, terminal: str) -> None:
    """People get aligned text without JSON or the escapes of nodes, in colours if the terminal has them."""
    ours, theirs = pty.openpty()
    settings = {"kafka.bootstrap_servers": place.bootstrap, "admin.port": 0, **place.settings(PATIENT)}
    variables = {
        f"FIVESTAGE_{name.upper().replace('.', '__')}": _text(value) for name, value in settings.items()
    }
    service = subprocess.Popen(
        [sys.executable, "-m", "fivestage", "run", APP],
        cwd=TESTS,
        env={**os.environ, **variables, "TERM": terminal},
        stderr=theirs,
    )
    os.close(theirs)
    try:
        said = _read(ours, until="ready")
        ask(place)
        service.send_signal(signal.SIGTERM)
        said += _read(ours)
        assert service.wait(30) == 0
    finally:
        service.kill()
        service.wait()
        os.close(ours)
    colours = re.findall(r"\x1b\[\d*m", said)
    assert bool(colours) is (terminal == "xterm")
    plain = re.sub(r"\x1b\[\d*m", "", said)
    assert "\x1b" not in plain
    lines = [line for line in plain.splitlines() if not line.startswith("    ")]
    shape = r"\d\d:\d\d:\d\d\.\d{3} \[(info|warning|error) *\] .+ \[[\w.]+\].*"
    assert [line for line in lines if not re.fullmatch(shape, line)] == []
    assert [line for line in lines if "{" in line.split("]")[0]] == []
    [failed] = [line for line in lines if "node failed" in line]
    assert all(word in failed for word in ("node=fails", "query_id=fails-", "error_type=LookupError"))
    assert lines[-1].split()[3] == "ended"


def _read(descriptor: int, until: str | None = None) -> str:
    """Read a terminal up to a word, or to its end."""
    said = b""
    while until is None or until.encode() not in said:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO: the service has ended
            break
        if not data:
            break
        said += data
    return said.decode()


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
