"""Every log line has one shape, whatever its values are."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

from fivestage.observability.log_line import AsText, as_json, described, line_of
from fivestage.pipeline.context import Query, StageContext
from fivestage.pipeline.failure_log import failure_log
from fivestage.pipeline.running_call import context_of, name_calls, running_call
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = {"timestamp": "2026-01-02T03:04:05.000000Z", "level": "info", "event": "assigned", "logger": "a.b"}
AT = 1767323045.0
TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736


def line(event: object = "assigned", **fields: Any) -> dict[str, Any]:
    """Make a line at a known time."""
    return line_of(AT, "info", event, "a.b", fields)


def in_a_call(function: Callable[[], Any], ctx: StageContext) -> Any:
    """Run a function as the code of a query."""
    context = context_of(None)
    context.run(name_calls, Query("q-1", "text", "canary"), ctx)
    return context.run(function)


class Odd:
    """Something that cannot even be printed."""

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


def test_head_then_fields() -> None:
    """The head comes first; fields without a value are left out, and none replaces the head."""
    made = line(b=1, a=None, level="gold", event_="x")
    assert list(made) == ["timestamp", "level", "event", "logger", "b", "level_", "event_"]
    assert made == HEAD | {"b": 1, "level_": "gold", "event_": "x"}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("text\n\x1b[2J", "text\n\x1b[2J"),
        (2**70, str(2**70)),
        ("\ud800", "\\ud800"),
        (float("nan"), None),
        ({1: {2}}, {"1": "{2}"}),
        (Odd(), "<Odd>"),
        (OSError("x"), "OSError('x')"),
    ],
)
def test_json_of_any_value(value: Any, written: Any) -> None:
    """Every value has a JSON text on one line, and costs no other field."""
    text = as_json(line(value=value, other=7))
    assert "\n" not in text
    assert json.loads(text) == HEAD | {"value": written, "other": 7}


def test_events_of_any_kind() -> None:
    """An event need not be a text."""
    assert [line(event)["event"] for event in (7, OSError("x"), Odd())] == ["7", "x", "<Odd>"]


def test_json_of_a_circle() -> None:
    """A value that contains itself is printed."""
    circle: dict[str, Any] = {}
    circle["self"] = circle
    assert json.loads(as_json(line(value=circle)))["value"] == "{'self': {...}}"


def test_fields_of_a_query() -> None:
    """A line from a query's code names query, lane, stage, node and trace; the line's own fields win."""
    ctx = StageContext("canary", 0.0, lambda: 0.0, StageType.PROCESSING, node="math")
    span = trace.NonRecordingSpan(trace.SpanContext(TRACE_ID, 7, is_remote=False))

    def log() -> dict[str, Any]:
        with trace.use_span(span):
            return line(node="mine")

    names = {"query_id": "q-1", "lane": "canary", "stage": "processing", "node": "mine"}
    assert in_a_call(log, ctx) == HEAD | names | {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert line() == HEAD


def test_a_thread_keeps_its_call() -> None:
    """The context for a thread names the call that it was made for, also when the query has gone on."""
    ctx = StageContext("canary", 0.0, lambda: 0.0, StageType.PROCESSING, node="math")
    context = in_a_call(lambda: context_of(running_call()), ctx)
    ctx.stage_type, ctx.node = StageType.VALIDATION, "other"
    assert context.run(line) == HEAD | {
        "query_id": "q-1",
        "lane": "canary",
        "stage": "processing",
        "node": "math",
    }


def test_exceptions_without_their_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception has class, place and frames; its message needs the setting."""
    with pytest.raises(LookupError) as raised:
        raise LookupError("the question")
    about = described(raised.value)
    place, function = about["frames"][0].split()
    assert about == {"error_type": "LookupError", "where": place, "frames": [f"{place} {function}"]}
    assert (place.rpartition(":")[0], function) == (__file__, "test_exceptions_without_their_message")
    assert described(OSError()) == {"error_type": "OSError"}
    monkeypatch.setattr(failure_log, "shows_text", True)
    assert described(raised.value)["error"] == "the question"


def test_text() -> None:
    """Text has time, level, event, logger and fields on one line; long values below, and no escapes."""
    made = line("two\nlines", n=[1, 2], said="\x1b[2J", traceback="File x\n  raise\n", frames=["f:1 g"])
    first, *below = AsText(colors=False)(made).split("\n")
    assert re.fullmatch(
        r"\d\d:04:05\.000 \[info +\] two +\[a\.b\] n=\[1, 2\] said=\\x1b\[2J frames='f:1 g'", first
    )
    assert below == ["    lines", "    traceback:", "    File x", "      raise"]
    assert "\x1b[" in AsText(colors=True)(line())
