"""Says in words why a query ended as it did, from its published result; for the status page and ``explain``.

Only what has no text of users and authors is read: stages, nodes, outcomes, durations, error types, and why
the built-in validation rejected an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage_schemas import AttemptKind, Outcome, PipelineStatus, StageType, TimeoutReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fivestage_schemas import PipelineResult, StageResult
    from fivestage_schemas.stage_result import Attempt

WAITED_MS: Final = 100.0
"""From this age on, the wait before the start is mentioned."""
OVER_MS: Final = 100.0
"""Code that runs for so long beyond its limit blocks its event loop, or ignores its cancellation: it has had
the time to clean up."""
LATE_MS: Final = 50.0
"""Without an executor a query ends so late only if its code does not give control back."""
_CALLED: Final = {Outcome.SUCCESS: "answered", Outcome.TIMEOUT: "did not answer", Outcome.ERROR: "failed"}
_NOT_CALLED: Final[Mapping[str, str]] = {
    "breaker_open": "was not called because its breaker was open",
    "node_busy": "was not called because no thread, or no slot of its limit, was free",
    "node_stuck": "was not called because earlier calls of it have not returned",
}
_REASONS: Final[Mapping[str, str]] = {
    "invalid_query": "the record could not be read as a query",
    "publish_refused": "the broker refused an event of the query",
    "result_too_large": "the answer is too large for its topic",
    "worker_died": "the worker process died while it ran the query",
}
_CAUSES: Final[Mapping[str, str]] = {
    "ModelBusyError": "the model's server accepts no more requests",
    "ModelError": "the model's server refused the request",
    "ModelUnavailableError": "the model's server failed, or its answer broke off",
}
"""The errors of ``fivestage.nodes.llm``, which this package does not import."""
_UNSTARTED: Final[Mapping[TimeoutReason | None, str]] = {
    None: "its answer would have come too late, so it was not started",
    TimeoutReason.EXPIRED_BEFORE_START: "its deadline had passed before it could be started",
    TimeoutReason.WOULD_EXPIRE: "less time was left than an answer takes, so it was not started",
}


def why(result: PipelineResult, unstarted: TimeoutReason | None = None) -> str:
    """Return the reason in one line, without a full stop.

    Args:
        result: What was published about the query.
        unstarted: The reason in the TimeoutEvent of a query that was not started, if it is known.
    """
    if result.status is PipelineStatus.EXPIRED:
        return _with_wait(_UNSTARTED[unstarted], result, least_ms=0.0)
    if result.status is PipelineStatus.SUCCESS:
        return _degraded(result) if result.degraded else _slow(result)
    if result.error_type == "rejected":
        return _rejected(result)
    ended = _stage_that_ended(result)
    if (known := _REASONS.get(result.error_type or "")) is not None:
        return known
    if ended is None:
        return f"it ended as {result.status} before any stage did"
    ran_out = result.status is PipelineStatus.TIMEOUT and _ran_out(result, ended)
    text = _out_of_time(result, ended) if ran_out else _failed(ended)
    text += _blocked(result, ended)
    offered = f"; {result.node} had offered an answer" if result.partial else ""
    return _with_wait(text + offered, result)


def slowest(result: PipelineResult) -> StageResult | None:
    """Return the stage that took longest; None if none was started."""
    ran = [stage for stage in result.stages if stage.started_at is not None]
    return max(ran, key=lambda stage: stage.duration_ms, default=None)


def decisive(result: PipelineResult) -> StageResult | None:
    """Return the stage that failed or timed out, otherwise the one that took longest."""
    failed = [stage for stage in result.stages if stage.outcome in {Outcome.ERROR, Outcome.TIMEOUT}]
    critical = next((stage for stage in failed if stage.critical), None)
    return critical or next(iter(failed), None) or slowest(result)


def has_overtaken(stage: StageResult) -> bool:
    """Whether attempts at a stage that are skipped were overtaken, rather than lost when the query moved."""
    kinds = {attempt.kind for attempt in stage.attempts}
    failed = stage.outcome is Outcome.ERROR and stage.error_type != "worker_died"  # perhaps as unanswerable
    return AttemptKind.HEDGE in kinds and AttemptKind.RESUMED not in kinds and (stage.success or failed)


def _stage_that_ended(result: PipelineResult) -> StageResult | None:
    """The first critical stage without success; skipped for lack of time it ends the query too."""
    return next((stage for stage in result.stages if stage.critical and not stage.success), decisive(result))


def _ran_out(result: PipelineResult, ended: StageResult) -> bool:
    """Whether the total time ran out, rather than the stage's own limit."""
    return ended.outcome is Outcome.SKIPPED or not result.metrics.within_budget


def _out_of_time(result: PipelineResult, ended: StageResult) -> str:
    """Name the stage that was running, and what used up the time before it."""
    before = [stage for stage in result.stages if stage.duration_ms >= 1 and stage is not ended]
    if ended.outcome is Outcome.SKIPPED:
        text = f"no time was left for {_name(ended)} within {_ms(result.metrics.budget_ms)}"
    else:
        took = f"had run for {_ms(ended.duration_ms)}"
        text = f"the {_ms(result.metrics.budget_ms)} of the query ran out while {_name(ended)} {took}"
        earlier = _earlier(ended)
        text += f" ({earlier})" if earlier else ""
    longest = sorted(before, key=lambda stage: stage.duration_ms, reverse=True)[:2]
    took_ms = [f"{_name(stage)} took {_ms(stage.duration_ms)}" for stage in longest]
    if idle := _idle(result):
        took_ms.insert(0, idle)
    return f"{text}; {' and '.join(took_ms)}" if took_ms else text


def _idle(result: PipelineResult) -> str:
    """Say how long no stage ran, if that is longer than each stage; otherwise nothing."""
    idle_ms = result.metrics.total_duration_ms
    for stage in result.stages:
        calls = [call.duration_ms + call.waited_ms for call in stage.attempts]
        if any(call.kind is AttemptKind.HEDGE for call in stage.attempts):  # they overlap
            calls = [max(calls)]
        idle_ms -= sum(calls) if calls else stage.duration_ms
    longest = slowest(result)
    if idle_ms < 1 or (longest is not None and idle_ms <= longest.duration_ms):
        return ""
    return f"{_ms(idle_ms)} passed while no stage ran: the event loop was busy or blocked"


def _failed(stage: StageResult) -> str:
    """Say how a stage failed, with the attempts before the last one."""
    earlier = _earlier(stage)
    text = _last(stage)
    return f"{text}, after {earlier}" if earlier else text


def _last(stage: StageResult) -> str:
    name, kind = _name(stage), stage.error_type or ""
    if kind in _NOT_CALLED and stage.node is not None:
        waited_ms = stage.attempts[-1].waited_ms if stage.attempts else 0.0
        return f"node {stage.node} {_NOT_CALLED[kind]}" + (f" for {_ms(waited_ms)}" if waited_ms >= 1 else "")
    if stage.outcome is Outcome.TIMEOUT:
        return f"{name} did not end within the {_ms(stage.timeout_ms)} it was granted"
    if stage.outcome is Outcome.SKIPPED:
        return f"{name} was skipped"
    if (cause := _CAUSES.get(kind)) is not None:
        return f"{name} failed after {_ms(stage.duration_ms)}: {cause} ({kind})"
    return f"{name} failed with {kind or 'an error'} after {_ms(stage.duration_ms)}"


def _earlier(stage: StageResult) -> str:
    """Describe the attempts that another one followed."""
    attempts: Sequence[Attempt] = stage.attempts
    if stage.outcome is not Outcome.SKIPPED:
        attempts = attempts[:-1]
    overtaken = has_overtaken(stage)
    found = []
    for attempt in attempts:
        who = attempt.node or stage.stage_type
        if attempt.outcome is Outcome.SKIPPED and overtaken:
            found.append(f"{who} was overtaken after {_ms(attempt.duration_ms)}")
        elif attempt.outcome is Outcome.SKIPPED and attempt.kind is AttemptKind.HEDGE:
            found.append(f"{who} was given up after {_ms(attempt.duration_ms)}")
        elif attempt.outcome is Outcome.SKIPPED:
            found.append(f"{who} was started again elsewhere after {_ms(attempt.duration_ms)}")
        elif attempt.duration_ms or attempt.timeout_ms:
            found.append(f"{who} {_CALLED[attempt.outcome]} in {_ms(attempt.duration_ms)}")
        else:
            found.append(f"{who} could not be called")
    return " and ".join(found)


def _degraded(result: PipelineResult) -> str:
    """Say which stage did not succeed, or that validation rejected the answer."""
    failed = ", ".join(
        f"{_failed(stage)}{_blocked(result, stage)}" for stage in result.stages if not stage.success
    )
    if result.validated is False:
        return f"answered, but {_rejected(result)}" + (f"; {failed}" if failed else "")
    if result.partial:
        return f"answered with what {result.node} had offered: {failed}"
    return f"answered without all stages: {failed}"


def _rejected(result: PipelineResult) -> str:
    """Say that validation rejected the answer, and why, if the built-in one did."""
    text = "validation rejected the answer"
    for stage in result.stages:
        is_verdict = stage.stage_type is StageType.VALIDATION and stage.success and stage.error_type is None
        if is_verdict and stage.error is not None:
            text += f": {stage.error}"
    return text


def _blocked(result: PipelineResult, stage: StageResult) -> str:
    """Say that code did not give control back; only of queries without Kafka, which have no executor.

    In the service such code ends at its limit, and a line of the log says so.
    """
    is_over = stage.outcome is Outcome.TIMEOUT and stage.duration_ms - stage.timeout_ms >= OVER_MS
    if result.source is not None or not is_over:
        return ""
    cause = "blocked the event loop, or ignored its cancellation"
    if result.metrics.total_duration_ms - result.metrics.budget_ms >= LATE_MS:
        cause = "did not give control back to the event loop"
    return f", as it {cause}; code that blocks belongs in a def, or in ctx.run_sync"


def _slow(result: PipelineResult) -> str:
    metrics, longest = result.metrics, slowest(result)
    text = f"answered in {_ms(metrics.total_duration_ms)} of {_ms(metrics.budget_ms)}"
    idle = _idle(result)
    text += f"; {idle}" if idle else ""
    if longest is not None and (longest.duration_ms >= 1 or not idle):
        text += f"{', and' if idle else ';'} {_name(longest)} took {_ms(longest.duration_ms)}"
        in_turn = [attempt for attempt in longest.attempts if attempt.kind is not AttemptKind.HEDGE]
        waited_ms = sum(attempt.waited_ms for attempt in in_turn)
        moved = any(attempt.kind is AttemptKind.RESUMED for attempt in longest.attempts)
        earlier = _earlier(longest)
        text += f", after {earlier}" if earlier and not moved else ""
        text += ", started again because its event loop was blocked" if moved else ""
        text += f", and had waited {_ms(waited_ms)} to be called" if waited_ms >= 1 else ""
    return _with_wait(text, result)


def _with_wait(text: str, result: PipelineResult, least_ms: float = WAITED_MS) -> str:
    queue_ms = result.metrics.queue_ms
    return f"{text}; it was {_ms(queue_ms)} old when it was reached" if queue_ms > least_ms else text


def _name(stage: StageResult) -> str:
    return stage.stage_type if stage.node is None else f"{stage.stage_type} ({stage.node})"


def _ms(milliseconds: float) -> str:
    """Format a duration: milliseconds below ten seconds, seconds above."""
    if milliseconds >= 10_000:  # noqa: PLR2004 - ten seconds
        return f"{milliseconds / 1000:.0f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 1 else "less than 1 ms"
