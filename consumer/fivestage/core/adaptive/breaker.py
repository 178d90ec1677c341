"""Circuit breaker: stops calls of a failing node for a while, then probes it with single calls.

The closed state counts calls in a sliding window, as resilience4j's CircuitBreaker does, but opens only where
the rate of failed or slow calls is significantly above its threshold, over calls and time (``recent_calls``).
Half open is stricter than in resilience4j: probes run one at a time, and the first failed probe opens the
breaker for twice as long as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.recent_calls import SPAN_S, RecentCalls, exceeds

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.adaptive.recent_calls import CallCounts


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

    Rates are judged over the last second, extended to *minimum_calls* calls, and over the last *window* calls
    (or the last second, if it has more). With a *slow_call_rate* of 1 slow calls do not count; with a
    *failure_rate* of 1 all calls must fail.

    A breaker opens for *first_open_s*, for twice as long after each failed probe, and for *open_s* at most;
    *open_jitter* adds up to this share, so that breakers do not all probe at once. If it opens again soon
    after closing (within the time for which it was open, plus a second), it opens for twice as long too.
    *half_open_calls* successful probes in a row close it; a probe without an outcome for *probe_timeout_s*
    does not block the next one. If not *enabled*, the breaker never opens.
    """

    failure_rate: float = 0.3
    slow_call_rate: float = 1.0
    window: int = 100
    minimum_calls: int = 20
    first_open_s: float = 1.0
    open_s: float = 30.0
    half_open_calls: int = 1
    open_jitter: float = 0.2
    probe_timeout_s: float = 1.0
    enabled: bool = True


class Breaker:
    """The state of one breaker.

    The caller reads the state before a call and records the call afterwards. While half open, the caller
    needs a permit of ``try_probe``, and records that call as a probe or releases the permit. A trial call
    while the breaker is open is recorded as a probe too.

    Args:
        policy: When to open and close.
        jitter: Returns 0..1; called once each time the breaker opens.
    """

    __slots__ = (
        "_closed_at", "_good_probes", "_jitter", "_lasts_s", "_open_s", "_open_until", "_probe_until",
        "_state", "policy", "recent", "why",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy, jitter: Callable[[], float]) -> None:
        self.policy = policy
        self.recent = RecentCalls(policy.window)
        """The recent calls since the breaker closed; empty while it is not closed."""
        self.why = ""
        """The reason for the state, with the figures."""
        self._jitter = jitter
        self._state: BreakerState = _CLOSED
        self._open_s = 0.0
        """The last open time without jitter; 0 if the next one is ``first_open_s``."""
        self._lasts_s = 0.0
        """The last open time with jitter."""
        self._open_until = 0.0
        self._closed_at = -inf
        self._good_probes = 0
        self._probe_until: float | None = None

    def __repr__(self) -> str:
        recent = self.recent
        calls = f"calls={recent.calls} failed={recent.failed} slow={recent.slow}"
        return f"<Breaker {self._state} {calls}>"

    def state(self, now: float) -> BreakerState:
        """Return the state; after the open time this changes it to half open."""
        if self._state is _OPEN and now >= self._open_until:
            self._state = _HALF_OPEN
            self._good_probes = 0
            self.why = f"was open for {self._lasts_s:.2g} s: one call may try the node"
        return self._state

    def retry_in_s(self, now: float) -> float | None:
        """Return how long it stays open; None if it is not open."""
        return max(0.0, self._open_until - now) if self._state is _OPEN else None

    def try_probe(self, now: float) -> bool:
        """Take the permit for a probe; False if it is taken, or the breaker is not half open.

        A permit is issued again after ``probe_timeout_s`` without an outcome or a release.
        """
        if self.state(now) is not _HALF_OPEN:
            return False
        if self._probe_until is not None and now < self._probe_until:
            return False
        self._probe_until = now + self.policy.probe_timeout_s
        return True

    def release_probe(self) -> None:
        """Return the permit: the probe was not run, or ended in a way that says nothing about the node."""
        self._probe_until = None

    def record(self, now: float, *, failed: bool, slow: bool = False, probe: bool = False) -> None:
        """Record a call that ended.

        While closed, only calls that are not probes count. While half open, only probes do; while open, only
        successful probes. All others started in an earlier state, or say nothing new, and are ignored.

        Args:
            now: Monotonic seconds.
            failed: The call failed because of the node.
            slow: The call took too long, whether it failed or not; ignored for a probe.
            probe: The call had a permit of ``try_probe``, or was a trial while the breaker was open.
        """
        if self._state is _CLOSED:
            if not probe:
                self.recent.add(now, failed=failed, slow=slow)
                if self.policy.enabled and (failed or slow):
                    self._judge(now)
        elif probe and not failed:
            self._probe_until = None
            self._good_probes += 1
            if self._good_probes >= self.policy.half_open_calls:
                self._close(now)
        elif probe and self._state is _HALF_OPEN:
            self._probe_until = None
            self._open(now, "a probe failed")

    def _judge(self, now: float) -> None:
        """Open if too many of the newest calls, or of all, failed or were slow: old ones hide no failure."""
        newest = self.recent.newest(now, self.policy.minimum_calls)
        if newest is None:
            return
        why = self._trips(newest, now) or self._trips(self.recent.kept(), now)
        if why:
            if now - self._closed_at > self._lasts_s + SPAN_S:  # otherwise it is the same disturbance
                self._open_s = 0.0
            self._open(now, why)

    def _trips(self, counts: CallCounts, now: float) -> str:
        policy, seconds = self.policy, now - counts.since
        if exceeds(counts.failed, counts.calls, policy.failure_rate, enough=policy.window):
            return f"{counts.failed} of {counts.calls} calls failed in {seconds:.1f} s"
        wanted = policy.slow_call_rate < 1
        if wanted and exceeds(counts.slow, counts.calls, policy.slow_call_rate, enough=policy.window):
            return f"{counts.slow} of {counts.calls} calls were slow in {seconds:.1f} s"
        return ""

    def _open(self, now: float, why: str) -> None:
        policy = self.policy
        self._state = _OPEN
        self._open_s = min(2 * self._open_s or policy.first_open_s, policy.open_s)
        self._lasts_s = self._open_s * (1 + policy.open_jitter * self._jitter())
        self._open_until = now + self._lasts_s
        self._good_probes = 0
        self.why = f"{why}: open for {self._lasts_s:.2g} s"
        self.recent.clear()

    def _close(self, now: float) -> None:
        self._state = _CLOSED
        self._closed_at = now
        count = self._good_probes
        self.why = "a probe was answered" if count == 1 else f"{count} probes in a row were answered"
