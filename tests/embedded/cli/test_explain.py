from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from fivestage.settings import TopicSettings
from support.feeder import write

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Fivestage, RunningCommand, Start

pytestmark = pytest.mark.broker
QUESTION = "What is 16 + 7?"
BY_ID, BY_KEY, UNREADABLE = "explained-by-id", "explained-by-key", "explained-unreadable"


@pytest.fixture(scope="module")
def asked(start_for_session: Start, service: RunningCommand, bootstrap: str) -> str:  # noqa: ARG001 - it answers
    """Ask with the id as key, with another key, and what cannot be read; return the broker's address."""
    values = [
        (key, json.dumps({"query_id": name, "user_input": QUESTION}).encode())
        for key, name in ((BY_ID, BY_ID), ("order-7", BY_KEY))
    ]
    write(bootstrap, TopicSettings().queries, [*values, (UNREADABLE, b"{")])
    for name in (BY_ID, BY_KEY):
        watching = start_for_session("watch", "--from-beginning", "--json", "--bootstrap", bootstrap)
        watching.line_with(f'{{"query_id":"{name}"')
        watching.process.kill()
    return bootstrap


@pytest.mark.parametrize(
    ("query_id", "searched"), [(BY_ID, "1 of 4 partitions"), (BY_KEY, "4 of 4 partitions")]
)
def test_found(fivestage: Fivestage, asked: str, query_id: str, searched: str) -> None:
    """A query is found by its id as the key, otherwise in any partition, with all of its events."""
    ran = fivestage("explain", query_id, "--json", "--bootstrap", asked)
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert (found["status"], found["copies"], len(found["attempts"]), len(found["events"])) == (
        "success",
        1,
        5,
        6,
    )
    assert searched in found["searched"][0]
    assert QUESTION not in ran.out


def test_printed(fivestage: Fivestage, asked: str) -> None:
    """In a pipe it is ASCII: how it ended, each stage on the ruler, and the reason."""
    ran = fivestage("explain", BY_ID, "--bootstrap", asked)
    assert (ran.code, ran.err, ran.out.isascii()) == (0, "", True)
    for line in ("explained-by-id  success", "intent ", "reflection ", "published ", "why ", "trace "):
        assert re.search(f"^{line}", ran.out, flags=re.MULTILINE), line


def test_show_text(fivestage: Fivestage, asked: str) -> None:
    """With --show-text the question and the answer are shown too."""
    ran = fivestage("explain", BY_KEY, "--show-text", "--bootstrap", asked)
    assert ran.code == 0
    assert re.search(rf"^question .*{re.escape(QUESTION)}", ran.out, flags=re.MULTILINE)
    assert re.search("^answer +23$", ran.out, flags=re.MULTILINE)


def test_dead_letter(fivestage: Fivestage, asked: str) -> None:
    """A record that could not be read is found by its key, with the reason."""
    ran = fivestage("explain", UNREADABLE, "--bootstrap", asked)
    assert (ran.code, ran.err) == (0, "")
    assert "not_json" in ran.out


def test_not_found(fivestage: Fivestage, asked: str) -> None:
    """An unknown id exits with 1, and standard error says what was searched."""
    ran = fivestage("explain", "explained-nowhere", "--since", "2h", "--bootstrap", asked)
    assert ran.code == 1
    assert "no event was found" in ran.out
    assert re.fullmatch(
        r"fivestage: explained-nowhere: no result; searched fivestage\.results \(4 of 4 partitions, \d+ "
        r"records\).*fivestage\.queries.*; for older records give --since 4h\n",
        ran.err,
    )


def test_since(fivestage: Fivestage, asked: str) -> None:
    """Records older than --since are not found."""
    ran = fivestage("explain", BY_ID, "--since", "2999-01-01", "--bootstrap", asked)
    assert (ran.code, "no event was found" in ran.out) == (1, True)


def test_topic_that_may_not_be_read(fivestage: Fivestage, asked: str) -> None:
    """A topic that does not exist is always named as not searched; the result is found without it."""
    ran = fivestage("explain", BY_ID, "--bootstrap", asked, TOPICS__STAGE_RESULTS="nowhere")
    assert (ran.code, "success" in ran.out) == (0, True)
    assert re.fullmatch("fivestage: not searched: topic 'nowhere' does not exist.*\n", ran.err)
    ran = fivestage("explain", BY_ID, "--json", "--bootstrap", asked, TOPICS__STAGE_RESULTS="nowhere")
    assert "'nowhere' does not exist" in json.loads(ran.out)["not_searched"][0]
    ran = fivestage("explain", "nowhere", "--bootstrap", asked, TOPICS__STAGE_RESULTS="nowhere")
    assert (ran.code, ran.err.count("not searched: topic 'nowhere' does not exist")) == (1, 1)


def test_lines(fivestage: Fivestage, folder: Path) -> None:
    """--file reads lines of events from a file or from standard input, and needs no Kafka."""
    event = {"query_id": "a", "scope": "queue", "reason": "would_expire", "limit_ms": 1, "elapsed_ms": 2}
    line = json.dumps({**event, "lane": "prod", "occurred_at": "2026-01-31T12:00:00Z"})
    (folder / "events.jsonl").write_text(line)
    for ran in (
        fivestage("explain", "a", "-f", "events.jsonl"),
        fivestage("explain", "a", "-f", "-", stdin=line),
    ):
        assert (ran.code, ran.err) == (1, "fivestage: a: no result; searched 1 lines\n")
        assert "would_expire: 2 ms, limit 1 ms" in ran.out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--since", "-1h"], "--since: '-1h' is no length of time"),
        (["--since", "soon"], "--since: 'soon' is no length of time"),
        (["--file", "nowhere"], "cannot read nowhere"),
    ],
)
def test_wrong_use(fivestage: Fivestage, arguments: list[str], text: str) -> None:
    """A wrong --since or --file is one line, with exit code 2."""
    ran = fivestage("explain", "a", *arguments)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert text in ran.err
