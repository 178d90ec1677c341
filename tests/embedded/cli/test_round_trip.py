from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import GENEROUS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import FirstLine, Fivestage, RunningCommand, Start

    ResultOf = Callable[[str], dict[str, Any]]

pytestmark = [pytest.mark.broker, pytest.mark.usefixtures("service")]

QUESTION = '{"query_id":"a","user_input":"What is 15 + 7?"}\n'


@pytest.fixture
def result_of(start: Start, bootstrap: str) -> ResultOf:
    """Return a function that waits for a query's result in the form of ``watch --json``."""
    watching = start("watch", "--from-beginning", "--json", "--bootstrap", bootstrap)

    def wait(query_id: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(watching.line_with(f'{{"query_id":"{query_id}"'))
        return result

    return wait


def test_round_trip(fivestage: Fivestage, bootstrap: str, result_of: ResultOf) -> None:
    """A question through ``produce -`` comes back through ``watch``: 22, after five stages."""
    asked = fivestage("produce", "-", "--bootstrap", bootstrap, stdin=QUESTION)
    assert (asked.code, asked.out, asked.err) == (0, "a\n", "")
    result = result_of("a")
    assert (result["status"], result["answer"]) == ("success", 22)
    assert [stage["outcome"] for stage in result["stages"]] == ["success"] * 5


def test_table(fivestage: Fivestage, bootstrap: str, result_of: ResultOf) -> None:
    """In a pipe the table has headings, plain marks and the whole id; stdout has results only."""
    asked = fivestage("produce", "What is 2 + 2?", "--lane", "table", "--bootstrap", bootstrap)
    result_of(asked.out.strip())
    only_one = ("--lane", "table", "--max", "1")  # others may have failed stages
    ran = fivestage("watch", "--from-beginning", *only_one, "--bootstrap", bootstrap)
    heading, row = ran.out.splitlines()
    assert heading.split() == ["query", "status", "ms", "I", "D", "P", "V", "R", "answer", "or", "error"]
    assert "success" in row
    assert "+ + + + +" in row
    assert "\x1b" not in ran.out
    assert (ran.code, ran.err) == (0, "")


def test_watch_filters(fivestage: Fivestage, bootstrap: str, result_of: ResultOf) -> None:
    """``watch`` shows only results that match: status, node, lane, and how long they took."""
    lines = ['{"query_id":"sum","user_input":"2 + 3"}', '{"query_id":"late","user_input":"2","budget_ms":1}']
    expired = '{"query_id":"old","user_input":"2","deadline":"2020-01-01T00:00:00Z"}'
    fivestage("produce", "-", "--bootstrap", bootstrap, stdin="\n".join([*lines, expired]))
    result_of("old")
    follow = ("watch", "--from-beginning", "--json", "--max", "1", "--bootstrap", bootstrap)
    for options, key, value in (
        (("--status", "expired"), "status", "expired"),
        (("--node", "math"), "node", "math"),
        (("--lane", "nowhere", "--lane", "prod", "--status", "success"), "status", "success"),
    ):
        ran = fivestage(*follow, *options)
        assert (ran.code, json.loads(ran.out)[key]) == (0, value)


def test_watch_waterfall(fivestage: Fivestage, bootstrap: str, result_of: ResultOf) -> None:
    """``watch --waterfall`` draws where the time of a query went."""
    asked = '{"query_id":"drawn","user_input":"2 + 4","lane":"drawn"}'
    fivestage("produce", "-", "--bootstrap", bootstrap, stdin=asked)
    result_of("drawn")
    options = ("--waterfall", "--lane", "drawn", "--max", "1")
    heading, row = fivestage("watch", "--from-beginning", "--bootstrap", bootstrap, *options).out.splitlines()
    assert re.search(" waterfall +answer or error$", heading)
    assert set(row[heading.index("waterfall") :][:25].strip()) <= set("IDPVR ")


def test_watch_no_such_status(fivestage: Fivestage, bootstrap: str) -> None:
    """A status that no result has is refused with those that there are."""
    ran = fivestage("watch", "--status", "late", "--bootstrap", bootstrap)
    assert (ran.code, ran.out) == (2, "")
    assert "there is no 'late', but success, error, timeout, expired, degraded, partial" in ran.err


def test_watch_follows(start: Start, fivestage: Fivestage, bootstrap: str) -> None:
    """``watch`` shows results as they come, and Ctrl-C is its normal end."""
    watching = start("watch", "--from-beginning", "--bootstrap", bootstrap)
    fivestage("produce", "-", "--bootstrap", bootstrap, stdin='{"query_id":"followed","user_input":"3*4"}')
    assert watching.line_with("followed ").split()[-1] == "12"
    assert watching.end(signal.SIGINT) == 0


def test_watch_closed_pipe(first_line: FirstLine, fivestage: Fivestage, bootstrap: str) -> None:
    """``watch | head -1`` ends when head does, not at the next result."""
    fivestage("produce", "1 + 1", "--bootstrap", bootstrap)
    ran = first_line("watch", "--from-beginning", "--bootstrap", bootstrap)
    assert ran.out.startswith("query ")
    assert (ran.code, ran.err) == (0, "")


def test_produce_file(fivestage: Fivestage, bootstrap: str, folder: Path) -> None:
    """A file of events is written by line, without empty lines; events without an id are counted too."""
    lines = ['{"query_id":"f1","user_input":"2"}', "", "no JSON", '{"query_id":"f2","user_input":"3"}']
    (folder / "q.jsonl").write_text("\n".join(lines))
    ran = fivestage("produce", "--file", "q.jsonl", "--bootstrap", bootstrap)
    assert (ran.code, ran.out.split("\n")) == (0, ["f1", "(no id)", "f2", ""])


def test_produce_sends_while_waiting(start: Start, bootstrap: str, result_of: ResultOf) -> None:
    """A line typed into ``produce -`` is sent before its input ends; Ctrl-C ends it at once."""
    producing = start("produce", "-", "--bootstrap", bootstrap)
    assert producing.process.stdin is not None
    producing.process.stdin.write('{"query_id":"typed","user_input":"5 + 5"}\n')
    producing.process.stdin.flush()
    assert producing.line() == "typed"
    assert result_of("typed")["answer"] == 10
    assert producing.end(signal.SIGINT, limit_s=10) == 130


def test_produce_too_large(fivestage: Fivestage, bootstrap: str) -> None:
    """A line too large for the broker is a one-line error, with exit code 1."""
    ran = fivestage("produce", "-", "--bootstrap", bootstrap, stdin="x" * 2_000_000)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("fivestage: a record cannot be sent: MessageSizeTooLargeError")


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_broker_and_run_end(start: Start, fivestage: Fivestage, kind: str) -> None:
    """A round trip on a separate broker; Ctrl-C and SIGTERM end both with exit code 0."""
    broker = start("broker", "--port", "0")
    bootstrap = broker.line()
    settings = {"EXECUTOR__KIND": kind, "ADMIN__PORT": "0", **GENEROUS}
    running: RunningCommand = start("run", "--bootstrap", bootstrap, **settings)
    assert json.loads(running.line_with('"ready"'))["partitions"] == list(range(8))
    fivestage("produce", "-", "--bootstrap", bootstrap, stdin=QUESTION)
    shown = fivestage("watch", "--from-beginning", "--json", "--max", "1", "--bootstrap", bootstrap)
    result = json.loads(shown.out)
    assert (result["status"], result["answer"]) == ("success", 22)
    assert running.end(signal.SIGTERM) == 0
    assert broker.end(signal.SIGINT) == 0
