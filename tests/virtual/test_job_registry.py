"""The job registry of one worker: what counts as abandoned code."""

from __future__ import annotations

from fivestage import Plan, Query
from fivestage.core.job import Job
from fivestage.core.stage_run import RunningStage
from fivestage.executors.job_registry import JobRegistry

PLAN = Plan.of()
THREAD = (1, 2)


class Place:
    """A registry and its jobs."""

    def __init__(self) -> None:
        self.finished: list[Job] = []
        self.registry = JobRegistry(self.finished.append)

    def job(self) -> Job:
        """Add a job whose node runs."""
        job = Job(Query("q", "text"), PLAN, started_at=0.0, ends_at=1.0)
        self.registry.add(job)
        job.history.start(RunningStage(PLAN.stages[2], 0.0, 0.1, node="node"))
        return job

    def counted(self, number: int = 0) -> list[tuple[float, bool]]:
        """Return since when the code is abandoned, and whether it holds the thread."""
        return [(one.since, one.thread is THREAD) for one in self.registry.abandoned(number, THREAD)]


def test_code_is_abandoned_when_the_loop_has_turned_since() -> None:
    """Code counts as abandoned when the loop has turned since its end; code that blocks the loop, at once."""
    place = Place()
    job = place.job()
    place.registry.leave(job, 5.0)
    assert place.counted() == []
    assert place.counted(job.number) == [(5.0, True)]
    place.registry.responsive_at = 6.0
    assert place.counted() == [(5.0, False)]


def test_jobs_end_while_abandoned_code_is_counted() -> None:
    """A scrape counts in another thread, while the bus loop removes what has ended."""
    place = Place()

    class Clock(float):
        """While it is compared, code ends."""

        def __gt__(self, other: object) -> bool:
            place.registry.left.popitem()
            return True

    for job in [place.job() for _ in range(3)]:
        place.registry.leave(job, 5.0)
    place.registry.responsive_at = Clock(6.0)
    assert len(place.counted()) == 3


def test_a_stall_keeps_abandoned_code_counted() -> None:
    """A stall keeps abandoned code counted; waiting code counts from the loop's next turn."""
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


def test_the_clean_up_of_an_excused_job_counts() -> None:
    """The clean-up of an excused job counts if it blocks the loop or never ends."""
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
    """A job that another worker answered is no late answer when its task ends."""
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
