"""Queries that wait behind the code of others: when they had better move, and when a stage is overdue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.stage_history import RunningStage

SLACK_S: Final = 0.01
"""For the move itself, and for the next look."""
MOVES: Final = 3
"""So many more moves there should be time for: where code blocks one loop, it may soon block another."""
GUESS: Final = 0.5
"""What a stage takes of its limit, as long as nothing is known of it."""


def is_worth_moving(job: Job, now: float, *, stalled_since: float, noticed_after_s: float) -> bool:
    """Whether waiting longer for a stalled event loop would cost a query its answer.

    That is so when what remains of its time is no more than what its remaining critical stages usually
    take, and the time to notice that it is caught again. A move loses what the running stage has done so
    far, so the wait is at least as long as that: then it never loses more than twice what the better choice
    would have (the ski rental problem). A call that a thread makes goes on meanwhile, so nothing of it is
    lost.

    Args:
        job: The query.
        now: Monotonic seconds.
        stalled_since: Since when the loop has not turned.
        noticed_after_s: How long it takes to notice that a loop does not turn.
    """
    running = job.history.running
    ahead = job.plan.stages[len(job.history.runs) :]
    if not ahead:
        return False
    done_s = 0.0
    if running is not None and running.call is None:
        done_s = max(0.0, stalled_since - running.started_at)
    needed_s = SLACK_S + MOVES * noticed_after_s
    for spec in ahead:
        if spec.critical or spec is ahead[0]:
            stage = job.routing.stages[spec.sequence]
            needed_s += stage.p95_s or GUESS * stage.limit_s
    ends_at = job.ends_after_wait(stalled_since)
    return now + max(needed_s, done_s) >= ends_at and now - stalled_since >= done_s


def is_over(job: Job) -> bool:
    """Whether the stages of a query have ended, all of them or with a critical one that failed."""
    runs = job.history.runs
    return len(runs) == len(job.plan.stages) or any(run.ends_query for run in runs)


def is_overdue(job: Job, running: RunningStage, now: float, *, grace_s: float) -> bool:
    """Whether a stage has not ended *grace_s* after its limit, although its event loop turns.

    While others keep the loop from turning, the executor moves the query in time. When the loop turns again,
    the stage gets back what it lost of its time (``BoundedCall`` does that).
    """
    ends_at = running.started_at + running.granted_s
    if job.held_at > ends_at:
        ends_at = 2 * job.held_at - ends_at
    return ends_at + grace_s <= now < job.ends_at and job.held_at != now
