"""Decides when a query behind blocking code moves to another event loop, and when a stage is overdue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.stage_run import RunningStage

SLACK_S: Final = 0.01
"""Seconds for the move itself, and until the next check."""
FURTHER_STALLS: Final = 3
"""Further stalls for whose detection time must be left: code that blocks one loop may block the next."""
ASSUMED_SHARE: Final = 0.5
"""The share of its limit that a stage is assumed to take while its p95 is unknown."""


def is_worth_moving(job: Job, now: float, *, stalled_since: float, noticed_after_s: float) -> bool:
    """Whether waiting longer for a stalled event loop would lose the answer of a query.

    That is so when the time left is no more than the next stage and the later critical ones usually take,
    plus the time to detect further stalls. A move loses the work of the running stage, so the wait is at
    least as long as that work: the loss is then at most twice that of the better choice (the ski rental
    problem). A call in a thread continues during the stall: its work is not lost.

    Args:
        job: The query.
        now: Monotonic seconds.
        stalled_since: When the loop stalled (monotonic seconds).
        noticed_after_s: How long it takes to detect a stall.
    """
    running = job.history.running
    ahead = job.plan.stages[len(job.history.runs) :]
    if not ahead:
        return False
    done_s = 0.0
    if running is not None and running.call is None:
        done_s = max(0.0, stalled_since - running.started_at)
    needed_s = SLACK_S + FURTHER_STALLS * noticed_after_s
    for spec in ahead:
        if spec.critical or spec is ahead[0]:
            stage = job.routing.stages[spec.sequence]
            needed_s += stage.p95_s or ASSUMED_SHARE * stage.limit_s
    ends_at = job.ends_after_wait(stalled_since)
    return now + max(needed_s, done_s) >= ends_at and now - stalled_since >= done_s


def is_over(job: Job) -> bool:
    """Whether all stages of a query have ended, or one of them ended the query."""
    runs = job.history.runs
    return len(runs) == len(job.plan.stages) or any(run.ends_query for run in runs)


def is_overdue(job: Job, running: RunningStage, now: float, *, grace_s: float) -> bool:
    """Whether a stage is still running *grace_s* after its limit, although its event loop is not blocked.

    While other code blocks the loop, the executor decides when the query moves. When the loop continues,
    ``BoundedCall`` gives the stage back the time that it lost.
    """
    ends_at = running.started_at + running.granted_s
    if job.held_at > ends_at:
        ends_at = 2 * job.held_at - ends_at
    return ends_at + grace_s <= now < job.ends_at and job.held_at != now
