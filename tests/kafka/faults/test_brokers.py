"""Broker outages: three real brokers, a service under load, and the checker at the end."""

from __future__ import annotations

import asyncio
import faulthandler
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.protocol.admin import DescribeConfigsRequest

from fivestage.kafka.connection.preflight import ask
from fivestage.kafka.topics import BATCH_OVERHEAD_BYTES, largest_records
from fivestage.kafka.topics import check as check_topics
from fivestage.settings import KafkaSettings, Settings, TopicSettings
from kafka.cluster import lend_cluster
from kafka.test_service import settings_for
from support.checker import (
    CpuWatch,
    History,
    Instance,
    Limits,
    MetricsWatch,
    Report,
    judge,
    read_history,
    wait_until_committed,
)
from support.feeder import Feeder, write
from support.members import make_source
from support.operations import Operator, until
from support.probe import counted, get
from support.process import ServiceProcess
from support.watches import sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kafka.broker import RealBroker, TopicSet
    from kafka.cluster import Cluster

    Record = Callable[[str, object], None]

pytestmark = pytest.mark.kafka
LIMITS = Limits(in_flight=256, unfinished=1100, late_s=1.0, written_late_s=None, shutdown_s=15.0)
RATE = 150.0
WAIT_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Lend three brokers shared by these tests; each test leaves them in sync."""
    yield from lend_cluster()


@dataclass
class Run:
    """A service under load."""

    topics: TopicSet
    feeder: Feeder
    service: ServiceProcess
    instance: Instance
    history: History


@contextmanager
def under_load(cluster: Cluster, count: int) -> Iterator[Run]:
    """Run a service under load; at the end of the block all is answered, committed and read."""
    topics, bootstrap = cluster.create_topics(), cluster.bootstrap
    with (
        ServiceProcess("support.apps:load", bootstrap, settings_for(topics)) as service,
    ):
        assert service.process is not None
        instance = Instance("service", service.process.pid, service.log[-1]["admin_port"])
        with (
            MetricsWatch(lambda: [instance]) as metrics,
            CpuWatch(lambda: [instance]) as cpu,
            Feeder(bootstrap, topics.queries, count=count, rate=RATE) as feeder,
        ):
            run = Run(topics, feeder, service, instance, History(set()))
            yield run
            wait_until_committed(bootstrap, topics.prefix, topics.queries, count)
        assert service.end() == 0
    seen = read_history(bootstrap, topics, feeder.ids)
    run.history = replace(seen, rejects=set(), samples=metrics.samples, starved=cpu.starved)


def judged(run: Run, record: Record, limits: Limits = LIMITS) -> Report:
    """Return the checker's report, and record its figures for the table of faults."""
    report = judge(run.history, limits)
    written = sorted(record.timestamp_ms / 1000 for record in run.history.outputs["results"])
    gap_s = max(after - before for before, after in pairwise(written))
    record("queries", len(run.history.asked))
    record("longest gap s", round(gap_s, 1))
    record("duplicates", report.duplicates)
    return report


def is_ready(instance: Instance) -> bool:
    """Return the status of ``/readyz``."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{instance.admin_port}/readyz", timeout=5):
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return False


def wait_until(condition: Callable[[], bool], text: str) -> None:
    """Poll until a condition holds."""
    end, pause = time.monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < end, text
        pause.wait(0.1)


@pytest.mark.fault(1)
@pytest.mark.long  # as in most runs of `make chaos`
def test_one_broker_restarts(cluster: Cluster, record_property: Record) -> None:
    """One of three brokers restarts under load: nothing is lost, nothing committed too early."""
    with under_load(cluster, 900) as run:
        run.feeder.wait_until_sent(200)
        cluster.stop(1)
        cluster.start(1)
        cluster.wait_until_in_sync()
    report = judged(run, record_property)
    assert report.silent, report


@pytest.mark.fault(1)
def test_start_while_a_broker_is_away(cluster: Cluster) -> None:
    """Queries of before the start are answered although one listed broker is dead."""
    topics = cluster.create_topics(1)
    Operator(cluster.bootstrap).limit_records(topics.results, 20_000)
    names = {name: getattr(topics, name) for name in TopicSettings.model_fields if name != "create"}
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=cluster.bootstrap), topics=TopicSettings(**names)
    )

    async def largest() -> int:
        await check_topics(settings)
        return (await largest_records(settings)).events

    until(lambda: _limits(cluster, settings) == {"20000"}, "each broker knows the limit")
    cluster.kill(2)
    sizes = {asyncio.run(largest()) for _ in range(10)}  # each takes the first answer, of any broker
    cluster.start(2)
    cluster.wait_until_in_sync()
    assert sizes == {20_000 - BATCH_OVERHEAD_BYTES}


def _limits(cluster: Cluster, settings: Settings) -> set[str]:
    """The largest record of the results, as each broker knows it."""
    resource = (ConfigResourceType.TOPIC, settings.topics.results, ["max.message.bytes"])

    async def known(broker: RealBroker) -> str:
        host, _, port = broker.bootstrap.rpartition(":")
        response = await ask(settings.kafka, host, int(port), DescribeConfigsRequest([resource]))
        return str(response.resources[0][-1][0][1])

    return {asyncio.run(known(broker)) for broker in cluster.brokers.values()}


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    "away_s", [0, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
def test_all_brokers_away(cluster: Cluster, record_property: Record, away_s: int) -> None:
    """All brokers end at once: the service reads up to its cap, reports it, and catches up later.

    During any outage it neither ends nor rebuilds its clients.
    """
    if away_s:  # longer than any other test may take
        faulthandler.cancel_dump_traceback_later()
    with under_load(cluster, 900 + int(min(away_s, 30) * RATE)) as run:
        run.feeder.wait_until_sent(300)
        before = sample(run.instance)
        cluster.kill_all()
        began = time.monotonic()
        wait_until(lambda: not is_ready(run.instance), "the service is unready")
        threading.Event().wait(
            began + away_s - time.monotonic()
        )  # the duration of the outage is the fault itself
        away = sample(run.instance)
        assert get(run.instance.admin_port, "/livez") == (200, "ok\n")
        assert "cannot reach Kafka" in get(run.instance.admin_port, "/readyz")[1] or not away_s
        cluster.start_all()
        cluster.wait_until_in_sync()
        wait_until(lambda: is_ready(run.instance), "the service is ready again")
        assert counted(run.instance.admin_port, "fivestage_client_rebuilds_total") == {}
    record_property("MB before", round(before.rss_mb))
    record_property("MB away", round(away.rss_mb))
    report = judged(run, record_property, LIMITS._replace(rss_mb=before.rss_mb + 100))
    assert report.silent, report


@pytest.mark.fault(3)
def test_leaders_move(cluster: Cluster, record_property: Record) -> None:
    """Every partition of all topics gets another leader under load: nothing is lost."""
    with under_load(cluster, 900) as run:
        before = cluster.leaders(*run.topics.names)
        run.feeder.wait_until_sent(200)
        cluster.move_leaders(*run.topics.names)
        after = cluster.leaders(*run.topics.names)
    assert len(after) == 20
    assert [place for place, leader in after.items() if leader == before[place]] == []
    report = judged(run, record_property)
    assert report.silent, report


@pytest.mark.fault(4)
def test_coordinator_moves(cluster: Cluster, record_property: Record) -> None:
    """The group's coordinator ends: another broker takes over, and commits resume."""
    with under_load(cluster, 900) as run:
        group = run.topics.prefix
        node = cluster.wait_for_coordinator(group)
        run.feeder.wait_until_sent(200)
        cluster.kill(node)
        cluster.wait_for_coordinator(group, other_than=node)
        run.feeder.wait_until_sent(900)
        wait_until_committed(cluster.bootstrap, group, run.topics.queries, 900)
        cluster.start(node)
        cluster.wait_until_in_sync()
    report = judged(run, record_property)
    assert report.silent, report


async def test_records_are_read_in_the_rack(cluster: Cluster) -> None:
    """With ``kafka.client_rack`` every partition is read from that rack's broker, whichever leads it."""
    topics = cluster.create_topics(6)
    leaders = cluster.leaders(topics.queries).items()
    followed = {TopicPartition(*place) for place, leader in leaders if leader != 2}
    assert followed
    kafka = {"bootstrap_servers": cluster.bootstrap, "group_id": topics.prefix, "client_rack": "rack-2"}
    settings = Settings.load(None, {"kafka": kafka, "topics": {"queries": topics.queries}})

    source = make_source(settings)
    await source.start()
    write(cluster.bootstrap, topics.queries, [(str(number), b"{}") for number in range(60)])
    fetcher: Any = source.consumer._fetcher
    replicas, count = fetcher._preferred_read_replica, 0
    try:
        async with asyncio.timeout(WAIT_S):
            while count < 60 or not followed <= set(replicas):
                count += len(await source.fetch(10))
    finally:
        await source.stop()
    assert {node for node, _ in replicas.values()} == {2}
