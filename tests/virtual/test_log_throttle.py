"""The limit on repeated log lines."""

from __future__ import annotations

import logging

from fivestage.observability.log_throttle import MAX_PLACES, LogThrottle


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
    assert record.getMessage() == "error X (3 more were left out)"
    now = 20.0
    record = line()
    assert repeats.filter(record)
    assert record.getMessage() == "error X"


def test_each_node_at_a_place_may_log() -> None:
    """A node that fails all the time does not hide another one that fails in the same helper."""
    repeats = LogThrottle("aiokafka", max_lines=1, clock=lambda: 0.0)
    for node in ("a", "b"):
        record = line()
        record.node = node
        assert [repeats.filter(record) for _ in range(3)] == [True, False, False]


def test_the_memory_of_places_is_bounded() -> None:
    """The memory of places is bounded, however many places log."""
    repeats = LogThrottle("aiokafka")
    for number in range(3 * MAX_PLACES):
        assert repeats.filter(line(number=number))
    assert len(repeats._places) <= MAX_PLACES
