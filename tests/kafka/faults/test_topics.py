"""Topics, positions and rights that change while the service runs."""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.kafka.tools.client import follow
from fivestage.settings import Settings
from kafka.test_service import DENY, settings_for
from support.checker import (
    CUT_OFF,
    UNTIMED,
    Limits,
    check,
    committed,
    read_all,
    wait_for_results,
    wait_until_committed,
)
from support.feeder import Feeder, event, write
from support.operations import Operator, logged, port_of, until
from support.probe import get, metrics
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from kafka.broker import RealBroker, TopicSet
    from kafka.conftest import MakeTopics
    from support.operations import RecordProperty

pytestmark = pytest.mark.kafka
APP = "support.apps:load"


def ask(kafka: RealBroker, topics: TopicSet, first: int, end: int) -> list[str]:
    """Write queries with these numbers; return their ids."""
    ids = [f"q{number}" for number in range(first, end)]
    write(kafka.bootstrap, topics.queries, [(name, event(name, "fast")) for name in ids])
    return ids


@pytest.mark.fault(22)
def test_an_output_topic_is_deleted_under_load(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Unready with the reason; commits wait for unpublished events; all is well when the topic is back."""
    topics, operator = make_topics(4), Operator(kafka.bootstrap)
    count = 1000  # with more, the service would stop reading before a busy machine knows why
    with (
        Feeder(kafka.bootstrap, topics.queries, count=count, rate=100, user_input="fast") as feeder,
        ServiceProcess(APP, kafka.bootstrap, settings_for(topics)) as service,
    ):
        wait_for_results(kafka.bootstrap, topics.results, 100)
        operator.delete_topic(topics.stage_results)
        gone = (503, f"topic {topics.stage_results!r} does not exist any more\n")
        until(lambda: get(port_of(service), "/readyz") == gone, "unready")
        at_most = len(read_all(kafka.bootstrap, topics.results))  # brokers delete some time after they say so
        wait_for_results(kafka.bootstrap, topics.results, min(at_most + 50, count))
        assert sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) <= at_most
        assert get(port_of(service), "/livez") == (200, "ok\n")
        operator.create_topic(topics.stage_results, 4)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, count)
        until(lambda: get(port_of(service), "/readyz") == (200, "ok\n"), "ready again")
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, feeder.ids, limits=CUT_OFF._replace(repeated=0))
    gone_with_it = {text.split()[0].removesuffix("/result") for text in report.incomplete}
    assert 0 < len(gone_with_it) <= at_most
    ahead = {f"{topics.queries}/{text.split(',')[0]}" for text in report.commit_ahead}
    assert ahead <= gone_with_it  # what was committed before its stage results were deleted
    report.incomplete, report.commit_ahead = [], []
    assert report.silent, report
    assert len(service.log) < 60


@pytest.mark.long  # the new topic is seen after METADATA_MAX_AGE_MS
@pytest.mark.fault(22)
def test_the_input_topic_is_recreated(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Unready with the reason; the recreated topic is read from its beginning."""
    topics, operator = make_topics(2), Operator(kafka.bootstrap)
    with ServiceProcess(APP, kafka.bootstrap, settings_for(topics)) as service:
        ids = ask(kafka, topics, 0, 100)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 100)
        first = check(kafka.bootstrap, topics, ids)
        operator.delete_topic(topics.queries)
        gone = (503, f"topic {topics.queries!r} does not exist any more\n")
        until(lambda: get(port_of(service), "/readyz") == gone, "unready")
        operator.create_topic(topics.queries, 2)
        ids += ask(kafka, topics, 100, 150)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 50)
        wait_for_results(kafka.bootstrap, topics.results, 150)
        assert get(port_of(service), "/readyz") == (200, "ok\n")
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids)
    assert first.silent, first
    # The checker reads the recreated topic: it has no record of queries that were answered before.
    assert set(report.lost) == set(ids[:100]), report
    assert all("there is no such record" in text for text in report.phantom), report
    # Its records have the offsets of earlier ones, so their events have the same ids again.
    assert all(why.startswith("query_id differs") for why in report.contradictions.values()), report


@pytest.mark.long  # tests/kafka has it at the start, which is faster
@pytest.mark.fault(23)
@pytest.mark.parametrize("own_kafka", [DENY], indirect=True)
def test_rights_are_taken_away(own_kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Each exits the service with 2 and a line that names the right; nothing is committed early."""
    operator = Operator(own_kafka.bootstrap)
    for kind, taken, right, text in (
        ("TOPIC", "results", "WRITE", "not allowed to write topic {results!r}"),
        ("TOPIC", "queries", "READ", "not allowed to read topic {queries!r}"),
        ("GROUP", "prefix", "READ", "not allowed to use group {prefix!r}"),
    ):
        topics = make_topics(2, own_kafka)
        names = {"results": topics.results, "queries": topics.queries, "prefix": topics.prefix}
        ask(own_kafka, topics, 0, 100)
        with ServiceProcess(APP, own_kafka.bootstrap, settings_for(topics)) as service:
            wait_until_committed(own_kafka.bootstrap, topics.prefix, topics.queries, 100)
            operator.deny(kind, names[taken], right)
            ask(own_kafka, topics, 100, 200)
            assert service.wait() == 2, service.log[-3:]
        assert text.format(**names) in service.log[-1]["error"]
        if kind != "GROUP":  # otherwise positions cannot be looked up either
            answered = len(read_all(own_kafka.bootstrap, topics.results))
            assert sum(committed(own_kafka.bootstrap, topics.prefix, topics.queries).values()) <= answered


@pytest.mark.fault(32)
def test_records_are_deleted_while_the_service_is_stopped(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty
) -> None:
    """A service that starts before the log's beginning reports and counts the lost records, and continues."""
    topics, operator = make_topics(1), Operator(kafka.bootstrap)
    ask(kafka, topics, 0, 100)
    operator.set_position(topics.prefix, topics.queries, 0, 100)
    ids = ask(kafka, topics, 100, 500)
    operator.delete_records(topics.queries, 0, 400)
    with ServiceProcess(APP, kafka.bootstrap, settings_for(topics)) as service:
        gap = _gap_of(service)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 500)
        assert service.end() == 0
    record_property("skipped", gap["skipped"])
    assert (gap["position"], gap["offset"], gap["skipped"]) == (100, 400, 300)
    _check_gap(kafka, topics, ids, gap)


@pytest.mark.fault(32)
def test_records_are_deleted_before_a_slow_reader(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """A service overtaken by retention reports and counts the lost records, and continues."""
    topics = make_topics(1)
    ids = ask(kafka, topics, 0, 100)
    with ServiceProcess(APP, kafka.bootstrap, settings_for(topics)) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 100)
        assert service.process is not None
        service.process.send_signal(signal.SIGSTOP)
        ids += ask(kafka, topics, 100, 101)  # a running fetch brings this one, and no other is made
        ids += ask(kafka, topics, 101, 3000)
        Operator(kafka.bootstrap).delete_records(topics.queries, 0, 2900)
        service.process.send_signal(signal.SIGCONT)
        gap = _gap_of(service)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 3000)
        assert service.end() == 0
    _check_gap(kafka, topics, ids, gap, UNTIMED)


def _gap_of(service: ServiceProcess) -> dict[str, Any]:
    """Return the log line of the lost records, and compare it with the metrics."""
    gap = logged(service, "records were deleted before they were read")
    assert metrics(port_of(service), "fivestage_skipped_records_total") == {"": gap["skipped"]}
    return gap


def _check_gap(
    kafka: RealBroker, topics: TopicSet, ids: list[str], gap: dict[str, Any], limits: Limits | None = None
) -> None:
    """Assert that exactly the skipped records have no answer."""
    report = check(kafka.bootstrap, topics, ids, limits=limits)
    skipped = {f"q{number}" for number in range(gap["position"], gap["offset"])}
    assert set(report.lost) == skipped
    report.lost = []
    assert report.silent, report
    assert report.surplus == {}


@pytest.mark.fault(32)
def test_all_records_are_deleted_before_they_are_read(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """The position moves past the gap without further records: a successor does not count it again."""
    topics, operator = make_topics(1), Operator(kafka.bootstrap)
    ask(kafka, topics, 0, 50)
    operator.set_position(topics.prefix, topics.queries, 0, 10)
    operator.delete_records(topics.queries, 0, 50)
    with ServiceProcess(APP, kafka.bootstrap, settings_for(topics)) as service:
        assert _gap_of(service)["skipped"] == 40
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 50)
        ids = ask(kafka, topics, 50, 60)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 60)
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids)
    assert report.silent, report


@pytest.mark.fault(32)
@pytest.mark.parametrize("to_end", [True, False])
async def test_records_are_deleted_before_a_command_reads_them(
    kafka: RealBroker, make_topics: MakeTopics, *, to_end: bool
) -> None:
    """Commands that follow a topic, or read it to its end, continue with the earliest record left."""
    topics = make_topics(1)
    large = b"x" * 600_000  # a fetch brings one or two
    for number in range(12):
        write(kafka.bootstrap, topics.dead_letters, [(str(number), large)])
    settings = Settings.load(None, {"kafka": {"bootstrap_servers": kafka.bootstrap}})
    reading = follow(settings, topics.dead_letters, from_beginning=True, to_end=to_end)
    offsets = [(await anext(reading)).offset]
    Operator(kafka.bootstrap).delete_records(topics.dead_letters, 0, 10)
    async with asyncio.timeout(60), aclosing(reading):
        async for record in reading:
            offsets.append(record.offset)
            if record.offset == 11 and not to_end:
                break
    assert offsets[0] == 0
    assert offsets[-2:] == [10, 11]
    assert offsets == sorted(set(offsets))
    assert len(offsets) < 12


@pytest.mark.fault(33)
def test_an_operator_changes_the_committed_position(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Gone or beyond the end: from the earliest record on; moved back: from there. Lag is never negative."""
    topics, operator = make_topics(1), Operator(kafka.bootstrap)
    ids, answers = ask(kafka, topics, 0, 100), 0
    changes: dict[str, tuple[Callable[[], None], int]] = {
        "beyond_end": (lambda: operator.set_position(topics.prefix, topics.queries, 0, 5000), 100),
        "none": (lambda: operator.forget_group(topics.prefix), 100),
        "": (lambda: operator.set_position(topics.prefix, topics.queries, 0, 40), 60),
    }
    for reason, (change, again) in changes.items():
        change()
        answers += again
        resets = _answer(kafka, topics, answers)
        assert resets == ({f'{{reason="{reason}"}}': 1} if reason else {})
    report = check(kafka.bootstrap, topics, ids)
    assert [text.split(",")[0] for text in report.commit_ahead] == [f"0/{n}" for n in range(5000)]
    went_back = report.commit_regressions
    back = went_back.index("0: 100 -> 40")
    assert went_back[back - 1] == "0: 5000 -> 100"
    assert all(
        text.startswith("0: 5000 -> ") for text in went_back[:back]
    )  # a slow service commits on the way
    assert all(text.startswith("0: 100 -> ") for text in went_back[back:])
    report.commit_ahead, report.commit_regressions = [], []  # they are the operator's
    assert report.silent, report
    assert report.duplicates == answers - 100


def _answer(kafka: RealBroker, topics: TopicSet, answers: int) -> dict[str, float]:
    """Run a service until this many answers are committed; return the positions that it gave up."""
    with ServiceProcess(APP, kafka.bootstrap, settings_for(topics)) as service:
        port = port_of(service)
        wait_for_results(kafka.bootstrap, topics.results, answers)
        until(lambda: committed(kafka.bootstrap, topics.prefix, topics.queries) == {0: 100}, "committed")
        assert min(metrics(port, "fivestage_lag").values()) >= 0
        resets = metrics(port, "fivestage_position_resets_total")
        assert service.end() == 0
    return resets
