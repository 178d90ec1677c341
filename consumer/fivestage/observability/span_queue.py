"""Makes the spans of ended queries in time slices: the broker may acknowledge hundreds of queries at once."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from fivestage.core.time_slice import TimeSlice

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from fivestage.observability.query_spans import SpanMaker
    from fivestage.observability.query_trace import Ending

MAX_WAITING: Final = 4096
"""Queries whose spans are not made yet. With more, more are sampled than there is time for."""
REPORT_S: Final = 30.0
"""How often at most the log says that spans were left out."""

log = structlog.get_logger("fivestage.tracing")


class SpanQueue:
    """Queries that have ended and whose spans are not made yet. Used on the bus loop.

    Args:
        spans: Makes the spans.
    """

    def __init__(self, spans: SpanMaker) -> None:
        self._spans = spans
        self._waiting: deque[tuple[Span, Ending]] = deque()
        self._is_scheduled = False
        self._left_out = 0
        """Queries since the last report."""
        self._waits_to_report = False
        self._has_failed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<SpanQueue of {len(self)}>"

    def add(self, process: Span, ending: Ending) -> None:
        """Have the spans of a query made soon, or left out if too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            self._left_out += 1
            if not self._waits_to_report:
                self._report()
            return
        self._waiting.append((process, ending))
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._make_slice)

    def _make_slice(self) -> None:
        loop = asyncio.get_running_loop()
        turn, waiting = TimeSlice(loop.time), self._waiting
        while waiting and not turn.is_over():
            process, ending = waiting.popleft()
            try:
                self._spans.make(process, ending)
            except Exception as error:  # noqa: BLE001 - the span processors may be the operator's own
                self._failed(error)
        self._is_scheduled = bool(waiting)
        if waiting:
            loop.call_soon(self._make_slice)

    def _report(self) -> None:
        """Log how many queries were left out since the last report, and again later if there are more."""
        self._waits_to_report = self._left_out > 0
        if self._left_out:
            log.warning("spans left out", queries=self._left_out)
            self._left_out = 0
            asyncio.get_running_loop().call_later(REPORT_S, self._report)

    def _failed(self, error: Exception) -> None:
        """Log the first failure: there may be one for each query."""
        if not self._has_failed:
            self._has_failed = True
            log.warning("the spans of a query could not be made", error_type=type(error).__name__)
