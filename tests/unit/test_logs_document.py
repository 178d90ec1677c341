"""docs/logs.md lists what the code logs, and its example logs what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from support.documents import blocks, text_of
from support.logged import Logged, logged

if TYPE_CHECKING:
    from pathlib import Path

LOGS = text_of("docs/logs.md")
NOT_IN_CALLS = {
    "log lines lost": Logged(frozenset({"warning"}), frozenset({"count"})),
    "node failed": Logged(
        frozenset({"warning"}), frozenset({"node", "stage", "error_type", "where", "count"})
    ),
    "stage failed": Logged(frozenset({"warning"}), frozenset({"stage", "error_type", "where", "count"})),
    "stage declared twice": Logged(frozenset({"warning"}), frozenset({"stage", "where", "replaced"})),
    "node registered twice": Logged(frozenset({"warning"}), frozenset({"node", "where", "replaced"})),
    "a resource failed to close": Logged(frozenset({"error"}), frozenset({"resource"})),
    "a resource has failed while open": Logged(frozenset({"error"}), frozenset({"resource"})),
}
"""Events whose text is no argument of a call."""


def documented() -> dict[str, Logged]:
    """Return the rows of the tables of events."""
    rows = re.findall(
        r"^\| `([^`]+)` \| ([a-z, ]+) \|([^|]*)\|", LOGS.partition("## Events")[2], flags=re.MULTILINE
    )
    assert rows
    return {
        event: Logged(frozenset(levels.split(", ")), frozenset(re.findall("`([^`]+)`", fields)))
        for event, levels, fields in rows
    }


def test_each_event_is_documented() -> None:
    """The document has each event with its levels and fields, and no other."""
    ours = {event: said for event, said in logged().items() if "%" not in event} | NOT_IN_CALLS
    assert documented() == ours


def test_the_example_logs_its_query(tmp_path: Path) -> None:
    """The printed node's line has the printed fields, and those of the query."""
    (tmp_path / "myapp.py").write_text(blocks("python", LOGS)[0], encoding="utf-8")
    program = (
        "import asyncio\nfrom fivestage.observability.logging import configure\nconfigure()\n"
        "from fivestage import Orchestrator\nfrom myapp import app\n"
        "result = asyncio.run(Orchestrator(app).process_query('hello', query_id='q-7'))\n"
        "assert result.node == 'search', result\n"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    line = json.loads(ran.stderr)
    said = {"event": "searched", "logger": "myapp", "hits": 3}
    query = {"query_id": "q-7", "lane": "prod", "stage": "processing", "node": "search"}
    assert line | said | query == line
    assert {*said, *query, "timestamp", "level", "left_ms"} == set(line)


def test_the_printed_line_has_the_shape() -> None:
    """The line that the document prints is one that the service could write."""
    line = json.loads(blocks("json", LOGS)[0])
    fields = set(re.findall(r"^\| (.*?) \|", LOGS.partition("## Log from")[0], flags=re.MULTILINE))
    named = {name for cell in fields for name in re.findall("`([a-z_]+)`", cell)}
    assert set(line) - named == {"count"}
    assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
