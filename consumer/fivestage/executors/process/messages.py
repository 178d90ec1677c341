"""Messages between the bus and its worker processes.

Pure: the transport is in send_queue.py, reporter.py and connection.py. What comes from a worker is checked,
see stage_values.py. A stage history is named by a *serial* number, which the bus gives it when it starts the
job.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import orjson

from fivestage.core.job import Job
from fivestage.core.offer import Offer
from fivestage.core.plan import Plan, StageSpec
from fivestage.core.stage_run import RunningStage
from fivestage.core.trace_context import TraceContext
from fivestage.executors.process.frames import BlobReader, Frame, Kinds, checked, encode
from fivestage.executors.process.stage_values import (
    DATA_SIZE,
    NONE,
    NUMBER,
    TEXT,
    arguments,
    check_times,
    run_of,
    running_of,
    stage_of,
    values_of_run,
    values_of_running,
)
from fivestage.pipeline.context import Query
from fivestage.pipeline.thread_pool import Abandoned
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fivestage.core.routing_snapshot import RoutingSnapshot
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import StageRun

# To the worker
START: Final = 1
CANCEL: Final = 2
ROUTING: Final = 3
PING: Final = 4
QUIT: Final = 5
# To the bus, about a job: from the first to the last
RUNNING: Final = 11
FINISHED: Final = 12
DONE: Final = 13
OFFER: Final = 14
WAITS: Final = 15
GOES_ON: Final = 16
FAILED_OVER: Final = 17
HEDGE: Final = 18
DROPPED: Final = 19
# To the bus, about the process
HELLO: Final = 21
NOT_OPEN: Final = 22
STATUS: Final = 23
PONG: Final = 24

_FINISHED_KINDS: Final[Kinds] = (int, int, int, (*NUMBER, NONE), list)

# Jobs


def encode_start(job: Job, serial: int) -> bytes:
    """START: run a job from where its stage history ends."""
    query, history = job.query, job.history
    context = orjson.dumps(query.context) if query.context else b""
    offer = history.offer
    data = [run.data_json or b"" for runs in (history.runs, history.superseded) for run in runs]
    return encode(
        START,
        serial,
        (
            job.number, query.query_id, query.user_input, query.lane, job.started_at, job.ends_at,
            job.due_at if isfinite(job.due_at) else None, history.attempt, len(context),
            [values_of_run(run) for run in history.runs], [values_of_run(run) for run in history.superseded],
            job.trace and list(job.trace), job.allow_partial,
            offer and [len(offer.answer_json), offer.confidence, offer.node],
        ),
        b"".join((context, *data, b"" if offer is None else offer.answer_json)),
    )  # fmt: skip


def decode_start(
    frame: Frame, plan: Plan, history: StageHistory, lanes: Mapping[str, RoutingSnapshot]
) -> Job:
    """Decode START.

    Args:
        frame: The message.
        plan: The job's.
        history: Becomes the job's; gets the stages that have ended before.
        lanes: The routing of each lane, as far as it has been sent.
    """
    values = frame.values
    number, query_id, user_input, lane, started_at, ends_at, due_at, history.attempt = values[:8]
    size, runs, superseded, trace, allow_partial, offer = values[8:]
    reader = BlobReader(frame.blob)
    context = orjson.loads(reader.read(size) or b"") if size else {}
    history.runs = [run_of(run, reader.read(run[DATA_SIZE]), plan) for run in runs]
    history.superseded = [run_of(run, reader.read(run[DATA_SIZE]), plan) for run in superseded]
    if offer is not None:
        history.offer = Offer(reader.read(offer[0]) or b"", *offer[1:])
    query, routing = Query(query_id, user_input, lane, context), lanes.get(lane)
    job = Job(query, plan, started_at=started_at, ends_at=ends_at, due_at=due_at, routing=routing)
    job.allow_partial = allow_partial
    job.number, job.history, job.trace = number, history, trace and TraceContext(*trace)
    return job


# Stages


def encode_running(serial: int, stage: RunningStage, kind: int = RUNNING) -> bytes:
    """RUNNING: a stage starts. HEDGE: a call starts beside the running one."""
    return encode(kind, serial, values_of_running(stage))


def encode_offer(serial: int, attempt: int, offer: Offer) -> bytes:
    """OFFER: the node that runs offers an answer."""
    return encode(OFFER, serial, (attempt, offer.confidence, offer.node), offer.answer_json)


def decode_offer(frame: Frame) -> tuple[int, Offer]:
    """Decode OFFER: the attempt, and what it offers."""
    attempt, confidence, node = frame.values_of((int, (*NUMBER, NONE), TEXT))
    return attempt, Offer(frame.blob, confidence, node)


def encode_waits(serial: int, waiting: RunningStage) -> bytes:
    """WAITS: the next stage's call waits for a thread."""
    return encode(WAITS, serial, (waiting.spec.sequence, waiting.node, waiting.attempt))


def decode_waits(frame: Frame, plan: Plan, now: float) -> RunningStage:
    """Decode WAITS."""
    sequence, node, attempt = frame.values_of((int, TEXT, int))
    return RunningStage(stage_of(plan, sequence, attempt), now, 0.0, node, attempt)


def decode_goes_on(frame: Frame) -> tuple[float, float]:
    """Decode GOES_ON: the job's new start and end."""
    started_at, ends_at = frame.values_of((NUMBER, NUMBER))
    check_times(started_at, ends_at)
    return started_at, ends_at


def encode_finished(
    kind: int, serial: int, run: StageRun, history: StageHistory, max_data_bytes: int
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
    values = len(history.superseded), size, len(answer), confidence, values_of_run(run)
    return encode(kind, serial, values, data + answer if answer else data)


class FinishedMessage:
    """A decoded FINISHED, FAILED_OVER or DROPPED.

    Args:
        run: The attempt.
        superseded: How many attempts before this one count as failed.
        answer_json: The answer; empty if it was left out, or there is none.
        answer_bytes: The size of the answer, even if it was left out.
        confidence: Its confidence.
    """

    __slots__ = ("answer_bytes", "answer_json", "confidence", "run", "superseded")

    def __init__(
        self, run: StageRun, superseded: int, answer_json: bytes, answer_bytes: int, confidence: float | None
    ) -> None:
        self.run = run
        self.superseded = superseded
        self.answer_json = answer_json
        self.answer_bytes = answer_bytes
        self.confidence = confidence

    def __repr__(self) -> str:
        return f"<FinishedMessage {self.run} answer of {self.answer_bytes} bytes>"


def decode_finished(frame: Frame, plan: Plan) -> FinishedMessage:
    """Decode FINISHED, FAILED_OVER or DROPPED."""
    superseded, size, sent, confidence, run = arguments(frame.values, _FINISHED_KINDS)
    blob, data_size = frame.blob, run[DATA_SIZE]
    data = None if data_size is None else blob[:data_size]
    return FinishedMessage(run_of(run, data, plan), superseded, blob[len(blob) - sent :], size, confidence)


def decode_running(frame: Frame, plan: Plan) -> RunningStage:
    """Decode RUNNING or HEDGE."""
    return running_of(frame.values, plan)


# The process


def decode_status(frame: Frame) -> list[Abandoned]:
    """Decode STATUS: the calls of ended jobs that still run in threads."""
    found = []
    for one in frame.values:
        name, since, thread = checked(one, (str, NUMBER, (list, NONE)))
        check_times(since)
        if thread is None:
            found.append(Abandoned(name, since, None))
        else:
            pid, tid = checked(thread, (int, int))
            found.append(Abandoned(name, since, (pid, tid)))
    return found


def decode_done(frame: Frame) -> tuple[bool, list[str]]:
    """Decode DONE: whether the stages were completed, and the probes that were not used."""
    completed, unused_probes = frame.values_of((bool, list))
    return completed, unused_probes


def decode_not_open(frame: Frame) -> str:
    """Decode NOT_OPEN: why the process could not open its resources."""
    (error,) = frame.values_of((str,))
    return str(error)


# The plan


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
    specs = [StageSpec(StageType(name), sequence, *limits) for sequence, (name, *limits) in enumerate(stages)]
    return Plan(tuple(specs), total_s)
