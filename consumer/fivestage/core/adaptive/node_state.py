"""What is learned of one node in one lane: its breaker, its health, and whether it has recovered."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import Breaker, BreakerPolicy, BreakerState
from fivestage.core.adaptive.node_health import NodeHealth
from fivestage.core.routing_snapshot import NodeRouting
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.stage_history import StageRun

SLOW_SHARE: Final = 0.9
"""A call that took more of its limit than this is a slow one."""
PATIENCE_S: Final = 1.0
"""How long a node that used to answer may be late before that counts for its breaker: a dependency that
becomes slower is met by a higher limit, which takes some samples, not an outage."""
RECOVERED: Final = 20
"""So many answers in a row of a node that was passed over, and its failures of before are forgotten. One that
fails for a fifth of the queries seldom gets there (1 %)."""
SLACK_S: Final = 1e-6
_SUCCESS: Final = Outcome.SUCCESS
_TIMEOUT: Final = Outcome.TIMEOUT
_CLOSED: Final = BreakerState.CLOSED


class NodeState:
    """One node in one lane.

    Args:
        policy: Of its breaker.
        jitter: Random numbers, 0..1, for that.
    """

    __slots__ = (
        "_patient_until", "_timeout_at", "breaker", "calls", "fallback", "health", "in_a_row", "is_on_trial",
        "tried_at",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy, jitter: Callable[[], float]) -> None:
        self.breaker = Breaker(policy, jitter)
        self.health = NodeHealth()
        self.calls = 0
        """How many have ended."""
        self.in_a_row = 0
        """Answers since its last failure."""
        self.is_on_trial = False
        """It was passed over and is called to find out whether it has recovered."""
        self.fallback = ""
        """The node that answered when this one failed last."""
        self.tried_at = -inf
        """When its last call ended (monotonic seconds)."""
        self._timeout_at = -inf
        self._patient_until = -inf

    def record(
        self, run: StageRun, now: float, *, limit_s: float, learning: bool = False, rejected: bool = False
    ) -> None:
        """One call of the node has ended.

        Args:
            run: The call.
            now: Monotonic seconds.
            limit_s: The limit of its stage.
            learning: That limit is learned, and so may still come up.
            rejected: Validation rejected the answer: that counts for the node's health. The breaker is for
                nodes that do not answer.
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
            if not had_fair_share(run, limit_s) or self._is_cut_short(run, limit_s):
                self.spare(run)  # others had used up its time, or the producer left it less
                return
            patient = self._is_new_here(now) and learning
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
        if run.probe and self.breaker.policy.slow_call_rate < 1:  # else slow ones would not have opened it
            failed = failed or slow
        self.breaker.record(now, failed=failed, slow=slow, probe=run.probe)
        if run.probe or self.is_on_trial:
            self._see_whether_recovered(now)

    def _see_whether_recovered(self, now: float) -> None:
        """After a good probe, and while it is on trial."""
        if self.breaker.state(now) is not _CLOSED:
            return
        self.is_on_trial = True
        if self.in_a_row >= RECOVERED:
            self.is_on_trial = False
            self.health.forget()

    def _is_cut_short(self, run: StageRun, limit_s: float) -> bool:
        """Whether it had less than its limit, and less than it is known to take."""
        p50_s = self.health.p50_s
        return p50_s is not None and p50_s < inf and run.granted_s < min(limit_s, p50_s)

    def _is_new_here(self, now: float) -> bool:
        """Whether lateness is new with this node, which used to answer: the limit gets a while to follow."""
        if now - self._timeout_at > PATIENCE_S:
            p95_s = self.health.p95_s
            used_to_answer = p95_s is not None and p95_s < inf
            self._patient_until = now + PATIENCE_S if used_to_answer else -inf
        self._timeout_at = now
        return now < self._patient_until

    def _excuse(self, run: StageRun, now: float) -> None:
        """An excused error counts for nothing, but shows in a probe that the node works."""
        if run.probe:
            self.breaker.record(now, failed=False, probe=True)

    def spare(self, run: StageRun) -> None:
        """A call that says nothing about the node."""
        if run.probe:
            self.breaker.release_probe()

    def routing(self, now: float) -> NodeRouting:
        """What is known of it."""
        return NodeRouting(self.breaker.state(now), round(self.health.score(now), 2), self.health.p95_s)


def had_fair_share(run: StageRun, limit_s: float) -> bool:
    """Whether a stage had the time that was its due: its limit, or what the stages before it must leave."""
    return run.granted_s >= min(run.spec.fair_share_s, limit_s) - SLACK_S
