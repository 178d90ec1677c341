"""A concurrency limit that is lowered only where that was seen to lose nothing.

At a fixed rate of arrivals, concurrency is rate times latency (Little's law): whatever makes a node slower
also makes more queries run, so that both rise together does not say which caused which. Only changing the
limit shows. So a latency that rises with concurrency, or many timeouts, are a reason for a *trial*: the limit
is lowered, and stays so if the goodput (queries that ended in time, per second) did not fall.

- The limit starts at its maximum. It matters, and is learned, only while queries wait for a slot.
- *Lower*: where queries take significantly longer than those that started among a quarter of the limit
  took, or many time out, or, once a minute, to see what happens. A trial that lost goodput is undone, the
  latency of that time is taken for normal, and the next trial has to wait, each time twice as long.
- *Raise*: by up to half at each look while latency is normal. Where it is not, twice the limit is tried from
  time to time, and kept if goodput rises with it.
- After half a minute in which nothing waited the limit is the maximum again.

Sources: that latency beyond a tolerance means a queue, and the ratio of both by how much to change the
limit, is from Gradient2 of Netflix/concurrency-limits. There a baseline follows the latency, so a node that
becomes slower for reasons of its own is throttled for minutes. Measuring what is normal at little load, and
going up and down now and then to look, is from BBR's ProbeBW and ProbeRTT (Cardwell et al. 2016). Keeping
a change by its effect on throughput is hill climbing, as in the .NET thread pool (Hellerstein et al. 2008).
Ours is that latency alone never lowers the limit, and that what is normal is learned by the concurrency
at the start of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, hypot, inf, isfinite, log
from typing import Final

from fivestage.core.admission.latency import LOG_MIN, MIN_LATENCY_S, Latency, LatencyProfile, Window
from fivestage.core.admission.limit_trial import HALF, Pace, Trial
from fivestage.core.observer import ControlChange

CONFIDENCE: Final = 3.0
"""Standard errors by which a latency must be beyond the tolerance."""
SLOW_WINDOWS: Final = 2
"""So many windows in a row must be slow, or have timeouts: after a pause of a node one is so. Where nearly
all time out, one is enough."""
MARGIN: Final = 1.25
"""A limit that was set to bring latency to the tolerance is changed again when off by this factor."""
MAX_DOWN_S, MAX_UP_S = 60.0, 30.0
"""The longest times between trials downwards and upwards."""
RAISE: Final = 1.5
RAISE_S: Final = 0.05
"""While latency is normal the limit is raised after so long, or the typical latency where that is longer."""
NEARLY_ALL: Final = 0.9
IN_TIME_AGAIN: Final = 20
"""Timeouts are over when so many queries in a row were in time since."""
EXPLORE_S, EXPLORE_LATENCIES = 60.0, 300.0
"""After so long at the limit, and as many times the latency, a lower one is tried without further reason."""
FORGET: Final = 0.05
"""So much of what was a normal share of timeouts is forgotten in a window with fewer."""
QUIET_S: Final = 30.0
"""After so long in which nothing waited the limit is the maximum again."""
REPORT_S: Final = 1.0
"""Changes are reported at most once in this time."""


@dataclass(frozen=True, slots=True)
class LimiterPolicy:
    """Where the limit may go, and on what evidence.

    Args:
        max_limit: Never more than this in flight; the first limit.
        min_limit: Never fewer; where it is above *max_limit*, it is *max_limit*.
        tolerance: How many times the normal latency is aimed at.
        window_s: Shortest window.
        window_samples: Fewest samples in a window.
        drop_share: Share of timeouts, beyond what is normal, that makes a lower limit worth a trial.
    """

    max_limit: int
    min_limit: int = 4
    tolerance: float = 1.5
    window_s: float = 0.25
    window_samples: int = 20
    drop_share: float = 0.25

    def __post_init__(self) -> None:
        if self.max_limit < 1 or self.min_limit < 1:
            raise ValueError(f"limits are at least 1, got min={self.min_limit} max={self.max_limit}")
        object.__setattr__(self, "min_limit", min(self.min_limit, self.max_limit))
        if not (self.tolerance >= 1 and isfinite(self.tolerance)):
            raise ValueError(f"tolerance is at least 1, got {self.tolerance}")
        if self.window_samples < 1:
            raise ValueError(f"window_samples is at least 1, got {self.window_samples}")
        if not (self.window_s >= 0 and isfinite(self.window_s)):
            raise ValueError(f"window_s is at least 0, got {self.window_s}")
        if not 0 < self.drop_share <= 1:
            raise ValueError(f"drop_share is more than 0, at most 1, got {self.drop_share}")


class ConcurrencyLimiter:
    """The state of a LimiterPolicy: give it how each query ended, read from it how many may run."""

    __slots__ = (
        "_bound_at", "_bound_since", "_changed_at", "_closes_at", "_down", "_ended_at",
        "_last_goodput", "_late", "_length_s", "_looks_at", "_normal_drops", "_policy", "_profile",
        "_report", "_reported_at", "_slow", "_trial", "_typical_s", "_up", "_window", "limit",
    )  # fmt: skip

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self.limit = policy.max_limit
        """How many may run now."""
        self._profile = LatencyProfile()
        self._window = Window()
        self._length_s = self._ended_at = self._closes_at = self._looks_at = 0.0
        self._typical_s = 0.0
        self._changed_at = -inf
        self._bound_at = -inf
        """When a query last ended while others waited for its slot, or the limit last changed."""
        self._bound_since = inf
        """Since when all did, or since the last trial downwards that failed."""
        self._slow = 0
        """How many windows in a row were slow."""
        self._late = 0
        """In how many in a row many timed out."""
        self._last_goodput = 0.0
        self._normal_drops = 0.0
        self._trial: Trial | None = None
        self._down, self._up = Pace(MAX_DOWN_S), Pace(MAX_UP_S)
        self._report: tuple[int, str, str] | None = None
        self._reported_at = -inf

    def __repr__(self) -> str:
        policy = self._policy
        normal = self._normal()
        known = "unknown" if normal is None else f"{normal.seconds * 1000:.1f} ms"
        return (
            f"<ConcurrencyLimiter limit={self.limit} in {policy.min_limit}..{policy.max_limit}"
            f" latency={self._typical_s * 1000:.1f} ms normal={known}{' trial' if self._trial else ''}>"
        )

    def started(self, now: float) -> None:
        """A query starts: after a quiet time the limit is the maximum again."""
        if self.limit < self._policy.max_limit and now - self._bound_at >= QUIET_S:
            self._note("raised", f"nothing waited for {QUIET_S:.0f} s")
            self._trial = None
            self._move(self._policy.max_limit, now)

    def record(
        self, now: float, *, latency_s: float, started_among: int, running: int, waiting: bool, dropped: bool
    ) -> ControlChange | None:
        """Learn from a query that has ended.

        Args:
            now: Monotonic seconds.
            latency_s: How long it ran.
            started_among: How many ran when it had started, itself included.
            running: How many run now, itself included.
            waiting: Others wait for its slot.
            dropped: It was given up at its deadline: it would have taken at least *latency_s*.

        Returns:
            What there is to report about the limit, seldom anything and at most once a second.
        """
        policy = self._policy
        if policy.min_limit == policy.max_limit:
            return None
        earlier = now - latency_s < self._changed_at
        if dropped and latency_s < self._typical_s:
            latency_s = self._typical_s
        log_s = log(latency_s) if latency_s > MIN_LATENCY_S else LOG_MIN
        self._profile.add(started_among, log_s)
        trial = self._trial
        if trial is not None and not trial.has_settled(now, earlier=earlier, running=running):
            return None
        window = self._window
        if not window.ended:
            self._open(window, now)
        elif now - self._ended_at > self._length_s:  # a pause, or nothing came
            window = self._window = Window()
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
        if now >= self._looks_at and window.samples >= policy.window_samples:
            self._look(window, now)
        return None if self._report is None else self._reported(now)

    def _open(self, window: Window, now: float) -> None:
        """Start a window, for a whole number of latencies: calls that started together end together."""
        typical_s = self._typical_s
        length_s = self._policy.window_s
        if typical_s:
            length_s = typical_s * max(2, ceil(length_s / typical_s))
        window.opened_at = now
        self._length_s = length_s
        self._closes_at = self._looks_at = now + length_s
        if self._trial is None and self.limit < self._policy.max_limit:
            self._looks_at = min(self._closes_at, now + max(RAISE_S, typical_s))

    def _look(self, window: Window, now: float) -> None:
        """See what a window says: all if it is over, else only whether the limit may be raised."""
        if now < self._closes_at:
            if window.all_bound:
                self._raise(window, now)
            return
        self._window = Window()
        self._typical_s = window.latency().seconds
        if self._trial is not None:
            self._judge(self._trial, window, now)
        else:
            self._consider(window, now)

    def _normal(self) -> Latency | None:
        return self._profile.below(max(4, self.limit // 4))

    def _consider(self, window: Window, now: float) -> None:
        """Draw conclusions from a window."""
        policy = self._policy
        goodput, self._last_goodput = self._last_goodput, window.goodput(now)
        goodput = max(goodput, self._last_goodput)
        self._bound_since = min(self._bound_since, window.opened_at) if window.all_bound else inf
        why = self._reason(window, now)
        if why and self._down.is_due(now):
            limit = self._lower(window)
            if limit < min(self.limit, window.running):
                self._try(limit, window, goodput, why, now)
                return
        if not window.all_bound or self.limit == policy.max_limit or self._raise(window, now):
            return
        if abs(window.latency().mean - self._up.latency) > log(policy.tolerance * MARGIN):
            self._up.restart()  # it is another node now
        if self._up.is_due(now) and not (self._slow and self.limit > policy.min_limit):
            limit = min(policy.max_limit, 2 * self.limit)
            self._try(limit, window, goodput, "queries wait", now)

    def _reason(self, window: Window, now: float) -> str:
        """Why a lower limit might be better; empty if nothing says so."""
        latency, normal = window.latency(), self._normal()
        self._normal_drops -= max(0.0, self._normal_drops - window.drop_share) * FORGET
        many = min(1.0, self._normal_drops + self._policy.drop_share)
        late = window.drop_share >= many and window.in_time < IN_TIME_AGAIN
        nearly_all = window.drop_share >= NEARLY_ALL
        self._late = (SLOW_WINDOWS if nearly_all else self._late + 1) if late else 0
        if self._late >= SLOW_WINDOWS:
            return f"{window.dropped} of {window.ended} timed out"
        if not window.all_bound:
            self._slow = 0
            return ""
        if normal is not None:
            margin = log(self._policy.tolerance * MARGIN) + CONFIDENCE * hypot(latency.error, normal.error)
            self._slow = self._slow + 1 if latency.mean > normal.mean + margin else 0
            if self._slow >= SLOW_WINDOWS:
                times = latency.seconds / normal.seconds
                return (
                    f"latency {latency.seconds * 1000:.0f} ms is {times:.1f} times"
                    f" the normal {normal.seconds * 1000:.0f} ms"
                )
        if now - self._bound_since >= max(EXPLORE_S, EXPLORE_LATENCIES * latency.seconds):
            return f"queries waited for {now - self._bound_since:.0f} s"
        return ""

    def _lower(self, window: Window) -> int:
        """The limit to try: what brings latency to the tolerance, but half where there is much to lose."""
        normal, least = self._normal(), self._policy.min_limit
        now_used = min(self.limit, window.running)
        fitting = 0.0
        if normal is not None:
            fitting = now_used * self._policy.tolerance * normal.seconds / window.latency().seconds
        half = now_used * HALF
        if window.drop_share >= NEARLY_ALL:
            fitting = 0.0
        elif window.drop_share >= HALF:
            fitting = min(fitting, half)
        elif fitting < half or fitting > now_used / MARGIN:
            fitting = half
        return max(least, int(fitting))

    def _raise(self, window: Window, now: float) -> bool:
        """Raise the limit where latency is normal; return whether it was."""
        normal, latency = self._normal(), window.latency()
        if normal is None:
            return False
        factor = min(RAISE, self._policy.tolerance * normal.seconds / latency.seconds)
        if factor < MARGIN:
            return False
        self._note("raised", f"latency {latency.seconds * 1000:.0f} ms is normal, and queries wait")
        self._move(min(self._policy.max_limit, ceil(self.limit * factor)), now)
        return True

    def _try(self, limit: int, window: Window, goodput: float, why: str, now: float) -> None:
        self._trial = Trial(self.limit, limit, window, goodput, why, now)
        self._move(limit, now)

    def _judge(self, trial: Trial, window: Window, now: float) -> None:
        """Keep the limit that was tried, or go back."""
        self._trial = None
        goodput, lowered = window.goodput(now), self.limit < trial.old
        if trial.is_proportional(goodput):
            before = trial.before if lowered else window
            self._profile.replace(before.latency())
            self._normal_drops = before.drop_share
        if trial.is_kept(window, goodput):
            self._keep(trial, window, goodput, now)
            return
        latency = trial.before.latency().mean
        if lowered:
            self._bound_since = now
            self._down.failed(now, now - trial.started_at, latency)
            figures = f"{goodput:.0f} instead of {trial.goodput:.0f} a second ended in time"
            self._note("restored", f"with fewer, {figures}")
        else:
            self._up.failed(now, now - trial.started_at, latency)
        self._move(trial.old, now)

    def _keep(self, trial: Trial, window: Window, goodput: float, now: float) -> None:
        figures = f"{goodput:.0f} instead of {trial.goodput:.0f} a second end in time"
        self._up.restart()
        if self.limit < trial.old:
            self._down.restart()
            self._up.failed(now, 0.0, window.latency().mean)  # it was higher just now
            self._note("lowered", f"{trial.why}; {figures}", trial.old)
        else:
            self._note("raised", f"{trial.why}; {figures}", trial.old)
        self._move(self.limit, now)

    def _move(self, limit: int, now: float) -> None:
        self.limit = limit
        self._changed_at = self._bound_at = now
        self._window = Window()
        self._slow, self._late, self._last_goodput = 0, 0, 0.0

    def _note(self, change: str, why: str, old: int | None = None) -> None:
        """Have a change reported; one that waits for that is replaced, and what it was at first is kept."""
        old = self.limit if old is None else old
        self._report = (old if self._report is None else self._report[0], change, why)

    def _reported(self, now: float) -> ControlChange | None:
        if self._report is None or now < self._reported_at + REPORT_S:
            return None
        (old, change, why), self._report = self._report, None
        if old == self.limit:
            return None
        if change != "restored":
            change = "lowered" if self.limit < old else "raised"
        self._reported_at = now
        return ControlChange("concurrency_limit", change, f"{old} -> {self.limit}: {why}")
