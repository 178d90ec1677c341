"""The log lines that the status page shows."""

from __future__ import annotations

import logging
from io import StringIO
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import structlog

from fivestage.observability import log_hooks
from fivestage.observability import logging as configuration
from fivestage.observability.event_log import MAX_CHARS, MAX_EVENTS, MAX_ITEMS, EventLog
from fivestage.observability.log_output import output
from fivestage.observability.logging import announce
from fivestage.pipeline.failure_log import LOGGER, failure_log

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "canary-4711"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventLog]:
    """Configure the log, with an event log of this test."""
    found = EventLog()
    monkeypatch.setattr(configuration, "event_log", found)
    monkeypatch.setattr(log_hooks, "install", lambda: None)  # pytest has hooks too
    monkeypatch.setattr(output, "listener", None)
    loggers = [logging.getLogger(name) for name in ("", "aiokafka", LOGGER)]
    states = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    before = structlog.get_config()
    configuration.configure("INFO", show_text=True)
    yield found
    structlog.configure(**before)
    failure_log.shows_text = False
    for logger, handlers, propagate, level in states:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_lines_of_the_service_are_shown(lines: EventLog) -> None:
    """Those that are written, the newest first, with level, time and fields."""
    log = structlog.get_logger("fivestage.controls")
    log.warning("breaker opened", reason="14 of 20 calls failed", node="pricing", lane="prod")
    log.debug("not written, and not shown")
    announce("ready", partitions=[0, 1])
    ready, opened = lines.newest_first()
    assert (ready["text"], ready["fields"]) == ("ready", {"partitions": [0, 1]})
    assert (opened["level"], opened["text"]) == ("warning", "breaker opened")
    assert opened["fields"] == {"reason": "14 of 20 calls failed", "node": "pricing", "lane": "prod"}
    assert opened["at"].endswith("Z")


def test_lines_of_others_are_not_shown(lines: EventLog) -> None:
    """An app's own lines may hold text of queries, and so may exceptions; libraries have their own story."""
    logging.getLogger("pricing").warning(CANARY)
    logging.getLogger("aiokafka.conn").warning(CANARY)
    logging.getLogger("fivestage.nodes").warning("node failed", extra={"error": CANARY, "node": "pricing"})
    [failed] = lines.newest_first()
    assert (failed["text"], failed["fields"]) == ("node failed", {"node": "pricing", "count": 1})
    assert CANARY not in repr(lines.newest_first())


def test_what_the_app_binds_is_not_shown(lines: EventLog) -> None:
    """What an app binds to structlog's context may be secret: the service's own lines are without it."""
    with structlog.contextvars.bound_contextvars(api_key=CANARY):
        structlog.get_logger("fivestage.controls").warning("breaker opened", node="pricing")
        announce("ready")
    assert CANARY not in repr(lines.newest_first())
    assert len(lines.newest_first()) == 2


@pytest.mark.usefixtures("lines")
def test_lines_of_the_app_have_what_it_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context that an app binds is in its own lines; fields of the call come first."""
    monkeypatch.setattr(output, "stream", StringIO())
    log = structlog.get_logger("pricing")
    with structlog.contextvars.bound_contextvars(customer="c-1", price=1):
        log.warning("priced", price=2)
    line = orjson.loads(output.stream.getvalue())  # type: ignore[union-attr]
    assert (line["customer"], line["price"]) == ("c-1", 2)


@pytest.mark.parametrize("logger", [logging.getLogger("pricing"), structlog.get_logger("pricing")])
@pytest.mark.usefixtures("lines")
def test_stacks_are_written(monkeypatch: pytest.MonkeyPatch, logger: Any) -> None:
    """With stack_info a line has the stack of the call that logs."""
    monkeypatch.setattr(output, "stream", StringIO())
    logger.warning("priced", stack_info=True)
    line = orjson.loads(output.stream.getvalue())  # type: ignore[union-attr]
    assert line["stack"].splitlines()[-1].strip() == 'logger.warning("priced", stack_info=True)'
    assert "stack_info" not in line


def test_a_line_that_comes_again_is_counted(lines: EventLog) -> None:
    """A breaker that opens all the time does not push out what happened once."""
    log = structlog.get_logger("fivestage.controls")
    log.info("assigned", partitions=[0])
    for number in range(2 * MAX_EVENTS):
        log.warning("breaker opened", reason=f"{number} failed", node="pricing", lane="prod")
        log.info("breaker half-opened", node="pricing", lane="prod")
    log.warning("breaker opened", node="pricing", lane="test")
    found = [(line["text"], line["times"]) for line in lines.newest_first()]
    assert found == [
        ("breaker opened", 1),
        ("breaker half-opened", 2 * MAX_EVENTS),
        ("breaker opened", 2 * MAX_EVENTS),
        ("assigned", 1),
    ]
    assert lines.newest_first()[2]["fields"]["reason"] == f"{2 * MAX_EVENTS - 1} failed"


class Unprintable:
    """Raises when it is printed."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value",
    [2**200, -(2**64), 2**53, Unprintable(), [2**200, Unprintable()], CIRCLE, {1: Unprintable()}, 1e400],
)
def test_lines_can_be_sent(value: Any) -> None:
    """Whatever a field or a text is, the page gets JSON that its reader can read."""
    lines = EventLog()
    lines.remember({"event": value, "level": "info", "field": value, "small": [1, True, None, 0.5]})
    [line] = orjson.loads(orjson.dumps(lines.newest_first()))
    assert line["fields"]["small"] == [1, True, None, 0.5]


@pytest.mark.parametrize(
    "value", ["x" * 10_000, list(range(10_000)), {"a": "x" * 10_000}, b"\xff" * 999, "\ud800"]
)
def test_lines_are_bounded(value: Any) -> None:
    """Their number and the size of their fields, whatever is logged."""
    lines = EventLog()
    for number in range(3 * MAX_EVENTS):
        lines.remember({"event": f"line {number}", "level": "info", "field": value})
    found = lines.newest_first()
    assert len(found) == MAX_EVENTS
    assert found[0]["text"] == f"line {3 * MAX_EVENTS - 1}"
    assert len(repr(found[0]["fields"])) < 2 * max(MAX_CHARS, 8 * MAX_ITEMS)
    assert lines.count == 3 * MAX_EVENTS
