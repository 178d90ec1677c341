"""What happened, in order: so that a failing seed can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Event(NamedTuple):
    """One thing that happened."""

    at: float
    """Virtual seconds."""
    who: str
    what: str
    details: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.at:10.4f}  {self.who:<8} {self.what:<24} {' '.join(map(str, self.details))}".rstrip()


class Trace:
    """Keeps events, and what was found to be wrong.

    Args:
        clock: Virtual seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.events: list[Event] = []
        self.violations: list[str] = []
        self.ended = False
        """Nothing that comes now counts."""

    def add(self, who: str, what: str, *details: object) -> None:
        """Something happened."""
        self.events.append(Event(self._clock(), who, what, details))

    def violated(self, promise: str, *details: object) -> None:
        """A promise was broken."""
        if self.ended:
            return
        self.add("CHECK", promise, *details)
        self.violations.append(f"{promise}: {' '.join(map(str, details))}")
