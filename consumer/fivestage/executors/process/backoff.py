"""Counts failures in a row: how long to pause, and when to log. Pure: it takes ``now``."""

from __future__ import annotations

from typing import Final

from fivestage.core.backoff import backoff_s

FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 1.0
LOG_EVERY_S: Final = 10.0


class Backoff:
    """Counts failures until something succeeds."""

    def __init__(self) -> None:
        self._logged_at: float | None = None
        self.failures = 0
        self.reason: str | None = None
        """The reason of the last failure; None since the last success."""

    def __repr__(self) -> str:
        return f"<Backoff {self.failures} times: {self.reason}>"

    def failed(self, reason: str, now: float) -> bool:
        """Count a failure; return whether to log it, at most every LOG_EVERY_S."""
        self.reason = reason
        self.failures += 1
        due = self._logged_at is None or now - self._logged_at >= LOG_EVERY_S
        if due:
            self._logged_at = now
        return due

    def succeeded(self) -> bool:
        """Start again from zero; return whether there was a failure before."""
        had_failed, self.reason, self.failures, self._logged_at = self.reason is not None, None, 0, None
        return had_failed

    @property
    def pause_s(self) -> float:
        """Seconds to wait before the next attempt."""
        return backoff_s(max(self.failures - 1, 0), first_s=FIRST_PAUSE_S, max_s=MAX_PAUSE_S)
