"""Adaptive concurrency limit: lowered only where a trial showed that no answers are lost.

At a fixed rate of arrivals, concurrency is rate times latency (Little's law): whatever makes a node slower
also makes more queries run. That both rise together does not show which is the cause; only a change of the
limit does. So a latency that rises with concurrency, or many timeouts, start a *trial*: the limit is lowered,
and stays lower if the goodput (queries that ended in time, per second) did not fall.

- The limit starts at its maximum. It matters, and is learned, only while queries wait for a slot.
- *Lower*: where queries take significantly longer than those that started while at most a quarter of the
  limit ran, or many time out, or as an experiment about once a minute. A trial that lost goodput is undone,
  and the time to the next one doubles. If goodput fell with the limit, the latency before counts as normal.
- *Raise*: by up to half at each evaluation while latency is normal. Otherwise twice the limit is tried from
  time to time, and kept if goodput rises enough.
- The first query that starts after half a minute without waiting queries restores the maximum.

Sources: that latency beyond a tolerance means a queue, and the ratio of both gives the new limit, is from
Gradient2 of Netflix/concurrency-limits. There a baseline follows the latency, so a node that becomes slower
for other reasons is throttled for minutes. Measuring the normal latency at little load, and occasional
probing up and down, is from BBR's ProbeBW and ProbeRTT (Cardwell et al. 2016). Keeping a change by its effect
on throughput is hill climbing, as in the .NET thread pool (Hellerstein et al. 2008). New here: latency alone
never lowers the limit, and latency is recorded by the concurrency at the start of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log
from typing import TYPE_CHECKING, Final

from fivestage.core.admission.latency import LOG_MIN, MIN_LATENCY_S, Latency, LatencyProfile, QueryWindow
from fivestage.core.admission.limit_evidence import MARGIN, NEARLY_ALL, LimitEvidence
from fivestage.core.admission.limit_report import LimitReport
from fivestage.core.admission.limit_trial import Trial, TrialBackoff

if TYPE_CHECKING:
    from fivestage.core.observer import ControlChange

MAX_DOWN_S, MAX_UP_S = 60.0, 30.0
"""Longest backoffs, in seconds, between trials of a lower and of a higher limit."""
LEFT_SHARE: Final = 0.5
"""The part of the limit that a trial leaves: at least this without many timeouts, and just this where latency
gives no lower figure."""
MAX_RAISE: Final = 1.5
"""The largest factor of one raise."""
RAISE_S: Final = 0.05
"""Seconds between raises while latency is normal; the mean latency where that is longer."""
MANY_DROPS: Final = 0.5
"""The share of timeouts from which a trial takes away at least half of the limit; from NEARLY_ALL on, all but
the minimum."""
QUIET_S: Final = 30.0
"""Seconds without a waiting query after which the next start restores the maximum."""


@dataclass(frozen=True, slots=True)
class LimiterPolicy:
    """The bounds of the limit, and the evidence that a change takes.

    Args:
        max_limit: The largest limit, and the initial one.
        min_limit: The smallest limit, at most *max_limit*. Equal bounds fix the limit.
        tolerance: The latency to aim at, as a multiple of the normal latency.
        window_s: Shortest window, in seconds.
        window_samples: Fewest samples in a window.
        drop_share: Share of timeouts, above their normal share, that starts a trial of a lower limit.
    """

    max_limit: int
    min_limit: int = 4
    tolerance: float = 1.5
    window_s: float = 0.25
    window_samples: int = 20
    drop_share: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_limit", min(self.min_limit, self.max_limit))


class ConcurrencyLimiter:
    """Learns the limit from how each query ended; ``limit`` is how many may run now."""

    __slots__ = (
        "_bound_at", "_changed_at", "_closes_at", "_down", "_ended_at", "_evaluates_at", "_evidence",
        "_last_goodput", "_length_s", "_mean_s", "_policy", "_profile", "_report", "_trial", "_up", "_window",
        "limit",
    )  # fmt: skip

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self.limit = policy.max_limit
        self._profile = LatencyProfile()
        self._window = QueryWindow()
        self._length_s = self._ended_at = self._closes_at = self._evaluates_at = 0.0
        self._mean_s = 0.0
        """The mean latency of the last window."""
        self._changed_at = -inf
        self._bound_at = -inf
        """When a query last ended while others waited for its slot, or the limit last changed."""
        self._evidence = LimitEvidence(policy)
        self._last_goodput = 0.0
        self._trial: Trial | None = None
        self._down, self._up = TrialBackoff(MAX_DOWN_S), TrialBackoff(MAX_UP_S)
        self._report = LimitReport()

    def __repr__(self) -> str:
        policy = self._policy
        normal = self._normal()
        known = "unknown" if normal is None else f"{normal.seconds * 1000:.1f} ms"
        return (
            f"<ConcurrencyLimiter limit={self.limit} in {policy.min_limit}..{policy.max_limit}"
            f" latency={self._mean_s * 1000:.1f} ms normal={known}{' trial' if self._trial else ''}>"
        )

    def started(self, now: float) -> None:
        """Called when a query starts: restores the maximum after QUIET_S in which none waited."""
        if self.limit < self._policy.max_limit and now - self._bound_at >= QUIET_S:
            self._report.note(self.limit, "raised", f"nothing waited for {QUIET_S:.0f} s")
            self._trial = None
            self._move(self._policy.max_limit, now)

    def record(
        self, now: float, *, latency_s: float, started_among: int, running: int, waiting: bool, dropped: bool
    ) -> ControlChange | None:
        """Learn from a query that has ended.

        Args:
            now: Monotonic seconds.
            latency_s: How long it ran.
            started_among: Queries that ran at its start, itself included.
            running: Queries that run now, itself included.
            waiting: Whether others wait for its slot.
            dropped: It ended at its deadline, and would have taken longer than *latency_s*.

        Returns:
            A change of the limit to report, at most once in ten seconds; usually None.
        """
        policy = self._policy
        if policy.min_limit == policy.max_limit:
            return None
        earlier = now - latency_s < self._changed_at
        if dropped and latency_s < self._mean_s:
            latency_s = self._mean_s
        log_s = log(latency_s) if latency_s > MIN_LATENCY_S else LOG_MIN
        self._profile.add(started_among, log_s)
        trial = self._trial
        if trial is not None and not trial.has_settled(now, earlier=earlier, running=running):
            return None
        window = self._window
        if not window.ended:
            self._open(window, now)
        elif now - self._ended_at > self._length_s:  # after a pause, in which no query ended
            window = self._window = QueryWindow()
            self._open(window, now)
        self._ended_at = now
        window.ended += 1
        if dropped:
            window.dropped += 1
            window.in_time = 0
        else:
            window.in_time += 1
        if waiting and running >= self.limit:
            self._bound_at = now
        else:
            window.free += 1
        window.longest_s = max(window.longest_s, latency_s)
        window.running = max(window.running, running)
        if not earlier:
            window.samples += 1
            window.total += log_s
            window.squares += log_s * log_s
        if now >= self._evaluates_at and window.samples >= policy.window_samples:
            self._evaluate(window, now)
        return self._report.take(now, self.limit) if self._report.is_pending else None

    def _open(self, window: QueryWindow, now: float) -> None:
        """Start a window of a whole number of mean latencies: calls that started together end together."""
        mean_s = self._mean_s
        length_s = self._policy.window_s
        if mean_s:
            length_s = mean_s * max(2, ceil(length_s / mean_s))
        window.opened_at = now
        self._length_s = length_s
        self._closes_at = self._evaluates_at = now + length_s
        if self._trial is None and self.limit < self._policy.max_limit:
            self._evaluates_at = min(self._closes_at, now + max(RAISE_S, mean_s))

    def _evaluate(self, window: QueryWindow, now: float) -> None:
        """Evaluate a window: fully once it is over, and only for a raise before that."""
        if now < self._closes_at:
            if window.all_bound:
                self._raise(window, now)
            return
        self._window = QueryWindow()
        self._mean_s = window.latency().seconds
        if self._trial is not None:
            self._judge(self._trial, window, now)
        else:
            self._consider(window, now)

    def _normal(self) -> Latency | None:
        return self._profile.below(max(4, self.limit // 4))

    def _consider(self, window: QueryWindow, now: float) -> None:
        """Start a trial or raise the limit, if a window gives a reason."""
        policy = self._policy
        goodput, self._last_goodput = self._last_goodput, window.goodput(now)
        goodput = max(goodput, self._last_goodput)
        why = self._evidence.add(window, self._normal(), now)
        if why and self._down.is_due(now):
            limit = self._lower(window)
            if limit < min(self.limit, window.running):
                self._try(limit, window, goodput, why, now)
                return
        if not window.all_bound or self.limit == policy.max_limit or self._raise(window, now):
            return
        if abs(window.latency().mean - self._up.latency) > log(policy.tolerance * MARGIN):
            self._up.restart()  # latency has changed since the failures
        if self._up.is_due(now) and not (self._evidence.slow and self.limit > policy.min_limit):
            limit = min(policy.max_limit, 2 * self.limit)
            self._try(limit, window, goodput, "queries wait", now)

    def _lower(self, window: QueryWindow) -> int:
        """The lower limit to try: the one that would bring latency to the tolerance, within bounds."""
        normal, least = self._normal(), self._policy.min_limit
        now_used = min(self.limit, window.running)
        fitting = 0.0
        if normal is not None:
            fitting = now_used * self._policy.tolerance * normal.seconds / window.latency().seconds
        half = now_used * LEFT_SHARE
        if window.drop_share >= NEARLY_ALL:
            fitting = 0.0
        elif window.drop_share >= MANY_DROPS:
            fitting = min(fitting, half)
        elif fitting < half or fitting > now_used / MARGIN:
            fitting = half
        return max(least, int(fitting))

    def _raise(self, window: QueryWindow, now: float) -> bool:
        """Raise the limit if latency is normal; return whether it was."""
        normal, latency = self._normal(), window.latency()
        if normal is None:
            return False
        factor = min(MAX_RAISE, self._policy.tolerance * normal.seconds / latency.seconds)
        if factor < MARGIN:
            return False
        why = f"latency {latency.seconds * 1000:.0f} ms is normal, and queries wait"
        self._report.note(self.limit, "raised", why)
        self._move(min(self._policy.max_limit, ceil(self.limit * factor)), now)
        return True

    def _try(self, limit: int, window: QueryWindow, goodput: float, why: str, now: float) -> None:
        self._trial = Trial(self.limit, limit, window, goodput, why, now)
        self._move(limit, now)

    def _judge(self, trial: Trial, window: QueryWindow, now: float) -> None:
        """End a trial: keep the new limit or restore the old one."""
        self._trial = None
        goodput, lowered = window.goodput(now), self.limit < trial.old
        if trial.is_proportional(goodput):
            before = trial.before if lowered else window
            self._profile.replace(before.latency())
            self._evidence.normal_drops = before.drop_share
        if trial.is_kept(window, goodput):
            self._keep(trial, window, goodput, now)
            return
        latency = trial.before.latency().mean
        if lowered:
            self._evidence.trial_failed(now)
            self._down.failed(now, now - trial.started_at, latency)
            figures = f"{goodput:.0f} instead of {trial.goodput:.0f} a second ended in time"
            self._report.note(self.limit, "restored", f"with fewer, {figures}")
        else:
            self._up.failed(now, now - trial.started_at, latency)
        self._move(trial.old, now)

    def _keep(self, trial: Trial, window: QueryWindow, goodput: float, now: float) -> None:
        figures = f"{goodput:.0f} instead of {trial.goodput:.0f} a second end in time"
        self._up.restart()
        lowered = self.limit < trial.old
        if lowered:
            self._down.restart()
            self._up.failed(now, 0.0, window.latency().mean)  # the higher limit was in force just now
        self._report.note(trial.old, "lowered" if lowered else "raised", f"{trial.why}; {figures}")
        self._move(self.limit, now)

    def _move(self, limit: int, now: float) -> None:
        self.limit = limit
        self._changed_at = self._bound_at = now
        self._window = QueryWindow()
        self._last_goodput = 0.0
        self._evidence.limit_changed()
