"""The metrics as scraped: formats, exemplars, calls of nodes, and the number of series."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.codec.decode import UnreadableReason
from fivestage.core.codec.event_json import Envelope
from fivestage.core.outcome import QueryOutcome
from fivestage.core.plan import Plan
from fivestage.core.records import NOT_FROM_KAFKA
from fivestage.core.stage_run import StageRun
from fivestage.executors.process import messages
from fivestage.executors.worker_pool import WorkerPool
from fivestage.observability.control_log import EVENTS
from fivestage.observability.exposition import render
from fivestage.observability.gauges import add_gauges
from fivestage.observability.known_labels import REBUILDS, REPLACED
from fivestage.observability.label_bounds import MAX_ERROR_TYPES, MAX_LANES, MAX_NODES, MAX_SERIES
from fivestage.observability.metric_table import TABLE
from fivestage.observability.metric_table.spec import BUCKETS_S
from fivestage.observability.metrics import Metrics
from fivestage.observability.tally import Tally, TraceRef
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import Outcome, PipelineStatus, StageType, TimeoutReason
from support.documents import ROOT

from . import samples
from .wire import Wire, worker_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from fivestage.executors.executor import OnFinished
    from fivestage.executors.process.worker import ProcessWorker

OPENMETRICS, TEXT = "application/openmetrics-text; version=1.0.0; charset=utf-8", "text/plain; version=0.0.4"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 2 sends."""
PLAN = Plan.of()
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
RAN = (Outcome.SUCCESS, Outcome.TIMEOUT, Outcome.ERROR)


@pytest.fixture
def metrics() -> Metrics:
    """Make the metrics of a service."""
    return Metrics(topic="queries", group_id="g")


def run_of(stage: int, outcome: Outcome, node: str | None = None, took_s: float = 0.01) -> StageRun:
    """Build a stage that ran."""
    return StageRun(PLAN.stages[stage], outcome, node=node, started_at=0.0, duration_s=took_s)


def outcome_of(
    *runs: StageRun,
    status: PipelineStatus = PipelineStatus.SUCCESS,
    duration_s: float = 0.05,
    error_type: str | None = None,
    earlier: tuple[StageRun, ...] = (),
) -> QueryOutcome:
    """Build the outcome of a query."""
    return QueryOutcome(
        status, runs, (), 0.0, duration_s, budget_s=0.25, error_type=error_type, earlier=earlier
    )


def query_in(lane: str = "prod", flags: str | None = None) -> Envelope:
    """Build a query's envelope; *flags* are those of its trace, None if it has none."""
    headers = () if flags is None else (("traceparent", f"00-{TRACE_ID}-{'7' * 16}-{flags}".encode()),)
    return Envelope(NOT_FROM_KAFKA, "q", lane, trace_headers=headers, started_wall=1000.0)


def text_of(metrics: Metrics, accept: str = "") -> str:
    """Return all metrics in a format."""
    return render(metrics.registry, accept)[0].decode()


def families(text: str, parse: Any) -> list[Metric]:
    """Parse a page of metrics, which must be well-formed."""
    return list(parse(text))


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html, */*;q=0.8", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=nonsense", TEXT),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.7", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS),
        ("Application/OpenMetrics-Text;version=abc, */*;q=0.1", OPENMETRICS),
        (PROMETHEUS, OPENMETRICS),
    ],
)
def test_openmetrics_for_those_who_ask(metrics: Metrics, accept: str, content_type: str) -> None:
    """A client gets plain text unless it asks for OpenMetrics, and the page says which it is."""
    body, given = render(metrics.registry, accept)
    assert given.startswith(content_type)
    assert body.endswith(b"# EOF\n") is (content_type is OPENMETRICS)


def test_both_formats_are_well_formed_and_equal(metrics: Metrics) -> None:
    """Parsers of both formats read the same samples; exemplars are in OpenMetrics alone."""
    metrics.concluded(query_in(flags="01"), outcome_of(run_of(2, Outcome.SUCCESS, "math")), "")
    metrics.breaker_changed('la"ne\n', "no\\de", BreakerState.OPEN)
    found = []
    for accept, parse in (("", parse_text), (PROMETHEUS, parse_openmetrics)):
        samples_ = [one for family in families(text_of(metrics, accept), parse) for one in family.samples]
        found.append({(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples_})
    assert found[0] == found[1]
    assert TRACE_ID not in text_of(metrics)


def test_the_table_is_what_is_scraped(metrics: Metrics) -> None:
    """Each name of the table is unique, follows Prometheus's rules, and its HELP text is on the page."""
    names = [spec.name for spec in TABLE]
    assert len(set(names)) == len(names)
    helps = {family.name: family.documentation for family in families(text_of(metrics), parse_text)}
    for spec in TABLE:
        assert (spec.kind == "counter") is spec.name.endswith("_total"), spec.name
        assert (spec.unit == "seconds") is ("_seconds" in spec.name), spec.name
        assert bool(spec.buckets_s) is (spec.kind == "histogram"), spec.name
        shown = helps.get(spec.name.removesuffix("_total"))
        assert shown in {spec.meaning, None}, spec.name


def exemplars_of(metrics: Metrics, name: str) -> list[tuple[str, float, float]]:
    """Return trace id, value and time of each exemplar of a histogram."""
    return [
        (sample.exemplar.labels["trace_id"], sample.exemplar.value, float(sample.exemplar.timestamp or 0))
        for family in families(text_of(metrics, OPENMETRICS), parse_openmetrics)
        if family.name == name
        for sample in family.samples
        if sample.exemplar is not None
    ]


@pytest.mark.parametrize(("flags", "is_sampled"), [("01", True), ("03", True), ("00", False), ("02", False)])
def test_exemplars_of_sampled_queries(metrics: Metrics, flags: str, is_sampled: bool) -> None:  # noqa: FBT001
    """A sampled query leaves its trace id, duration and end in each histogram that it is counted in."""
    runs = run_of(0, Outcome.SUCCESS, took_s=0.002), run_of(2, Outcome.SUCCESS, "math", took_s=0.09)
    metrics.concluded(query_in(flags=flags), outcome_of(*runs, duration_s=0.1), "")
    whole, stages = [(TRACE_ID, 0.1, 1000.1)], [(TRACE_ID, 0.002, 1000.1), (TRACE_ID, 0.09, 1000.1)]
    for name, wanted in (
        ("lukhas_matriz_async_pipeline_duration_seconds", whole),
        ("messaging_process_duration_seconds", whole),
        ("lukhas_matriz_async_stage_duration_seconds", stages),
        ("fivestage_node_call_duration_seconds", stages[1:]),
        ("fivestage_queue_age_seconds", [(TRACE_ID, 0.0, 1000.1)]),
    ):
        assert exemplars_of(metrics, name) == (wanted if is_sampled else []), name


def test_the_newest_exemplar_is_kept() -> None:
    """A bucket has one exemplar, the newest, also where histograms are added up."""
    first, second, third = (TraceRef(str(number) * 32, 1000.0 + number) for number in range(3))
    tally, other = Tally((0.1, 0.25)), Tally((0.1, 0.25))
    tally.observe(0.2, second)
    other.observe(0.2, first)
    tally.add(other)
    tally.observe(0.05, first)
    tally.observe(0.05)
    tally.observe(0.3, first)
    tally.observe(0.3, third)
    shown: list[Any] = list(tally.buckets())
    assert [count for _, count, _ in shown] == [2.0, 4.0, 6.0]
    assert [exemplar.labels["trace_id"][0] for _, _, exemplar in shown] == ["0", "1", "2"]


async def test_calls_of_nodes_are_counted() -> None:
    """Each call counts by lane, node and outcome: those that another node followed too."""
    metrics = Metrics(topic="queries", group_id="g")
    app = samples.pipeline(bad=samples.FakeNode(0.03, fails=True), good=samples.FakeNode(0.02))
    async with MemoryBus(app, observer=metrics) as bus:
        await samples.ask_in_turn(bus, 1)
    lines = text_of(metrics).splitlines()
    calls, took = "fivestage_node_calls_total", "fivestage_node_call_duration_seconds"
    assert f'{calls}{{lane="prod",node="bad",outcome="error"}} 1.0' in lines
    assert f'{calls}{{lane="prod",node="good",outcome="success"}} 1.0' in lines
    assert f'{took}_bucket{{lane="prod",le="0.025",node="bad"}} 0.0' in lines
    assert f'{took}_bucket{{lane="prod",le="0.05",node="bad"}} 1.0' in lines
    assert f'{took}_bucket{{lane="prod",le="0.025",node="good"}} 1.0' in lines


def test_nodes_that_are_not_called_are_not_counted(metrics: Metrics) -> None:
    """A node that its breaker rejects is not called; an attempt that moved elsewhere counts once."""
    rejected = StageRun(PLAN.stages[2], Outcome.ERROR, node="open")
    given_up = run_of(2, Outcome.SKIPPED, "moved")
    metrics.concluded(query_in(), outcome_of(rejected, earlier=(given_up,)), "")
    assert "fivestage_node_calls_total{" not in text_of(metrics)


def test_no_answer_is_no_failure(metrics: Metrics) -> None:
    """A call that raised to say that its query has no answer is counted as excused."""
    unanswerable = run_of(2, Outcome.ERROR, "facts")
    unanswerable.excused = True
    metrics.concluded(query_in(), outcome_of(unanswerable), "")
    assert 'fivestage_node_calls_total{lane="prod",node="facts",outcome="excused"} 1.0' in text_of(metrics)


def test_counters_exist_before_their_first_event() -> None:
    """What is known in advance is 0 before the first query: rate() sees no series that is born above 0."""
    metrics = Metrics(topic="queries", group_id="g", lanes=["prod", "canary"], nodes=["math", "facts"])
    found = [sample for family in families(text_of(metrics), parse_text) for sample in family.samples]
    zeros = {(one.name, *(one.labels[name] for name in sorted(one.labels))) for one in found if not one.value}
    for lane in ("prod", "canary"):
        for status in PipelineStatus:
            assert ("lukhas_matriz_async_pipeline_total", lane, status, "false") in zeros
        for reason in (TimeoutReason.EXPIRED_BEFORE_START, TimeoutReason.WOULD_EXPIRE):
            assert ("fivestage_expired_total", lane, reason) in zeros
        assert ("fivestage_failovers_total", lane) in zeros
        for node in ("math", "facts"):
            for state in BreakerState:
                assert ("fivestage_breaker_transitions_total", lane, node, state) in zeros
    for name in ("math", "facts", *StageType):
        assert ("fivestage_blocked_event_loops_total", name) in zeros
    for unreadable in UnreadableReason:
        assert ("fivestage_dead_letters_total", unreadable) in zeros
    for replaced in REPLACED:
        assert ("fivestage_replaced_executors_total", replaced) in zeros
    for control, change in EVENTS:
        assert ("fivestage_control_changes_total", change, control) in zeros


def test_buckets_follow_the_budget() -> None:
    """With a budget of 4 s it is visible that queries take 90 % of it; the usual bounds are there too."""
    metrics = Metrics(topic="queries", group_id="g", budget_s=4.0)
    metrics.concluded(query_in(), outcome_of(run_of(2, Outcome.SUCCESS, "math"), duration_s=3.7), "")
    found = [one for family in families(text_of(metrics), parse_text) for one in family.samples]
    for name in ("lukhas_matriz_async_pipeline", "lukhas_matriz_async_stage"):
        buckets = {one.labels["le"] for one in found if one.name == f"{name}_duration_seconds_bucket"}
        assert buckets == {*map(str, BUCKETS_S), "3.2", "3.6", "4.0", "4.8", "+Inf"}
    name = "lukhas_matriz_async_pipeline_duration_seconds_bucket"
    counts = {one.labels["le"]: one.value for one in found if one.name == name}
    assert (counts["3.6"], counts["4.0"]) == (0.0, 1.0)


def test_reasons_of_rebuilds_are_known() -> None:
    """Each reason that the code gives for a rebuilt client is there before the first one."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "consumer").rglob("kafka/**/*.py"))
    given = set(re.findall(r'ClientFault\(\s*f?"(\w+|\{name\}_ended)"', sources)) - {"{name}_ended"}
    tasks = sources.partition("def ended_task")[2].partition("def _is_done")[0]
    given |= {f"{task}_ended" for task in re.findall(r'return "(\w+)"', tasks)}
    assert given == {reason for reasons in REBUILDS.values() for reason in reasons}


def hostile_queries() -> Iterable[tuple[Envelope, QueryOutcome]]:
    """Queries in more lanes, with more nodes and error types than are shown, that end in every way."""
    for number in range(3 * MAX_LANES):
        query = query_in(f"lane{number}")
        for status in (PipelineStatus.SUCCESS, PipelineStatus.TIMEOUT, PipelineStatus.ERROR):
            for duration_s in (0.1, 0.3):
                runs = [run_of(stage, ran, f"node{number}") for stage in range(5) for ran in RAN]
                runs += [StageRun(spec, Outcome.SKIPPED) for spec in PLAN.stages]
                runs[0].excused = True
                yield query, outcome_of(*runs, status=status, duration_s=duration_s)
        for other in range(3 * MAX_NODES):
            run = run_of(2, RAN[other % 3], f"node{other}")
            yield query, outcome_of(run, status=PipelineStatus.ERROR, error_type=f"Error{other}")


def flood(metrics: Metrics) -> None:
    """Report everything that has a label which producers or nodes choose."""
    for query, outcome in hostile_queries():
        metrics.concluded(query, outcome, "")
    for number in range(3 * MAX_LANES):
        lane = f"lane{number}"
        for reason in TimeoutReason:
            metrics.expired(query_in(lane), reason)
        metrics.shed(lane, refused=True)
        metrics.shed(lane, refused=False)
        metrics.failed_over(lane, 1)
        for node in range(3 * MAX_NODES):
            metrics.executor_stalled(f"node{node}", None)
            for state in BreakerState:
                metrics.breaker_changed(lane, f"node{node}", state)


def replace_workers(metrics: Metrics) -> None:
    """Replace workers whose resources did not open, each with another text of the author's error."""
    wires: list[Wire] = []

    def make(on_finished: OnFinished, _on_ready: Callable[[], None]) -> ProcessWorker:
        wires.append(Wire())
        return worker_over(wires[-1], on_finished)

    pool = WorkerPool(make, size=1, spares=0, stall_ms=30, observer=metrics)
    pool.launch(lambda _: None)
    for number in range(3):
        wires[-1].say(messages.NOT_OPEN, 0, f"ConnectionError: try {number}")
        wires[-1].gone = True
        pool.check(float(number))
    assert len(wires) == 4


async def test_the_number_of_series_is_bounded() -> None:
    """Hostile lanes, nodes, error types and texts stay below the stated number; the rest is ``other``."""
    metrics = Metrics(
        topic="queries", group_id="g", lanes=["lane0", "lane1"], nodes=["node0", "node1"], budget_s=4.0
    )
    flood(metrics)
    replace_workers(metrics)
    async with MemoryBus(samples.pipeline()) as bus:
        learned = bus.dispatcher.learned
        for query, outcome in hostile_queries():
            learned.lane(query.lane).concluded(outcome, [], 1.0, disturbed_at=-inf)
        for lane in learned.lanes.values():
            lane.refresh(2.0)
        add_gauges(
            metrics,
            dispatcher=bus.dispatcher,
            executor=bus.executor,
            ledger=bus.ledger,
            lag=dict,
            bus_lag_s=lambda: 0.0,
            is_ready=lambda: True,
        )
        series = [one for family in families(text_of(metrics), parse_text) for one in family.samples]
    assert 0.9 * MAX_SERIES < len(series) <= MAX_SERIES, len(series)
    most = {"lane": MAX_LANES + 1, "error_type": MAX_ERROR_TYPES + 1}
    for label, number in most.items():
        values = {one.labels[label] for one in series if label in one.labels}
        assert len(values) <= number, label
        assert "other" in values
    reasons = {one.labels["reason"] for one in series if one.name == "fivestage_replaced_executors_total"}
    assert reasons == set(REPLACED)
    before = len(series)
    flood(metrics)
    assert sum(len(one.samples) for one in families(text_of(metrics), parse_text)) == before
