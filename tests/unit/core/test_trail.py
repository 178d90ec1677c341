"""The trail, read while it is written."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.stage_history import RunningStage, StageHistory
from fivestage_schemas import StageType

from .samples import ERROR, PROCESSING, SUCCESS, altered, ended, history_of, run_of, running_of

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = ended([SUCCESS] * 5)
SLOT: Any = vars(StageHistory)["running"]


class InterruptedHistory(StageHistory):
    """Between the reader's first and second look, the writer goes on."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        super().__init__()

    @property
    def running(self) -> RunningStage | None:
        """The first look."""
        value: RunningStage | None = SLOT.__get__(self)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return value

    @running.setter
    def running(self, value: RunningStage | None) -> None:
        SLOT.__set__(self, value)


def writing(history: StageHistory) -> list[Callable[[], None]]:
    """All that the writer does to a trail, one assignment or append at a time."""
    steps: list[Callable[[], None]] = []
    for run in RUNS:
        running = running_of(run.spec.stage_type, at=0.0, granted_s=0.1)
        steps.append(partial(setattr, history, "running", running))
        steps.append(partial(history.runs.append, run))
        steps.append(partial(setattr, history, "running", None))
    return steps


def take(steps: list[Callable[[], None]]) -> None:
    """Take these steps."""
    for step in steps:
        step()


@pytest.mark.interpreted
@pytest.mark.parametrize("before", range(16))
def test_a_snapshot_is_consistent_at_any_moment(before: int) -> None:
    """However far the writer gets between the two looks, what runs is the stage after those that ended."""
    for between in range(16 - before):
        history = InterruptedHistory()
        steps = writing(history)
        take(steps[:before])
        history.meanwhile = partial(take, steps[before : before + between])
        runs, running = history.snapshot()
        assert list(runs) == RUNS[: len(runs)]
        assert before // 3 <= len(runs) <= (before + between + 1) // 3
        assert running is None or running.spec.sequence == len(runs)
        if between == 0:
            assert (running is not None) is (before % 3 == 1)


def test_a_trail_as_it_grows() -> None:
    """Starting, finishing and the text for people."""
    history = StageHistory()
    assert history.snapshot() == ((), None)
    running = running_of(StageType.INTENT, at=1.0, granted_s=0.05)
    history.start(running)
    assert history.snapshot() == ((), running)
    assert repr(history) == "<StageHistory [] running=intent>"
    history.finish(RUNS[0])
    assert history.snapshot() == ((RUNS[0],), None)
    assert repr(history) == "<StageHistory [intent=success] running=None>"


def test_a_snapshot_does_not_grow() -> None:
    """What was handed out stays as it was."""
    history = StageHistory()
    runs, _ = history.snapshot()
    history.finish(RUNS[0])
    assert runs == ()


def failed_over() -> StageHistory:
    """Two stages have ended, and the first node of the third has failed."""
    history = history_of(RUNS[:2])
    history.start(running_of(PROCESSING, at=1.0, granted_s=0.1))
    history.fail_over(run_of(PROCESSING, ERROR, node="first"))
    return history


def test_a_failed_attempt_is_no_end_of_the_stage() -> None:
    """It is kept apart, the next is another attempt, and the stage after it is a first one again."""
    history = failed_over()
    assert ([run.node for run in history.superseded], history.attempt) == (["first"], 2)
    assert history.snapshot() == (tuple(RUNS[:2]), None)
    history.start(altered(running_of(PROCESSING, at=1.1, granted_s=0.1), attempt=history.attempt))
    history.fail_over(run_of(PROCESSING, ERROR, node="second", attempt=2))
    assert history.attempt == 3
    history.finish(RUNS[2])
    assert (history.attempt, len(history.superseded)) == (1, 2)


def test_a_trail_goes_on_elsewhere() -> None:
    """What has ended goes along, the running stage is begun anew, and the old trail is closed for good."""
    old = failed_over()
    old.start(altered(running_of(PROCESSING, at=1.1, granted_s=0.1), attempt=2))
    old.answer_json, old.confidence = b"1", 0.5
    new = old.continued()
    assert (old.closed, new.closed) == (True, False)
    assert (new.runs, new.running, new.superseded, new.attempt) == (old.runs, None, old.superseded, 3)
    assert (new.answer_json, new.confidence) == (b"1", 0.5)
    old.finish(RUNS[2])
    old.superseded.clear()
    assert (len(new.runs), len(new.superseded)) == (2, 1)


def test_a_trail_that_goes_on_between_two_attempts() -> None:
    """Nothing was running that would have to be begun anew: the attempt stays what it is."""
    assert failed_over().continued().attempt == 2
    assert history_of(RUNS[:2]).continued().attempt == 1


def test_a_stage_that_waits_for_a_thread_goes_along() -> None:
    """Its call keeps its place in the line; it has not started, so its attempt stays what it is."""
    old = history_of(RUNS[:2])
    old.waiting = waiting = running_of(PROCESSING, at=1.0, granted_s=0.0)
    new = old.continued()
    assert (new.resumed, new.waiting, new.running, new.attempt) == (waiting, None, None, 1)
    assert new.awaits(waiting)
    assert new.continued().resumed is waiting


def test_a_stage_that_has_started_waits_no_more() -> None:
    """As soon as it runs it is what goes along, and there is nothing to wait for when it has ended."""
    old = history_of(RUNS[:2])
    old.waiting = running_of(PROCESSING, at=1.0, granted_s=0.0)
    running = running_of(PROCESSING, at=2.0, granted_s=0.1)
    running.call = object()
    old.start(running)
    assert [old.waiting, old.continued().resumed] == [None, running]
    refused = history_of(RUNS[:2])
    refused.waiting = running_of(PROCESSING, at=1.0, granted_s=0.0)
    refused.finish(RUNS[2])
    assert [refused.waiting, refused.continued().resumed] == [None, None]
