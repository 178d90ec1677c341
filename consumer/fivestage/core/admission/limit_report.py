"""Reports changes of the concurrency limit, at most one in ten seconds."""

from __future__ import annotations

from math import inf
from typing import Final

from fivestage.core.observer import ControlChange

REPORT_S: Final = 10.0
"""Fewest seconds between two reports."""


class LimitReport:
    """Merges the changes since the last report: the limit before the first, the reason of the last."""

    __slots__ = ("_change", "_old", "_reported_at", "_why", "is_pending")

    def __init__(self) -> None:
        self.is_pending = False
        self._old = 0
        self._change = self._why = ""
        self._reported_at = -inf

    def note(self, old: int, change: str, why: str) -> None:
        """Record a change of the limit from *old*: ``lowered``, ``raised`` or ``restored``."""
        if not self.is_pending:
            self._old = old
        self.is_pending, self._change, self._why = True, change, why

    def take(self, now: float, limit: int) -> ControlChange | None:
        """Return the merged change to *limit*; None before a report is due, or if *limit* is the old one."""
        if not self.is_pending or now < self._reported_at + REPORT_S:
            return None
        self.is_pending = False
        old, change = self._old, self._change
        if old == limit:
            return None
        if change != "restored":
            change = "lowered" if limit < old else "raised"
        self._reported_at = now
        return ControlChange("concurrency_limit", change, f"{old} -> {limit}: {self._why}")
