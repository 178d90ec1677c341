"""Failures in a row: how long to pause, when to log, when to give up. Pure: it takes ``now``."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 1.0
LOG_EVERY_S: Final = 10.0


class Trouble:
    """Counts what fails until something succeeds.

    Args:
        give_up_s: How long it may take until something succeeds.
    """

    def __init__(self, give_up_s: float) -> None:
        self._give_up_s = give_up_s
        self._since = 0.0
        self._logged_at: float | None = None
        self.count = 0
        self.why: str | None = None
        """The reason of the last failure; None while all is well."""

    def __repr__(self) -> str:
        return f"<Trouble {self.count} times: {self.why}>"

    def add(self, why: str, now: float) -> bool:
        """Count one more failure; whether it is to be logged, which is once in a while."""
        if self.why is None:
            self._since = now
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

    def lasts_too_long(self, now: float) -> bool:
        """Whether it is time to give up."""
        return self.why is not None and now - self._since >= self._give_up_s
