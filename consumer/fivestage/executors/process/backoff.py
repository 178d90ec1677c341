"""Failures in a row: how long to pause, and when to log. Pure: it takes ``now``."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 1.0
LOG_EVERY_S: Final = 10.0


class Trouble:
    """Counts what fails until something succeeds."""

    def __init__(self) -> None:
        self._logged_at: float | None = None
        self.count = 0
        self.why: str | None = None
        """The reason of the last failure; None while all is well."""

    def __repr__(self) -> str:
        return f"<Trouble {self.count} times: {self.why}>"

    def add(self, why: str, now: float) -> bool:
        """Count one more failure; whether it is to be logged, which is once in a while."""
        self.why = why
        self.count += 1
        due = self._logged_at is None or now - self._logged_at >= LOG_EVERY_S
        if due:
            self._logged_at = now
        return due

    def over(self) -> bool:
        """Something succeeded; whether there was trouble before."""
        was, self.why, self.count, self._logged_at = self.why, None, 0, None
        return was is not None

    @property
    def pause_s(self) -> float:
        """How long to wait before the next attempt."""
        return float(min(FIRST_PAUSE_S * 2.0 ** min(max(self.count - 1, 0), 10), MAX_PAUSE_S))
