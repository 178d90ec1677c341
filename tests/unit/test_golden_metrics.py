"""The metrics of a service on the embedded broker, as scraped, compared with the reviewed list."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.codec.decode import UnreadableReason
from fivestage.core.observer import ControlChange
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.service.service import Service
from fivestage.settings import Settings, TopicSettings
from fivestage_schemas import TimeoutReason
from support import everything
from support.checker import wait_for_results
from support.feeder import event, write
from support.golden import compare
from unit.core.samples import envelope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage.observability.metrics import Metrics

TOPICS = TopicSettings()
OF_BUCKETS = {"le"}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Start a service that has answered a query."""
    async with EmbeddedBroker(TOPICS.all, partitions=1) as broker, contextlib.AsyncExitStack() as stack:
        given = {"kafka": {"bootstrap_servers": broker.bootstrap}, "admin": {"port": 0}}
        service = Service(Settings.model_validate(given), everything.pipeline())
        await service._start(stack)
        serving = asyncio.create_task(service._serve())
        try:
            await asyncio.to_thread(write, broker.bootstrap, TOPICS.queries, [("a", event("a", "answers"))])
            await asyncio.to_thread(wait_for_results, broker.bootstrap, TOPICS.results, 1)
            # as the next query would: gauges show it
            service.parts.dispatcher.learned.lane("prod").refresh(asyncio.get_running_loop().time())
            yield service
        finally:
            service.shutdown.ending.set()
            await serving


def report_what_is_rare(metrics: Metrics) -> None:
    """Report once each what a healthy service on one broker does not show."""
    metrics.expired(envelope(lane="prod", queue_s=0.1), TimeoutReason.WOULD_EXPIRE)
    metrics.unreadable("prod", UnreadableReason.NOT_JSON, answered=False)
    metrics.position_reset("deleted", 1)
    metrics.commit_failed("timeout")
    metrics.client_rebuilt("producer", "fenced")
    metrics.event_refused("publish_refused")
    metrics.throttled("producer", 0.1)
    metrics.executor_stalled("node", None)
    metrics.executor_replaced("stalled")
    metrics.breaker_changed("prod", "node", BreakerState.OPEN)
    metrics.control_changed(ControlChange("breaker", "open", "14 of 20 calls failed"))
    metrics.failed_over("prod", 1)
    metrics.shed("prod", refused=True)


@pytest.mark.broker
async def test_metrics(service: Service) -> None:
    """Each metric has its name, type and labels."""
    report_what_is_rare(service.metrics)
    address = f"http://127.0.0.1:{service.admin_port}/metrics"
    request = urllib.request.Request(address, headers={"Accept": "application/openmetrics-text"})
    with await asyncio.to_thread(urllib.request.urlopen, request, timeout=30) as response:
        text = response.read().decode()
    lines, bare = [], []
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        labels = {label for sample in family.samples for label in sample.labels} - OF_BUCKETS
        lines.append(f"{family.name}: {family.type}{{{', '.join(sorted(labels))}}}")
        if not family.samples:
            bare.append(family.name)
    assert not bare, "no sample shows their labels"
    compare("metrics.txt", sorted(lines))
