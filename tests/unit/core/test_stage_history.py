"""The stage history, read while another thread writes it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.stage_history import StageHistory
from fivestage_schemas import StageType

from .samples import ERROR, PROCESSING, SUCCESS, altered, ended, history_of, run_of, running_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.stage_run import RunningStage

RUNS = ended([SUCCESS] * 5)
SLOT: Any = vars(StageHistory)["running"]


class InterruptedHistory(StageHistory):
    """A history that writes between the reader's first and second look."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        super().__init__()

    @property
    def running(self) -> RunningStage | None:
        """Return the running stage at the first look."""
        value: RunningStage | None = SLOT.__get__(self)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return value

    @running.setter
    def running(self, value: RunningStage | None) -> None:
        SLOT.__set__(self, value)


def writing(history: StageHistory) -> list[Callable[[], None]]:
    """List the writes of a history, one assignment or append each."""
    steps: list[Callable[[], None]] = []
    for run in RUNS:
        running = running_of(run.spec.stage_type, at=0.0, granted_s=0.1)
        steps.append(partial(setattr, history, "running", running))
        steps.append(partial(history.runs.append, run))
        steps.append(partial(setattr, history, "running", None))
    return steps


def take(steps: list[Callable[[], None]]) -> None:
    """Perform these steps."""
    for step in steps:
        step()


@pytest.mark.interpreted
@pytest.mark.parametrize("before", range(16))
def test_a_snapshot_is_consistent_at_any_moment(before: int) -> None:
    """At any step of the writer the running stage is the one after the ended ones."""
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


def test_a_history_as_it_grows() -> None:
    """Start, finish, and the text for people."""
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
    """A snapshot does not change."""
    history = StageHistory()
    runs, _ = history.snapshot()
    history.finish(RUNS[0])
    assert runs == ()


def failed_over() -> StageHistory:
    """Build a history with two ended stages and a failed node in the third."""
    history = history_of(RUNS[:2])
    history.start(running_of(PROCESSING, at=1.0, granted_s=0.1))
    history.fail_over(run_of(PROCESSING, ERROR, node="first"))
    return history


def test_a_failed_attempt_is_no_end_of_the_stage() -> None:
    """A failed attempt is kept apart, the next one is numbered, and the next stage starts at one."""
    history = failed_over()
    assert ([run.node for run in history.superseded], history.attempt) == (["first"], 2)
    assert history.snapshot() == (tuple(RUNS[:2]), None)
    history.start(altered(running_of(PROCESSING, at=1.1, granted_s=0.1), attempt=history.attempt))
    history.fail_over(run_of(PROCESSING, ERROR, node="second", attempt=2))
    assert history.attempt == 3
    history.finish(RUNS[2])
    assert (history.attempt, len(history.superseded)) == (1, 2)


def test_a_history_continues_elsewhere() -> None:
    """Ended stages are copied, the running stage restarts, and the old history is closed for good."""
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


def test_a_history_moved_between_two_attempts() -> None:
    """Between two attempts nothing restarts: the attempt number stays."""
    assert failed_over().continued().attempt == 2
    assert history_of(RUNS[:2]).continued().attempt == 1


def test_a_stage_that_waits_for_a_thread_goes_along() -> None:
    """A stage that waits for a thread keeps its place and its attempt number."""
    old = history_of(RUNS[:2])
    old.waiting = waiting = running_of(PROCESSING, at=1.0, granted_s=0.0)
    new = old.continued()
    assert (new.resumed, new.waiting, new.running, new.attempt) == (waiting, None, None, 1)
    assert new.awaits(waiting)
    assert new.continued().resumed is waiting


def test_a_stage_that_has_started_waits_no_more() -> None:
    """Once a waiting stage runs it is moved as running; after its end nothing waits."""
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
