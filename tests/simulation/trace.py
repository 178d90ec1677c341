"""The events of a run in order, for reading a failing seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Event(NamedTuple):
    """An event of the run."""

    at: float
    """Virtual seconds."""
    who: str
    what: str
    details: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.at:10.4f}  {self.who:<8} {self.what:<24} {' '.join(map(str, self.details))}".rstrip()


class Trace:
    """Collects events and violations.

    Args:
        clock: Virtual seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.events: list[Event] = []
        self.violations: list[str] = []
        self.ended = False
        """Whether later events are ignored."""

    def add(self, who: str, what: str, *details: object) -> None:
        """Add an event."""
        self.events.append(Event(self._clock(), who, what, details))

    def violated(self, promise: str, *details: object) -> None:
        """Add a violation."""
        if self.ended:
            return
        self.add("CHECK", promise, *details)
        self.violations.append(f"{promise}: {' '.join(map(str, details))}")
