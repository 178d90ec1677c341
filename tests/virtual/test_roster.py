"""The books of one place where jobs run: what counts as code that runs on."""

from __future__ import annotations

from fivestage import Plan, Query
from fivestage.core.job import Job
from fivestage.core.stage_history import RunningStage
from fivestage.executors.job_registry import JobRegistry

PLAN = Plan.of()
THREAD = (1, 2)


class Place:
    """A roster, and the jobs in it."""

    def __init__(self) -> None:
        self.finished: list[Job] = []
        self.registry = JobRegistry(self.finished.append)

    def job(self) -> Job:
        """A job whose node runs."""
        job = Job(Query("q", "text"), PLAN, started_at=0.0, ends_at=1.0)
        self.registry.add(job)
        job.history.start(RunningStage(PLAN.stages[2], 0.0, 0.1, node="node"))
        return job

    def counted(self, number: int = 0) -> list[tuple[float, bool]]:
        """Since when code runs on, and whether it keeps the thread."""
        return [(one.since, one.thread is THREAD) for one in self.registry.abandoned(number, THREAD)]


def test_code_runs_on_when_the_loop_has_turned_since() -> None:
    """A busy loop that has not cancelled it yet says nothing; the code that has control counts at once."""
    place = Place()
    job = place.job()
    place.registry.leave(job, 5.0)
    assert place.counted() == []
    assert place.counted(job.number) == [(5.0, True)]
    place.registry.responsive_at = 6.0
    assert place.counted() == [(5.0, False)]


def test_a_stall_does_not_forget_code_that_runs_on() -> None:
    """What had run on before goes on counting; what only waits counts from when the loop turns again."""
    place = Place()
    deaf, waits, blocks = place.job(), place.job(), place.job()
    place.registry.leave(deaf, 5.0)
    place.registry.responsive_at = 6.0
    place.registry.leave(waits, 7.0)
    place.registry.leave(blocks, 7.0)
    place.registry.restart_clocks_except(blocks.number, 8.0)
    assert place.counted(blocks.number) == [(5.0, False), (7.0, True)]
    place.registry.responsive_at = 9.0
    assert place.counted() == [(5.0, False), (8.0, False), (7.0, False)]


def test_what_an_excused_job_still_does_counts() -> None:
    """It only waited; its clean-up may block the loop, or go on for ever, all the same."""
    place = Place()
    job = place.job()
    place.registry.leave(job, 5.0)
    place.registry.mark_as_waiting(job, 6.0)
    place.registry.responsive_at = 5.5
    assert place.counted() == []
    assert place.registry.has_code_of(job.number)
    assert place.counted(job.number) == [(6.0, True)]
    place.registry.responsive_at = 7.0
    assert place.counted() == [(6.0, False)]


def test_an_excused_job_is_not_late() -> None:
    """It was answered elsewhere: that its task comes to an end here is no late answer."""
    place = Place()
    for excused in (True, False):
        job = place.job()
        place.registry.leave(job, 5.0)
        if excused:
            place.registry.mark_as_waiting(job, 5.0)
        job.end()
        place.registry.done(job, job.history, True)
        assert place.finished == ([] if excused else [job])
        assert not place.registry.has_code_of(job.number)
