"""Halts partitions in which too many records are unreadable.

A producer with another format, or a wrong topic, would turn a whole partition into committed dead letters.
Beyond the limits the partition is halted instead: earlier records are answered and committed, later ones stay
uncommitted. The partition is resumed after a pause, which doubles with each halt in a row.
The limits are those of getsentry/arroyo's dead-letter policy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from fivestage.core.ledger import PartitionKey

MAX_PAUSES: Final = 16
"""The longest pause, as a multiple of the first one."""


@dataclass(frozen=True, slots=True)
class HaltPolicy:
    """When a partition is halted, and for how long."""

    max_ratio: float = 0.5
    """The largest share of unreadable records among the last *window*; 0 = any."""
    max_consecutive: int = 1000
    """The longest run of unreadable records; 0 = any length."""
    window: int = 1000
    """Number of records that the share refers to; with fewer it does not apply."""
    pause_s: float = 60.0
    """Seconds of the first pause; 0 = until the service restarts."""


class Halt(NamedTuple):
    """Why and until when a partition is halted."""

    reason: str
    until: float | None
    """Monotonic seconds; None = until the service restarts."""


class _Recent:
    """The recent records of one partition."""

    __slots__ = ("consecutive", "pauses", "since_halt", "unreadable", "window")

    def __init__(self) -> None:
        self.consecutive = 0
        self.window: deque[bool] = deque()
        self.unreadable = 0
        self.pauses = 0
        """How often in a row the partition was halted."""
        self.since_halt = 0


class HaltGuard:
    """Judges the records of all partitions, and lists the halted partitions.

    >>> guard = HaltGuard(HaltPolicy(max_consecutive=2))
    >>> [guard.admit(PartitionKey("t", 0), readable=False, now=0.0) for _ in range(3)]
    [True, True, False]
    >>> guard.halted[PartitionKey("t", 0)].until
    60.0
    """

    def __init__(self, policy: HaltPolicy) -> None:
        self._policy = policy
        self._recent: dict[PartitionKey, _Recent] = {}
        self.halted: dict[PartitionKey, Halt] = {}

    def admit(self, key: PartitionKey, *, readable: bool, now: float) -> bool:
        """Return True if a record may be processed; False if its partition is now halted at this record."""
        recent = self._recent.get(key)
        if recent is None:
            recent = self._recent[key] = _Recent()
        if not readable and (reason := self._beyond(recent)) is not None:
            self._halt(key, recent, reason, now)
            return False
        self._enter(recent, readable=readable)
        return True

    def _beyond(self, recent: _Recent) -> str | None:
        """The limit that one more unreadable record would exceed, as text; None for none."""
        policy = self._policy
        if policy.max_consecutive and recent.consecutive >= policy.max_consecutive:
            return f"{policy.max_consecutive} records in a row could not be read (dlq.max_consecutive)"
        if policy.max_ratio and len(recent.window) >= policy.window:
            unreadable = recent.unreadable + recent.window[0]  # the oldest record leaves the window
            if unreadable > policy.max_ratio * policy.window:
                return f"{unreadable} of {policy.window} records could not be read (dlq.max_ratio)"
        return None

    def _enter(self, recent: _Recent, *, readable: bool) -> None:
        recent.consecutive = 0 if readable else recent.consecutive + 1
        recent.window.append(readable)
        recent.unreadable += not readable
        if len(recent.window) > self._policy.window:
            recent.unreadable -= not recent.window.popleft()
        recent.since_halt += 1
        if recent.since_halt > self._recovered_after and recent.consecutive == 0:
            recent.pauses = 0

    @property
    def _recovered_after(self) -> int:
        """Records after a halt, the last of them readable, after which the next halt has the first pause."""
        return max(self._policy.window, self._policy.max_consecutive)

    def _halt(self, key: PartitionKey, recent: _Recent, reason: str, now: float) -> None:
        pause_s = self._policy.pause_s * min(2**recent.pauses, MAX_PAUSES)
        again = _Recent()
        again.pauses = recent.pauses + 1
        self._recent[key] = again
        self.halted[key] = Halt(reason, now + pause_s if pause_s else None)

    def over(self, now: float) -> list[PartitionKey]:
        """The halted partitions whose pause is over."""
        return [key for key, halt in self.halted.items() if halt.until is not None and halt.until <= now]

    def resume(self, key: PartitionKey) -> None:
        """Consume a partition again."""
        del self.halted[key]
