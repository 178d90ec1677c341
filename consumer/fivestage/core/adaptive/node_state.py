"""Learns from the calls of one node in one lane: breaker, health, recovery."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import Breaker, BreakerPolicy, BreakerState
from fivestage.core.adaptive.node_health import NodeHealth
from fivestage.core.routing_snapshot import NodeRouting
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.stage_run import StageRun

SLOW_SHARE: Final = 0.9
"""A call that took a larger share of its limit is slow."""
PATIENCE_S: Final = 1.0
"""Seconds for which timeouts of a node that used to answer do not count for its breaker, if its limit is
learned: a slower dependency needs a higher limit, which takes some samples, not an open breaker."""
RECOVERED: Final = 20
"""Answers in a row after which the earlier failures of a node on trial are dropped. A node that fails for a
fifth of the queries rarely gets there (1 %)."""
SLACK_S: Final = 1e-6
_SUCCESS: Final = Outcome.SUCCESS
_TIMEOUT: Final = Outcome.TIMEOUT
_CLOSED: Final = BreakerState.CLOSED


class NodeState:
    """The learned state of one node in one lane.

    Args:
        policy: Configuration of its breaker.
        jitter: Random numbers, 0..1, for the breaker.
    """

    __slots__ = (
        "_patient_until", "_timeout_at", "breaker", "calls", "fallback", "health", "in_a_row", "is_on_trial",
        "tried_at",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy, jitter: Callable[[], float]) -> None:
        self.breaker = Breaker(policy, jitter)
        self.health = NodeHealth()
        self.calls = 0
        """How many calls have ended."""
        self.in_a_row = 0
        """Accepted answers since the last failure or rejected answer."""
        self.is_on_trial = False
        """Whether trials or a probe are testing if the node has recovered."""
        self.fallback = ""
        """The node that answered the query when this one last failed."""
        self.tried_at = -inf
        """When the last call ended (monotonic seconds)."""
        self._timeout_at = -inf
        self._patient_until = -inf

    def record(
        self, run: StageRun, now: float, *, limit_s: float, learning: bool = False, rejected: bool = False
    ) -> None:
        """Learn from a call that has ended.

        Args:
            run: The call.
            now: Monotonic seconds.
            limit_s: The limit in force of its stage.
            learning: This limit is learned, so it may still rise.
            rejected: Validation rejected the answer: that counts for the health of the node, not for its
                breaker, which is for nodes that do not answer.
        """
        self.calls += 1
        self.tried_at = now
        if run.excused:
            self._excuse(run, now)
            return
        failed = run.outcome is not _SUCCESS
        if failed or rejected:
            self.in_a_row = 0
        else:
            self.in_a_row += 1
        if run.outcome is _TIMEOUT:
            cut_short = not had_fair_share(run, limit_s) or self._is_cut_short(run, limit_s)
            if cut_short and not run.capped:
                self.ignore(run)  # earlier stages used up its time, or the producer granted less
                return
            patient = self._note_timeout(now) and learning
            self.health.timed_out(now, run.duration_s)
            if patient and not run.probe:
                return
        elif failed:
            self.health.failed(now)
        elif rejected:
            self.health.rejected(now, run.duration_s)
        else:
            self.health.succeeded(now, run.duration_s)
        slow = run.duration_s > SLOW_SHARE * run.granted_s
        if run.probe and self.breaker.policy.slow_call_rate < 1:  # at 1 slow calls do not count
            failed = failed or slow
        self.breaker.record(now, failed=failed, slow=slow, probe=run.probe)
        if run.probe or self.is_on_trial:
            self._check_recovery(now)

    def _check_recovery(self, now: float) -> None:
        """Keep the node on trial until RECOVERED answers in a row; called for probes and calls on trial."""
        if self.breaker.state(now) is not _CLOSED:
            return
        self.is_on_trial = True
        if self.in_a_row >= RECOVERED:
            self.is_on_trial = False
            self.health.forget()

    def _is_cut_short(self, run: StageRun, limit_s: float) -> bool:
        """Whether the call had less time than its limit and than the median."""
        p50_s = self.health.p50_s
        return p50_s is not None and p50_s < inf and run.granted_s < min(limit_s, p50_s)

    def _note_timeout(self, now: float) -> bool:
        """Note a timeout; return whether the node has just become late: the limit needs a while to rise."""
        if now - self._timeout_at > PATIENCE_S:
            p95_s = self.health.p95_s
            used_to_answer = p95_s is not None and p95_s < inf
            self._patient_until = now + PATIENCE_S if used_to_answer else -inf
        self._timeout_at = now
        return now < self._patient_until

    def _excuse(self, run: StageRun, now: float) -> None:
        """Ignore an excused error; only that of a probe counts, since it shows that the node works."""
        if run.probe:
            self.breaker.record(now, failed=False, probe=True)

    def ignore(self, run: StageRun) -> None:
        """Learn nothing from a call; release its permit if it was a probe."""
        if run.probe:
            self.breaker.release_probe()

    def overtaken(self, run: StageRun) -> None:
        """Learn how long a call took at least: another one has answered first, so it was given up."""
        self.health.overtaken(run.duration_s)

    def routing(self, now: float, max_extra_load: float = 0.0) -> NodeRouting:
        """The figures of the node for the routing snapshot; with *max_extra_load* when to hedge its calls."""
        health = self.health
        hedge_after_s = health.hedge_after_s(max_extra_load) if max_extra_load else None
        score = round(health.score(now), 2)
        return NodeRouting(self.breaker.state(now), score, health.p95_s, health.p50_s, hedge_after_s)


def had_fair_share(run: StageRun, limit_s: float) -> bool:
    """Whether a stage had its limit, or the share of the total time that earlier stages must leave it."""
    return run.granted_s >= min(run.spec.fair_share_s, limit_s) - SLACK_S
