"""Limits how often the same log line is repeated, by the Kafka client or by nodes that fail."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINES = 5
WINDOW_S = 30.0
MAX_PLACES = 1000


class LogThrottle(logging.Filter):
    """Passes a limited number of log lines per window from each place in the code.

    The first line of the next window says how many were left out. Records that name a node are counted
    separately for each node.

    Args:
        prefix: Applies only to loggers whose names start with it.
        max_lines: How many lines pass in one window.
        window_s: Length of the window in seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        prefix: str,
        *,
        max_lines: int = MAX_LINES,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._prefix = prefix
        self._max_lines = max_lines
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[tuple[str, int, str | None], tuple[float, int]] = {}
        """File, line and node, with the start of the window and the number of lines in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the line is written."""
        if not record.name.startswith(self._prefix):
            return True
        place, now = (record.pathname, record.lineno, getattr(record, "node", None)), self._clock()
        with self._lock:
            started_at, count = self._places.get(place, (now, 0))
            left_out = 0
            if now - started_at >= self._window_s:
                started_at, count, left_out = now, 0, max(0, count - self._max_lines)
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[place] = (started_at, count + 1)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more were left out)", None
        return count < self._max_lines
