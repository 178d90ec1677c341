"""Limits how often the same log line is repeated, by libraries or by nodes that fail."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINES: Final = 5
WINDOW_S: Final = 30.0
MAX_PLACES: Final = 1000
FAILURE_S: Final = 60.0
"""How often each kind of failure of a node has a line."""
MAX_KINDS: Final = 5
"""How many kinds of failure of one node get lines within FAILURE_S; all others share one."""


class LogThrottle(logging.Filter):
    """Passes a limited number of log lines per window from each place in the code.

    The first line of the next window says in ``left_out`` how many were left out.

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
        self._places: dict[tuple[str, int], tuple[float, int]] = {}
        """File and line, with the start of the window and the number of lines in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the line is written."""
        if not record.name.startswith(self._prefix):
            return True
        place, now = (record.pathname, record.lineno), self._clock()
        with self._lock:
            started_at, count = self._places.get(place, (now, 0))
            left_out = 0
            if now - started_at >= self._window_s:
                started_at, count, left_out = now, 0, max(0, count - self._max_lines)
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[place] = (started_at, count + 1)
        if left_out:
            record.left_out = left_out
        return count < self._max_lines


class FailureThrottle(logging.Filter):
    """Passes one line in FAILURE_S for each kind of failure of a node or stage: its class and place.

    ``count`` says how many failures there were since the last line, with this one. Where a node fails in more
    than MAX_KINDS ways, those without a line are counted by the next line of any kind.

    Args:
        name: The logger that failures are written to.
        clock: Monotonic seconds.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[tuple[str, str | None], dict[tuple[str, str], list[float]]] = {}
        """For each stage and node its kinds of failures: the time of the last line, and the count since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the line is written."""
        if record.name != self._name:
            return True
        fields, now = vars(record), self._clock()
        with self._lock:
            kinds = self._failures.setdefault((fields.get("stage", ""), fields.get("node")), {})
            kind = (fields.get("error_type", ""), fields.get("where", ""))
            unreported = 0.0
            if kind not in kinds and len(kinds) >= MAX_KINDS:
                unreported = self._drop_old(kinds, now)
                kind = kind if len(kinds) < MAX_KINDS else ("", "")
            last = kinds.setdefault(kind, [now - FAILURE_S, 0])
            last[1] += unreported
            last[1] += 1
            if now - last[0] < FAILURE_S:
                return False
            record.count, last[0], last[1] = int(last[1]), now, 0
        return True

    @staticmethod
    def _drop_old(kinds: dict[tuple[str, str], list[float]], now: float) -> float:
        """Drop kinds that may have a line again; return how many failures had none."""
        old = [kind for kind, (at, _) in kinds.items() if now - at >= FAILURE_S]
        return sum(kinds.pop(kind)[1] for kind in old)
