"""A circuit breaker: a node that keeps failing is left alone for a while, then tried with one call.

The closed state is the count-based sliding window of resilience4j's CircuitBreaker: the rates of failed
and of slow calls among the last ones, judged after every call once there are enough. Half open is
stricter than there: probes run one at a time, and the first that fails opens it anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class BreakerState(StrEnum):
    """Whether calls may pass."""

    CLOSED = "closed"
    """All calls pass."""
    OPEN = "open"
    """None passes."""
    HALF_OPEN = "half_open"
    """One probe at a time passes."""


_CLOSED: Final = BreakerState.CLOSED
_OPEN: Final = BreakerState.OPEN
_HALF_OPEN: Final = BreakerState.HALF_OPEN


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, for how long, and what closes it.

    Rates are of the last *window* calls, and count from *minimum_calls* of them on. It stays open for
    *open_s* and up to *open_jitter* of it more, so that many breakers do not probe at the same moment.
    Then *half_open_calls* good probes in a row close it; a probe not heard of for *probe_timeout_s* no
    longer holds up the next.
    """

    failure_rate: float = 0.3
    slow_call_rate: float = 1.0
    window: int = 100
    minimum_calls: int = 20
    open_s: float = 30.0
    half_open_calls: int = 1
    open_jitter: float = 0.2
    probe_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.minimum_calls <= self.window:
            raise ValueError(
                "need 1 <= minimum_calls <= window, "
                f"got minimum_calls={self.minimum_calls} window={self.window}"
            )
        if self.half_open_calls < 1:
            raise ValueError(f"half_open_calls must be at least 1, got {self.half_open_calls}")
        if not 0 <= self.open_jitter < inf:
            raise ValueError(f"open_jitter must be at least 0, got {self.open_jitter}")
        for name, rate in (("failure_rate", self.failure_rate), ("slow_call_rate", self.slow_call_rate)):
            if not 0 < rate <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {rate}")
        for name, seconds in (("open_s", self.open_s), ("probe_timeout_s", self.probe_timeout_s)):
            if not 0 < seconds < inf:
                raise ValueError(f"{name} must be above 0, got {seconds}")


class Breaker:
    """The state of one breaker.

    The caller asks before a call and tells after it: while closed it calls and records; while half open
    it calls only with a permit of ``try_probe`` and records that call as a probe, or releases the permit.

    Args:
        policy: When to open and close.
        jitter: Gives 0..1; asked once each time it opens.
    """

    __slots__ = (
        "_calls", "_failed", "_good_probes", "_jitter", "_open_until", "_probe_until", "_slow", "_state",
        "opened_count", "policy",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy, jitter: Callable[[], float]) -> None:
        self.policy = policy
        self.opened_count = 0
        """How often it opened, a failed probe's included."""
        self._jitter = jitter
        self._state: BreakerState = _CLOSED
        self._calls: deque[tuple[bool, bool]] = deque()
        self._failed = 0
        self._slow = 0
        self._open_until = 0.0
        self._good_probes = 0
        self._probe_until: float | None = None

    def __repr__(self) -> str:
        calls = f"calls={len(self._calls)} failed={self._failed} slow={self._slow}"
        return f"<Breaker {self._state} {calls} opened={self.opened_count}>"

    def state(self, now: float) -> BreakerState:
        """Where it stands; being asked after the open time is what makes it half open."""
        if self._state is _OPEN and now >= self._open_until:
            self._state = _HALF_OPEN
            self._good_probes = 0
        return self._state

    def try_probe(self, now: float) -> bool:
        """Take the permit for a probe. False when it is out, or not half open.

        A permit whose outcome has not come within the policy's ``probe_timeout_s`` is handed out again.
        """
        if self.state(now) is not _HALF_OPEN:
            return False
        if self._probe_until is not None and now < self._probe_until:
            return False
        self._probe_until = now + self.policy.probe_timeout_s
        return True

    def release_probe(self) -> None:
        """The probe was not run, or was cut for a reason that is not the node's: the permit is free again."""
        self._probe_until = None

    def record(self, now: float, *, failed: bool, slow: bool = False, probe: bool = False) -> None:
        """A call ended.

        While closed it enters the window, while half open it counts if it is a probe. Anything else began
        in an earlier state and says nothing about this one.

        Args:
            now: Monotonic seconds.
            failed: The node's fault.
            slow: It took too long, failed or not; of no account in a probe.
            probe: It ran with a permit of ``try_probe``.
        """
        if self._state is _CLOSED:
            if not probe:
                self._enter(failed=failed, slow=slow)
                if self._is_tripped():
                    self._open(now)
        elif probe and self._state is _HALF_OPEN:
            self._probe_ended(now, failed=failed)

    def _enter(self, *, failed: bool, slow: bool) -> None:
        calls = self._calls
        if len(calls) == self.policy.window:
            had_failed, was_slow = calls.popleft()
            self._failed -= had_failed
            self._slow -= was_slow
        calls.append((failed, slow))
        self._failed += failed
        self._slow += slow

    def _is_tripped(self) -> bool:
        policy, calls = self.policy, len(self._calls)
        if calls < policy.minimum_calls:
            return False
        return self._failed / calls >= policy.failure_rate or self._slow / calls >= policy.slow_call_rate

    def _open(self, now: float) -> None:
        self._state = _OPEN
        self._open_until = now + self.policy.open_s * (1 + self.policy.open_jitter * self._jitter())
        self.opened_count += 1
        self._calls.clear()
        self._failed = self._slow = 0

    def _probe_ended(self, now: float, *, failed: bool) -> None:
        self._probe_until = None
        if failed:
            self._open(now)
            return
        self._good_probes += 1
        if self._good_probes >= self.policy.half_open_calls:
            self._state = _CLOSED
