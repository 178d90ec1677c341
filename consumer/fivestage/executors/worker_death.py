"""Decides which jobs of a dead worker end with it, and ends their stage as an error.

Called by ``worker_pool``. The death of a process is noticed in ``process.connection``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.stage_run import StageRun
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from fivestage.core.job import Job

MAX_DEATHS: Final = 3
"""A query that was present at this many deaths of workers for unknown causes is the likely cause."""


def fatal_error(job: Job, blocking_job: Job | None) -> str | None:
    """Return the error of a job that ended its worker, certainly or most likely; None for other jobs.

    Args:
        job: The job, whose ``deaths`` are up to date.
        blocking_job: The job whose code was executing when the worker died.
    """
    if job is blocking_job:
        return "its node ended the worker process that it ran in"
    if job.deaths >= MAX_DEATHS:
        return f"the worker process that it ran in died {MAX_DEATHS} times"
    return None


def fail_stage(job: Job, error: str, now: float) -> bool:
    """End the stage that is running, or the next one; does nothing if all stages have ended.

    Returns whether later stages can run: the node had offered an answer, the query allows partial ones, and
    time is left.
    """
    running = job.history.running
    job.history = history = job.history.continued()
    ended = len(history.runs)
    if ended == len(job.plan.stages):  # the last stage ended just before the worker died
        return False
    if running is not None and not history.awaits(running):
        running = None
    spec = job.plan.stages[ended] if running is None else running.spec
    run = StageRun(spec, Outcome.ERROR, error=error, error_type="worker_died", attempt=history.attempt)
    run.started_at = job.started_at
    if running is not None:
        run.node, run.attempt, run.started_at = running.node, running.attempt, running.started_at
        run.granted_s, run.waited_s = running.granted_s, running.waited_s
    is_processing = spec.stage_type is StageType.PROCESSING
    run.partial = is_processing and job.allow_partial and history.offer is not None and now < job.ends_at
    history.finish(run)
    return run.partial
