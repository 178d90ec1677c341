"""Frames between the service and its workers carry every field."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage import Plan, Query
from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.job import Job
from fivestage.core.offer import Offer
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot, StageRouting
from fivestage.core.stage_history import StageHistory
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.executors.process import messages
from fivestage.executors.process.frames import MAX_BLOB_BYTES, BlobReader, Decoder, Frame, encode
from fivestage.executors.process.routing_messages import MAX_LANES, apply_routing, encode_routing
from fivestage_schemas import Outcome, StageType
from support.fields import fields

PLAN = Plan.of()
TEXT = st.text(st.characters(codec="utf-8"))
SECONDS = st.floats(0, 1e9)
RUNS = st.builds(
    StageRun,
    st.sampled_from(PLAN.stages),
    st.sampled_from(Outcome),
    st.none() | st.binary(),
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | TEXT,
    st.integers(1, 3),
    st.none() | SECONDS,
    SECONDS,
    SECONDS,
    st.booleans(),
    st.none() | st.booleans(),
    st.booleans(),
    SECONDS,
    st.none() | TEXT,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
OFFERS = st.builds(Offer, st.binary(), st.none() | SECONDS, st.none() | TEXT)
VALUES = st.lists(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT)
FRAMES = st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), VALUES, st.binary())


def parts(frame: Frame) -> tuple[int, int, list[object], bytes]:
    """Return all that a frame carries."""
    return frame.kind, frame.serial, frame.values, frame.blob


def frame_of(encoded: bytes) -> Frame:
    """Return the only frame."""
    (frame,) = Decoder().feed(encoded)
    return frame


@given(st.lists(FRAMES, max_size=5), st.data())
def test_frames_arrive_however_the_stream_is_cut(
    sent: list[tuple[int, int, list[object], bytes]], data: st.DataObject
) -> None:
    """Frames come out whole and in order, whatever bytes a read returns."""
    stream = b"".join(encode(*frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received: list[Frame] = []
    decoder = Decoder()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert [*map(parts, received)] == sent


def test_frames_arrive_byte_by_byte() -> None:
    """Frames arrive from a stream that delivers single bytes."""
    decoder = Decoder()
    frames = [frame for byte in encode(3, 7, ["a", 1], b"blob") for frame in decoder.feed(bytes([byte]))]
    assert [*map(parts, frames)] == [(3, 7, ["a", 1], b"blob")]
    assert repr(decoder) == "<Decoder 0 bytes of the next frame>"


@pytest.mark.parametrize("garbage", [b"\xff" * 17, b"\x00" * 13 + (MAX_BLOB_BYTES + 1).to_bytes(4, "little")])
def test_garbage_is_refused(garbage: bytes) -> None:
    """A stream without frames is rejected at once."""
    with pytest.raises(ValueError, match="too large"):
        list(Decoder().feed(garbage))


def test_garbage_is_refused_after_what_is_before_it() -> None:
    """Garbage is rejected after the whole frames before it."""
    stream = Decoder().feed(encode(3, 7, ["before"]) + b"\xff" * 17)
    assert next(stream).values == ["before"]
    with pytest.raises(ValueError, match="too large"):
        next(stream)


def test_values_that_are_no_json_are_refused() -> None:
    """Values that are no JSON are rejected when they are asked for."""
    with pytest.raises(ValueError, match="unexpected character"):
        assert Frame(3, 7, b"{]", b"").values


def test_lone_surrogates_do_not_stop_a_frame() -> None:
    """Class names of users may hold lone surrogates."""
    values = frame_of(encode(3, 7, ["k", "\udc80", ["\udc81"], {"\udc82": 1}])).values
    assert values == ["k", "\\udc80", ["\\udc81"], {"\\udc82": 1}]


@given(st.lists(st.none() | st.binary()))
def test_a_missing_blob_is_not_an_empty_one(blobs: list[bytes | None]) -> None:
    """A missing blob is not an empty one."""
    reader = BlobReader(b"".join(blob or b"" for blob in blobs))
    assert [reader.read(None if blob is None else len(blob)) for blob in blobs] == blobs


@given(
    TEXT,
    st.dictionaries(TEXT, st.integers(0, 9)),
    st.lists(RUNS, max_size=5),
    st.lists(RUNS, max_size=2),
    st.integers(1, 3),
    st.sampled_from([None, 12346.5]),
)
def test_a_job_continues_where_its_history_ends(
    text: str,
    context: dict[str, int],
    runs: list[StageRun],
    superseded: list[StageRun],
    attempt: int,
    due_at: float | None,
) -> None:
    """The worker gets the query, the ended stages, and the number of the next attempt."""
    query = Query("q", text, "lane", context)
    job = Job(query, PLAN, started_at=1.0, ends_at=12345.678901234, due_at=due_at)
    job.history.runs, job.history.superseded, job.history.attempt = runs, superseded, attempt
    history = StageHistory()
    frame = frame_of(messages.encode_start(job, 7))
    arrived = messages.decode_start(frame, PLAN, history, {})
    assert (arrived.number, frame.serial, arrived.query) == (job.number, 7, job.query)
    assert (arrived.started_at, arrived.ends_at, arrived.due_at) == (1.0, job.ends_at, job.due_at)
    assert arrived.history is history
    assert history.attempt == attempt
    assert [*map(fields, history.runs)] == [*map(fields, runs)]
    assert [*map(fields, history.superseded)] == [*map(fields, superseded)]


@given(
    st.builds(
        RunningStage,
        st.sampled_from(PLAN.stages),
        SECONDS,
        SECONDS,
        st.none() | TEXT,
        st.integers(1, 3),
        st.booleans(),
        SECONDS,
    )
)
def test_a_running_stage_arrives(stage: RunningStage) -> None:
    """A running stage arrives with every field."""
    arrived = messages.decode_running(frame_of(messages.encode_running(3, stage)), PLAN)
    assert fields(arrived) == fields(stage)


@given(st.integers(1, 9), OFFERS)
def test_an_offer_arrives(attempt: int, offer: Offer) -> None:
    """An offer arrives with the attempt that made it."""
    assert messages.decode_offer(frame_of(messages.encode_offer(3, attempt, offer))) == (attempt, offer)


@given(st.lists(RUNS, max_size=3), st.none() | OFFERS, st.booleans())
def test_a_moved_job_keeps_what_was_offered(
    runs: list[StageRun],
    offer: Offer | None,
    allowed: bool,  # noqa: FBT001
) -> None:
    """Another worker knows the last offer, and whether later stages may run on it."""
    job = Job(Query("q", "text", "lane", {}), PLAN, started_at=1.0, ends_at=2.0, allow_partial=allowed)
    job.history.runs, job.history.offer = runs, offer
    history = StageHistory()
    arrived = messages.decode_start(frame_of(messages.encode_start(job, 7)), PLAN, history, {})
    assert (history.offer, arrived.allow_partial) == (offer, allowed)
    assert [*map(fields, history.runs)] == [*map(fields, runs)]


@given(RUNS, st.binary(), st.none() | SECONDS)
def test_an_ended_stage_arrives(run: StageRun, answer: bytes, confidence: float | None) -> None:
    """An ended stage arrives with every field, and its answer if it has one."""
    history = StageHistory()
    history.answer_json, history.confidence = answer, confidence
    ended = messages.decode_finished(
        frame_of(messages.encode_finished(messages.FINISHED, 3, run, history, 1000)), PLAN
    )
    assert fields(ended.run) == fields(run)
    answers = run.success and run.spec.stage_type is StageType.PROCESSING
    assert ended.answer_json == (answer if answers else b"")
    assert ended.confidence == (confidence if answers else None)


def test_an_answer_that_is_too_large_does_not_cross() -> None:
    """Only the size of an answer that is too large is sent."""
    history = StageHistory()
    history.answer_json = b"x" * 11
    run = StageRun(PLAN.stages[2], Outcome.SUCCESS, None, "too large")
    frame = frame_of(messages.encode_finished(messages.FINISHED, 3, run, history, 10))
    assert frame.blob == b""
    ended = messages.decode_finished(frame, PLAN)
    assert fields(ended.run) == fields(run)
    assert (ended.superseded, ended.answer_json, ended.answer_bytes, ended.confidence) == (0, b"", 11, None)


def routing(state: BreakerState = BreakerState.HALF_OPEN) -> RoutingSnapshot:
    """Build a routing snapshot of a lane with one node."""
    known = RoutingSnapshot(tuple(StageRouting(spec.limit_s, 0.1, inf, 0.2) for spec in PLAN.stages))
    known.nodes = {"node": NodeRouting(state, 0.5, inf), "unknown": NodeRouting()}
    known.stuck = frozenset({"b", "a"})
    return known


def test_a_routing_snapshot_arrives() -> None:
    """A routing snapshot arrives whole; infinity, which JSON lacks, as a huge number."""
    lanes: dict[str, RoutingSnapshot] = {}
    assert apply_routing(frame_of(encode_routing("lane", routing(), ["node"])), lanes) == ("node",)
    lane = lanes["lane"]
    assert lane.stages[0] == StageRouting(PLAN.stages[0].limit_s, 0.1, 1e300, 0.2)
    assert lane.nodes == {"node": NodeRouting(BreakerState.HALF_OPEN, 0.5, 1e300), "unknown": NodeRouting()}
    assert lane.stuck == {"a", "b"}
    assert lane.probes == {"node": True}


def test_running_jobs_see_updates_of_the_routing_snapshot() -> None:
    """Running jobs see updates of the snapshot; a permit is kept only while its node is half open."""
    lanes: dict[str, RoutingSnapshot] = {}
    apply_routing(frame_of(encode_routing("lane", routing(), ["node"])), lanes)
    known = lanes["lane"]
    apply_routing(frame_of(encode_routing("lane", routing(), [])), lanes)
    assert known.probes == {"node": True}
    apply_routing(frame_of(encode_routing("lane", routing(BreakerState.CLOSED), [])), lanes)
    assert known.probes == {}
    assert lanes == {"lane": known}


def test_permits_for_trials_arrive() -> None:
    """Permits for trials are kept only while their node is passed over, apart from the probes."""
    lanes: dict[str, RoutingSnapshot] = {}
    known = routing(BreakerState.OPEN)
    assert apply_routing(frame_of(encode_routing("lane", known, [], ["node", "unknown"])), lanes) == ()
    assert lanes["lane"].trials == {"node": True}
    apply_routing(frame_of(encode_routing("lane", known, [])), lanes)
    assert lanes["lane"].trials == {"node": True}
    apply_routing(frame_of(encode_routing("lane", routing(BreakerState.HALF_OPEN), [])), lanes)
    assert lanes["lane"].trials == {}


def test_lanes_do_not_accumulate() -> None:
    """Lanes invented by a producer do not accumulate in a worker."""
    lanes: dict[str, RoutingSnapshot] = {}
    for number in range(3 * MAX_LANES):
        apply_routing(frame_of(encode_routing(str(number), routing(), [])), lanes)
        assert len(lanes) <= MAX_LANES


def test_a_plan_arrives() -> None:
    """A plan arrives whole."""
    limits = {StageType.INTENT: 5.6}
    plan = Plan.of(total_timeout_ms=123.4, stage_timeouts_ms=limits, critical=(), rejected="error")
    values = frame_of(encode(3, 0, messages.encode_plan(plan))).values
    assert messages.decode_plan(values) == plan
