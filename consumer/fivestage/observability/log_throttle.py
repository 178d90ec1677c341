"""Lines that repeat themselves, of the Kafka client and of nodes that fail: a few are enough."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 5
WINDOW_S = 30.0
MAX_PLACES = 1000


class LogThrottle(logging.Filter):
    """Lets a place in the code log so many lines within a while; the next line says how many were left out.

    Where records name a node, each node at a place may log so many.

    Args:
        prefix: The loggers this is about.
    """

    def __init__(
        self,
        prefix: str,
        *,
        most: int = MOST,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._prefix = prefix
        self._most = most
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[tuple[str, int, str | None], tuple[float, int]] = {}
        """When a window began, and how many lines it had."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if not record.name.startswith(self._prefix):
            return True
        place, now = (record.pathname, record.lineno, getattr(record, "node", None)), self._clock()
        with self._lock:
            began, count = self._places.get(place, (now, 0))
            left_out = 0
            if now - began >= self._window_s:
                began, count, left_out = now, 0, max(0, count - self._most)
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[place] = (began, count + 1)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more were left out)", None
        return count < self._most
