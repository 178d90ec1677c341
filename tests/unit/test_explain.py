"""What ``fivestage explain`` says of a query, from the events that the service publishes."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from fivestage.cli.explain import since_ms
from fivestage.cli.explain.explanation import Explanation, of_lines, of_records
from fivestage.cli.explain.view import print_explanation, ranges
from fivestage.core.codec.dead_letter import Place
from fivestage.core.records import Output, PlainRecord
from fivestage.kafka.tools.query_search import Found
from support import everything

if TYPE_CHECKING:
    from fivestage.testing import MemoryBus

NOTHING = Found(dict.fromkeys(Output, ()))


@pytest.fixture(scope="module")
def bus() -> MemoryBus:
    """Run every kind of query through a memory bus, in virtual time."""
    return everything.run()


def explained(bus: MemoryBus, query_id: str) -> Explanation:
    """Explain a query from its events on the bus, as if they were found on topics."""
    records = {
        output: [
            PlainRecord(output, 0, number, int(everything.EPOCH * 1000), one.key, one.value, one.headers)
            for number, one in enumerate(bus.sink.of(output))
            if dict(one.headers).get("ce_subject") == query_id.encode() or one.key == query_id.encode()
        ]
        for output in Output
    }
    return of_records(query_id, Found(records))


def printed(found: Explanation, capsys: pytest.CaptureFixture[str], *, show_text: bool = False) -> str:
    """Return what is printed into a pipe."""
    print_explanation(found, show_text=show_text)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("query_id", "status", "parts"),
    [
        ("success", "success", ["answered in 21 ms of 250 ms", "intent", "reflection", "published"]),
        ("stage-timeout", "timeout", ["120 / 120", "sleeps, timeout", "stage_timeout processing", "skipped"]),
        ("pipeline-timeout", "timeout", ["of 60 ms", "the 60 ms of the query ran out", "pipeline_timeout"]),
        ("degraded", "degraded", ["answered without all stages: validation did not end", "40 / 40"]),
        ("error", "error", ["LookupError", "processing (fails) failed with LookupError"]),
        ("rejected", "error", ["validation rejected the answer"]),
        ("too-large", "error", ["result_too_large", "the answer is too large for its topic"]),
        ("expired", "expired", ["not started", "deadline had passed", "expired_before_start"]),
        ("offered", "timeout", ["  partial  ", "offers, timeout, offered an answer", "offers had offered"]),
        ("partial", "partial", ["answered with what offers had offered: processing (offers) did not end"]),
        ("busy", "error", ["node_busy"]),
        ("stuck", "error", ["node_stuck"]),
    ],
)
def test_each_end(
    bus: MemoryBus, query_id: str, status: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each way in which a query ends is named, with its reason in words."""
    shown = printed(explained(bus, query_id), capsys)
    assert shown.splitlines()[0].split()[:2] == [query_id, status]
    assert [part for part in parts if part not in shown] == [], shown


def test_no_text(bus: MemoryBus, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers and messages of exceptions are printed, as text and as JSON, only where they are asked for."""
    for query_id, secret in (("success", '"42"'), ("error", "no such thing")):
        found = explained(bus, query_id)
        hidden = printed(found, capsys) + json.dumps(found.as_json(show_text=False))
        assert secret not in hidden
        assert secret in printed(found, capsys, show_text=True)
        assert secret in json.dumps(found.as_json(show_text=True)).replace("\\", "")


def test_the_intent(bus: MemoryBus, capsys: pytest.CaptureFixture[str]) -> None:
    """The intent and its rule are printed with the text: an intent stage of the author's may quote it."""
    found = explained(bus, "success")
    fact = "\nintent     {}\n"
    assert fact.format("answers") not in printed(found, capsys)
    assert fact.format("answers") in printed(found, capsys, show_text=True)
    stage = found.result.stages[0] if found.result is not None else None
    assert stage is not None
    for data, shown in (
        ({"intent": "factual", "confidence": 0.7, "rule": "request"}, "factual (request)"),
        ({"intent": "search", "rule": 3}, "search"),
        ("search", "search"),
    ):
        object.__setattr__(stage, "data", data)
        assert fact.format(shown) in printed(found, capsys, show_text=True)
    object.__setattr__(stage, "data", ["search"])
    assert "search" not in printed(found, capsys, show_text=True)


def test_unreadable(bus: MemoryBus, capsys: pytest.CaptureFixture[str]) -> None:
    """A query that could not be read has the reason of its dead letter, and the command that shows it."""
    shown = printed(explained(bus, "invalid"), capsys)
    assert "invalid_query" in shown
    letter = printed(explained(bus, "not_json"), capsys)
    assert "not_json  dead letter" in letter
    assert "fivestage dlq list --reason not_json" in letter


def test_the_same_from_lines(bus: MemoryBus) -> None:
    """Lines of JSON give the same explanation as the topics, whatever else is among them."""
    lines = [one.value or b"" for output in (Output.RESULTS, Output.TIMEOUTS) for one in bus.sink.of(output)]
    hostile = [b"", b"[]", b"stage-timeout", b'{"query_id":"stage-timeout","status":7}', b"\xff\x00"]
    found = of_lines("stage-timeout", [*hostile, *lines, *hostile])
    wanted = explained(bus, "stage-timeout")
    assert (found.why(), found.steps, found.timeouts) == (wanted.why(), wanted.steps, wanted.timeouts)
    assert found.searched == [f"{len(lines) + 2 * len(hostile)} lines"]


def test_without_a_result(bus: MemoryBus) -> None:
    """Without a result the explanation says what there is instead."""
    events = [one.value or b"" for one in bus.sink.of(Output.STAGE_RESULTS)]
    found = of_lines("success", events)
    assert (found.is_ended, found.why()) == (
        False,
        "only some of its events were found; its result is missing",
    )
    waiting = of_records("a", NOTHING._replace(queries=[PlainRecord("queries", 0, 0, 1, b"a", b"{}")]))
    assert (waiting.is_ended, waiting.why().partition(",")[0]) == (False, "it was written")
    assert of_records("a", NOTHING).why() == "no event was found"


def test_published_again(bus: MemoryBus, capsys: pytest.CaptureFixture[str]) -> None:
    """A result that was published twice, after a redelivery, is explained once and counted."""
    [value] = [
        one.value or b"" for one in bus.sink.of(Output.RESULTS) if b'"success","answer"' in (one.value or b"")
    ][:1]
    query_id = json.loads(value)["query_id"]
    assert "copies     2: it was delivered again" in printed(of_lines(query_id, [value, value]), capsys)


def test_time_of_the_last_copy(bus: MemoryBus) -> None:
    """After a redelivery, result and time of publication are those of the same copy, the last one."""
    [value] = [one.value or b"" for one in bus.sink.of(Output.RESULTS) if one.key == b"success"]
    result = json.loads(value)
    copies = []
    for number, start in enumerate(
        (datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 1, 31, 13, tzinfo=UTC))
    ):
        event = json.dumps(result | {"started_at": start.isoformat()}).encode()
        copies.append(PlainRecord("r", 0, number, int(start.timestamp() * 1000) + 30, b"success", event))
    found = of_records("success", NOTHING._replace(events={**NOTHING.events, Output.RESULTS: copies}))
    assert (found.copies, found.published_ms) == (2, 30)


def test_ranges() -> None:
    """Events beside each other are written as one range."""
    places = [Place("a", 0, 7), Place("a", 0, 8), Place("a", 0, 9), Place("a", 1, 10), Place("b", 1, 11)]
    assert list(ranges(places)) == ["a/0/7-9", "a/1/10", "b/1/11"]


@pytest.mark.parametrize(
    ("since", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604_800), ("9" * 400 + "d", math.inf)],
)
def test_since(since: str, seconds: float) -> None:
    """A length of time ends now, however long it is."""
    before = time.time()
    found = since_ms(since)
    assert before - seconds <= found / 1000 <= time.time() - seconds


def test_since_a_time() -> None:
    """A time without an offset is UTC."""
    assert since_ms("2026-01-31T12:00:00") == since_ms("2026-01-31T13:00:00+01:00") == 1_769_860_800_000


def test_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """An id or a name from elsewhere cannot control the terminal."""
    bad = "\x1b[2J\n"
    letter = PlainRecord(
        "dead", 0, 0, 0, bad.encode(), b"{", [("dlq.reason", bad.encode()), ("dlq.detail", b"\x1b")]
    )
    place = [("dlq.topic", b"q"), ("dlq.partition", b"0"), ("dlq.offset", b"1"), ("dlq.timestamp", b"0")]
    found = of_records(
        bad,
        NOTHING._replace(
            events={
                **NOTHING.events,
                Output.DEAD_LETTERS: [letter._replace(headers=[*letter.headers, *place])],
            }
        ),
    )
    assert found.letter is not None
    assert "\x1b" not in printed(found, capsys, show_text=True)
