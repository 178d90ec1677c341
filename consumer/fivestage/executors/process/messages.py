"""Messages between the bus and its worker processes. Pure: the transport is in connection.py and reporter.py.

The head of a frame starts with the kind of message. A stage history is named by a *serial* number, which the
bus gives it when it starts the job.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.job import Job
from fivestage.core.offer import Offer
from fivestage.core.plan import Plan, StageSpec
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot, StageRouting, wants_trial
from fivestage.core.stage_history import RunningStage, StageHistory, StageRun
from fivestage.core.trace_context import TraceContext
from fivestage.executors.process.frames import BlobReader, Frame, dump, encode
from fivestage.pipeline.context import Query
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# To the worker
START: Final = "start"
CANCEL: Final = "cancel"
ROUTING: Final = "routing"
PING: Final = "ping"
QUIT: Final = "quit"
# To the bus
HELLO: Final = "hello"
NOT_OPEN: Final = "not_open"
RUNNING: Final = "running"
WAITS: Final = "waits"
GOES_ON: Final = "goes_on"
FINISHED: Final = "finished"
FAILED_OVER: Final = "failed_over"
HEDGE: Final = "hedge"
DROPPED: Final = "dropped"
OFFER: Final = "offer"
DONE: Final = "done"
STATUS: Final = "status"
PONG: Final = "pong"

MAX_LANES: Final = 256
"""How many lanes' routing a worker keeps; with more it drops them all, and the bus sends them again."""
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}
_DATA: Final = 2
"""The index of the size of the data among the values of a run."""
_HUGE: Final = 1e300
"""Stands for an infinite duration, which JSON does not have."""

# Jobs


def encode_start(job: Job, serial: int) -> bytes:
    """START: run a job from where its stage history ends."""
    query, history = job.query, job.history
    context = orjson.dumps(query.context) if query.context else b""
    offer = history.offer
    ended = [*history.runs, *history.superseded]
    return encode(
        (
            START, job.number, serial, query.query_id, query.user_input, query.lane,
            job.started_at, job.ends_at, job.due_at if isfinite(job.due_at) else None,
            history.attempt, len(context),
            [_values(run) for run in history.runs], [_values(run) for run in history.superseded],
            job.trace and list(job.trace), job.allow_partial,
            offer and [len(offer.answer_json), offer.confidence, offer.node],
        ),
        context,
        *(run.data_json or b"" for run in ended),
        b"" if offer is None else offer.answer_json,
    )  # fmt: skip


def decode_start(
    frame: Frame, plan: Plan, history: StageHistory, lanes: Mapping[str, RoutingSnapshot]
) -> tuple[Job, int]:
    """Decode START; return the job and the serial number of *history*.

    Args:
        frame: The message.
        plan: The job's.
        history: Becomes the job's; gets the stages that have ended before.
        lanes: The routing of each lane, as far as it has been sent.
    """
    _, number, serial, query_id, user_input, lane, *times = frame.head[:10]
    size, runs, superseded, trace, allow_partial, offer = frame.head[10:]
    reader = BlobReader(frame.blob)
    context = orjson.loads(reader.read(size) or b"") if size else {}
    started_at, ends_at, due_at, history.attempt = times
    history.runs = [_run(values, reader.read(values[_DATA]), plan) for values in runs]
    history.superseded = [_run(values, reader.read(values[_DATA]), plan) for values in superseded]
    if offer is not None:
        history.offer = Offer(reader.read(offer[0]) or b"", *offer[1:])
    query, routing = Query(query_id, user_input, lane, context), lanes.get(lane)
    job = Job(query, plan, started_at=started_at, ends_at=ends_at, due_at=due_at, routing=routing)
    job.allow_partial = allow_partial
    job.number, job.history, job.trace = number, history, trace and TraceContext(*trace)
    return job, serial


# Stages


def encode_running(serial: int, stage: RunningStage, kind: str = RUNNING) -> bytes:
    """RUNNING: a stage starts. HEDGE: a call starts beside the running one.

    The values are in the blob: a start is rarely decoded, see ``ProcessWorker``.
    """
    times = stage.spec.sequence, stage.started_at, stage.granted_s
    marks = stage.probe, stage.waited_s, stage.counted, stage.capped, stage.hedge
    return encode((kind, serial), dump((*times, stage.node, stage.attempt, *marks)))


def encode_offer(serial: int, attempt: int, offer: Offer) -> bytes:
    """OFFER: the node that runs offers an answer."""
    return encode((OFFER, serial, attempt, offer.confidence, offer.node), offer.answer_json)


def decode_offer(frame: Frame) -> tuple[int, Offer]:
    """Decode OFFER: the attempt, and what it offers."""
    _, _, attempt, confidence, node = frame.head
    return attempt, Offer(frame.blob, confidence, node)


def encode_waits(serial: int, waiting: RunningStage) -> bytes:
    """WAITS: the next stage's call waits for a thread."""
    return encode((WAITS, serial, waiting.spec.sequence, waiting.node, waiting.attempt))


def decode_waits(frame: Frame, plan: Plan, now: float) -> RunningStage:
    """Decode WAITS."""
    _, _, sequence, node, attempt = frame.head
    return RunningStage(plan.stages[sequence], now, 0.0, node, attempt)


def encode_finished(
    kind: str, serial: int, run: StageRun, history: StageHistory, max_data_bytes: int
) -> bytes:
    """FINISHED, FAILED_OVER or DROPPED: an attempt has ended; too large data has been left out already.

    Args:
        kind: Which of them.
        serial: The history's.
        run: The stage.
        history: Its answer and confidence are sent with a processing stage that succeeded.
        max_data_bytes: A larger answer is left out.
    """
    data, answer, confidence = run.data_json or b"", b"", None
    if run.success and run.spec.stage_type is StageType.PROCESSING:
        answer, confidence = history.answer_json or b"", history.confidence
    size = len(answer)
    if size > max_data_bytes:
        answer = b""
    head = kind, serial, len(history.superseded), size, len(answer), confidence, _values(run)
    return encode(head, data, answer)


class FinishedMessage(NamedTuple):
    """A decoded FINISHED, FAILED_OVER or DROPPED."""

    run: StageRun
    superseded: int
    """How many attempts before this one count as failed."""
    answer_json: bytes
    answer_bytes: int
    """The size of the answer, even if it was left out."""
    confidence: float | None


def decode_finished(frame: Frame, plan: Plan) -> FinishedMessage:
    """Decode FINISHED, FAILED_OVER or DROPPED."""
    _, _, superseded, size, sent, confidence, values = frame.head
    blob, data_size = frame.blob, values[_DATA]
    data = None if data_size is None else blob[:data_size]
    return FinishedMessage(_run(values, data, plan), superseded, blob[len(blob) - sent :], size, confidence)


def decode_running(frame: Frame, plan: Plan) -> RunningStage:
    """Decode RUNNING or HEDGE."""
    sequence, *values = orjson.loads(frame.blob)
    return RunningStage(plan.stages[sequence], *values)


def _values(run: StageRun) -> tuple[Any, ...]:
    size = None if run.data_json is None else len(run.data_json)
    ended = run.spec.sequence, run.outcome, size, run.error, run.error_type, run.node, run.attempt
    times = run.started_at, run.duration_s, run.granted_s
    marks = run.partial, run.counted, run.capped, run.keeps_offer, run.hedge, run.overtaken
    return *ended, *times, run.probe, run.verdict, run.excused, run.waited_s, run.where, *marks


def _run(values: Sequence[Any], data: bytes | None, plan: Plan) -> StageRun:
    return StageRun(plan.stages[values[0]], _OUTCOMES[values[1]], data, *values[3:])


# Routing and plan


def encode_routing(
    lane: str, snapshot: RoutingSnapshot, probes: Iterable[str], trials: Iterable[str] = ()
) -> bytes:
    """ROUTING: the snapshot of a lane, and the *probes* and *trials* that this worker may make."""
    nodes = {
        name: (
            node.state,
            node.score,
            *(None if seconds is None else _finite(seconds) for seconds in node[2:]),
        )
        for name, node in snapshot.nodes.items()
    }
    stages = [[*map(_finite, stage)] for stage in snapshot.stages]
    permits = list(probes), list(trials)
    return encode((ROUTING, lane, stages, nodes, sorted(snapshot.stuck), *permits, snapshot.max_extra_load))


def apply_routing(frame: Frame, lanes: dict[str, RoutingSnapshot]) -> tuple[str, ...]:
    """Decode ROUTING into *lanes*; return the half-open nodes that may be called once."""
    _, lane, stages, nodes, stuck, probes, trials, max_extra_load = frame.head
    limit_lanes(lanes, lane)
    parts = tuple(StageRouting(*stage) for stage in stages)
    known = lanes.setdefault(lane, RoutingSnapshot(parts))
    known.stages = parts
    known.nodes = {
        name: NodeRouting(BreakerState(state), *figures) for name, (state, *figures) in nodes.items()
    }
    known.stuck, known.max_extra_load = frozenset(stuck), max_extra_load
    kept = {**known.probes, **dict.fromkeys(probes, True)}
    known.probes = {name: True for name in kept if known.node(name).state is BreakerState.HALF_OPEN}
    tried = {**known.trials, **dict.fromkeys(trials, True)}
    known.trials = {name: True for name in tried if wants_trial(known.node(name))}
    return tuple(probes)


def limit_lanes(lanes: dict[str, Any], lane: str) -> None:
    """Drop all lanes before *lane* would be one too many; both ends do so at the same frame."""
    if lane not in lanes and len(lanes) >= MAX_LANES:
        lanes.clear()


def encode_plan(plan: Plan) -> list[Any]:
    """Convert a plan to JSON values."""
    stages = [
        (spec.stage_type, spec.limit_s, spec.critical, spec.fair_share_s, spec.rejects)
        for spec in plan.stages
    ]
    return [plan.total_s, stages]


def decode_plan(values: Sequence[Any]) -> Plan:
    """Convert them back."""
    total_s, stages = values
    specs = [StageSpec(StageType(name), sequence, *values) for sequence, (name, *values) in enumerate(stages)]
    return Plan(tuple(specs), total_s)


def _finite(seconds: float) -> float:
    return seconds if isfinite(seconds) else _HUGE
