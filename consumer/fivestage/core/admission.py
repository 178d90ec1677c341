"""How many queries may be in flight: a gate with hysteresis.

Closing and opening at the same figure would pause and resume the source for every record, and each
pause throws away what was fetched ahead.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InFlightLimit:
    """The gate closes at *high* and opens again at *low*."""

    high: int
    low: int

    @classmethod
    def of(cls, max_in_flight: int) -> InFlightLimit:
        """Close when full, open again when a quarter is free."""
        return cls(max_in_flight, max_in_flight - max(1, max_in_flight // 4))

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"need 0 <= low < high, got low={self.low} high={self.high}")


class Gate:
    """The state of an InFlightLimit."""

    __slots__ = ("is_open", "limit")

    def __init__(self, limit: InFlightLimit) -> None:
        self.limit = limit
        self.is_open = True

    def __repr__(self) -> str:
        return f"<Gate {'open' if self.is_open else 'closed'} {self.limit}>"

    def update(self, in_flight: int) -> bool:
        """Take the number in flight into account; return whether the gate is open."""
        threshold = self.limit.high if self.is_open else self.limit.low + 1
        self.is_open = in_flight < threshold
        return self.is_open

    def room(self, in_flight: int) -> int:
        """How many more may be admitted now."""
        return max(0, self.limit.high - in_flight) if self.is_open else 0
