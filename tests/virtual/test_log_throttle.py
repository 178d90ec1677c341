"""The limit on repeated log lines."""

from __future__ import annotations

import logging
import subprocess
import sys

from fivestage.observability.log_throttle import (
    FAILURE_S,
    MAX_KINDS,
    MAX_PLACES,
    FailureThrottle,
    LogThrottle,
)


def line(name: str = "aiokafka.consumer", number: int = 1) -> logging.LogRecord:
    """Build a line of a place in the code."""
    return logging.LogRecord(name, logging.WARNING, "fetcher.py", number, "error %s", ("X",), None)


def test_a_few_lines_are_enough() -> None:
    """One place may log a few lines per interval; other places and loggers are not limited by it."""
    now = 0.0
    repeats = LogThrottle("aiokafka", max_lines=2, window_s=10, clock=lambda: now)
    assert [repeats.filter(line()) for _ in range(5)] == [True, True, False, False, False]
    assert repeats.filter(line(number=2))
    assert all(repeats.filter(line("fivestage")) for _ in range(5))
    now = 10.0
    record = line()
    assert repeats.filter(record)
    assert vars(record)["left_out"] == 3
    now = 20.0
    record = line()
    assert repeats.filter(record)
    assert "left_out" not in vars(record)


def test_a_collector_that_is_away_has_a_line_a_minute() -> None:
    """OpenTelemetry logs each failed export, from several places: each has one line in a minute."""
    program = (
        "import logging\nfrom fivestage.observability.logging import configure\nconfigure()\n"
        "log = logging.getLogger('opentelemetry.exporter.otlp')\n"
        "for _ in range(3):\n    log.error('no collector')\n    log.warning('again in 1 s')\n"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [ran.stderr.count(text) for text in ("no collector", "again in 1 s")] == [1, 1]


def failure(error_type: str = "OSError", node: str | None = "a") -> logging.LogRecord:
    """Build a line of a failed node."""
    record = line("fivestage.nodes")
    record.stage, record.node, record.error_type, record.where = "processing", node, error_type, "app.py:7"
    return record


def test_one_line_a_minute_for_each_kind_of_failure() -> None:
    """Each class of each node has a line a minute, which counts the failures since the last one."""
    now = 0.0
    throttle = FailureThrottle("fivestage.nodes", clock=lambda: now)
    assert [throttle.filter(failure()) for _ in range(3)] == [True, False, False]
    assert throttle.filter(failure("KeyError"))
    assert throttle.filter(failure(node="b"))
    now = FAILURE_S - 1
    assert not throttle.filter(failure())
    now = FAILURE_S
    record = failure()
    assert (throttle.filter(record), vars(record)["count"]) == (True, 4)
    assert throttle.filter(line("fivestage"))


def test_kinds_of_failure_are_bounded() -> None:
    """A node whose errors are all of different classes has few lines, and no part in those of others."""
    now = 0.0
    throttle = FailureThrottle("fivestage.nodes", clock=lambda: now)
    assert sum(throttle.filter(failure(f"Error{number}")) for number in range(1000)) == MAX_KINDS + 1
    assert throttle.filter(failure(node="b"))
    now = FAILURE_S
    record = failure("Error1000")
    assert (throttle.filter(record), vars(record)["count"]) == (True, 1000 - MAX_KINDS - 1 + 1)
    assert len(throttle._failures["processing", "a"]) <= MAX_KINDS + 1


def test_the_memory_of_places_is_bounded() -> None:
    """The memory of places is bounded, however many places log."""
    repeats = LogThrottle("aiokafka")
    for number in range(3 * MAX_PLACES):
        assert repeats.filter(line(number=number))
    assert len(repeats._places) <= MAX_PLACES
