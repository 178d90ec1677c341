"""The trail, read while it is written."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.trail import RunningStage, Trail
from fivestage_schemas import StageType

from .samples import SUCCESS, ended, running_of

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = ended([SUCCESS] * 5)
SLOT: Any = vars(Trail)["running"]


class InterruptedTrail(Trail):
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


def writing(trail: Trail) -> list[Callable[[], None]]:
    """All that the writer does to a trail, one assignment or append at a time."""
    steps: list[Callable[[], None]] = []
    for run in RUNS:
        running = running_of(run.spec.stage_type, at=0.0, granted_s=0.1)
        steps.append(partial(setattr, trail, "running", running))
        steps.append(partial(trail.runs.append, run))
        steps.append(partial(setattr, trail, "running", None))
    return steps


def take(steps: list[Callable[[], None]]) -> None:
    """Take these steps."""
    for step in steps:
        step()


@pytest.mark.parametrize("before", range(16))
def test_a_snapshot_is_consistent_at_any_moment(before: int) -> None:
    """However far the writer gets between the two looks, what runs is the stage after those that ended."""
    for between in range(16 - before):
        trail = InterruptedTrail()
        steps = writing(trail)
        take(steps[:before])
        trail.meanwhile = partial(take, steps[before : before + between])
        runs, running = trail.snapshot()
        assert list(runs) == RUNS[: len(runs)]
        assert before // 3 <= len(runs) <= (before + between + 1) // 3
        assert running is None or running.spec.sequence == len(runs)
        if between == 0:
            assert (running is not None) is (before % 3 == 1)


def test_a_trail_as_it_grows() -> None:
    """Starting, finishing and the text for people."""
    trail = Trail()
    assert trail.snapshot() == ((), None)
    running = running_of(StageType.INTENT, at=1.0, granted_s=0.05)
    trail.start(running)
    assert trail.snapshot() == ((), running)
    assert repr(trail) == "<Trail [] running=intent>"
    trail.finish(RUNS[0])
    assert trail.snapshot() == ((RUNS[0],), None)
    assert repr(trail) == "<Trail [intent=success] running=None>"


def test_a_snapshot_does_not_grow() -> None:
    """What was handed out stays as it was."""
    trail = Trail()
    runs, _ = trail.snapshot()
    trail.finish(RUNS[0])
    assert runs == ()
