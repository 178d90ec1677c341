"""Lists the superseded attempts of a query: another attempt at the same stage followed each of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from fivestage_schemas import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import RunningStage, StageRun

_SKIPPED: Final = Outcome.SKIPPED
_TIMEOUT: Final = Outcome.TIMEOUT


def earlier_attempts(history: StageHistory, runs: Sequence[StageRun], now: float) -> tuple[StageRun, ...]:
    """The superseded attempts in order: all but the last attempt at each stage.

    Args:
        history: Holds the failed attempts, and those abandoned when the query was moved.
        runs: The last attempt at each stage. A failed one may be in *history* too, if a worker process sent
            it as a failed attempt.
        now: Monotonic seconds.
    """
    if not (history.superseded or history.moved or history.resumed or history.hedge):
        return ()
    ended, abandoned = _ended(history, now), _abandoned(history)
    last = {run.spec.sequence: run for run in runs if run.outcome is not _SKIPPED}
    earlier: list[StageRun] = []
    for key in sorted(ended.keys() | abandoned.keys(), reverse=True):  # then what follows is known
        sequence, attempt = key
        is_hedge = ended[key].hedge if key in ended else abandoned[key].hedge
        following = last.get(sequence)
        if following is not None and attempt >= following.attempt:
            if not is_hedge or attempt == following.attempt:  # it is the last attempt
                continue
            following = None  # a hedge has a higher number than the call beside it, which may end later
        run = ended.get(key) or _end_of(abandoned[key], following, now)
        earlier.append(run)
        if not is_hedge:
            last[sequence] = run
    earlier.reverse()
    return tuple(earlier)


def _ended(history: StageHistory, now: float) -> dict[tuple[int, int], StageRun]:
    """The attempts that have ended, by stage and number; of a hedge that runs, how it ends *now*."""
    ended = {(run.spec.sequence, run.attempt): run for run in history.superseded}
    hedge = history.hedge
    if hedge is not None:  # as the call beside it, it ran until the end
        late = hedge.end(now, _TIMEOUT, "was running at the deadline", "timeout")
        ended.setdefault((hedge.spec.sequence, hedge.attempt), late)
    return ended


def _abandoned(history: StageHistory) -> dict[tuple[int, int], RunningStage]:
    """The attempts that were given up when the query was moved, by stage and number."""
    abandoned = {(one.spec.sequence, one.attempt): one for one in history.moved}
    resumed = history.resumed
    if resumed is not None and resumed.call is not None and resumed.parked is None:  # a thread runs its call
        abandoned[resumed.spec.sequence, resumed.attempt] = resumed
    return abandoned


def _end_of(running: RunningStage, following: StageRun | None, now: float) -> StageRun:
    """The run of an abandoned attempt: it lasted until the next one started, or else until *now*."""
    until = now if following is None or following.started_at is None else following.started_at
    return running.end(until, _SKIPPED)


def kind_of(run: StageRun, before: StageRun | None) -> AttemptKind:
    """Why an attempt was made; *before* is the attempt that it followed."""
    if run.attempt == 1:
        return AttemptKind.FIRST
    if run.hedge:
        return AttemptKind.HEDGE
    if before is None or before.outcome is _SKIPPED:
        return AttemptKind.RESUMED
    return AttemptKind.RETRY if _is_retry(before, run) else AttemptKind.FAILOVER


def with_kinds(attempts: Sequence[StageRun]) -> list[tuple[StageRun, AttemptKind]]:
    """The attempts at a stage, in the order of the result, each with the reason why it was made."""
    found: list[tuple[StageRun, AttemptKind]] = []
    before: StageRun | None = None
    for run in attempts:
        found.append((run, kind_of(run, before)))
        if not (run.overtaken or (run.hedge and run.outcome is not _SKIPPED)):
            before = run  # else the next one was not made because of it
    return found


def count_retries(runs: Sequence[StageRun]) -> int:
    """How many of the attempts at processing, given in order, are at the same node as the one before."""
    return sum(_is_retry(before, run) for before, run in pairwise(runs))


def _is_retry(before: StageRun, run: StageRun) -> bool:
    return run.node is not None and run.node == before.node
