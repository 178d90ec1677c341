"""Consumer groups on the embedded broker: restarts, kills, and several members."""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from fivestage.core.ledger import Ledger
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.kafka.embedded_group import EmbeddedConsumer
from fivestage.settings import Settings, TopicSettings
from support.checker import json_of, read_all
from support.feeder import event, write
from support.members import make_member
from support.operations import port_of, until
from support.probe import metrics
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.broker
TOPICS = TopicSettings()
LIMIT_S = 60.0
PROCESSES = {
    "executor.kind": "process",
    "executor.workers": 2,
    "executor.stall_ms": 20_000,  # a busy machine stalls them for longer than the default
    "pipeline.total_timeout_ms": 60_000,
    "pipeline.stage_timeouts_ms": {"processing": 60_000},
}


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """Start an embedded broker with the five topics."""
    async with EmbeddedBroker(TOPICS.all, partitions=4) as broker:
        yield broker.bootstrap


async def test_a_restart_is_let_in(bootstrap: str) -> None:
    """After a clean stop the group has no member left: a restart joins without a timeout."""
    for _ in range(2):
        with ServiceProcess("support.apps:load", bootstrap) as service:
            assert service.end(signal.SIGINT) == 0
        assert [line for line in service.log if line["level"] != "info"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_process_group(bootstrap: str, number: signal.Signals) -> None:
    """When all processes get the signal, workers finish their queries and end with the service."""
    with ServiceProcess("support.pipelines:app", bootstrap, PROCESSES, own_group=True) as service:
        assert service.process is not None
        write(bootstrap, TOPICS.queries, [("a", event("a", "naps 1"))])
        until(lambda: metrics(port_of(service), "fivestage_in_flight") == {"": 1}, "the query runs")
        os.killpg(service.process.pid, number)
        assert service.wait() == 0
        assert [line for line in service.log if line["level"] != "info"] == []
    [result] = read_all(bootstrap, TOPICS.results)
    assert json_of(result)["status"] == "success"


async def test_a_wait_for_the_group_is_logged_once(bootstrap: str) -> None:
    """After a kill the group keeps the old member for a while: the next one logs once that it waits."""
    killed, waiting = Sharing(bootstrap), Sharing(bootstrap)
    await killed.member.start()
    await _until_shared([killed])
    aiokafka_internals.abort_consumer(killed.member.consumer)  # without leaving the group, as a kill
    await waiting.member.start()
    joining = asyncio.create_task(_until_shared([waiting]))
    with capture_logs() as log:
        async with asyncio.timeout(60):
            while not joining.done():
                waiting.member.look()
                await asyncio.wait({joining}, timeout=0.1)
    await joining
    waits = [line for line in log if line["event"] == "waiting for the group"]
    assert [(line["group"], line["at_most_s"]) for line in waits] == [("fivestage", 10.0)]
    await waiting.end()
    await killed.end()


async def test_several_members_share_the_partitions(bootstrap: str) -> None:
    """Three members share all partitions, and so do the remaining two."""
    members = [Sharing(bootstrap) for _ in range(3)]
    async with asyncio.timeout(60):
        await asyncio.gather(*[one.member.start() for one in members])
        await _until_shared(members)
        leaving = members.pop()
        await leaving.end()
        await _until_shared(members)
        await asyncio.gather(*[one.end() for one in members])


class Sharing:
    """A member that polls, and its partitions."""

    def __init__(self, bootstrap: str) -> None:
        settings = Settings.load(None, {"kafka": {"bootstrap_servers": bootstrap}})
        self.ledger = Ledger(max_span=1000)
        self.member = make_member(settings, self.ledger, make_consumer=EmbeddedConsumer)

    @property
    def partitions(self) -> list[int]:
        return [key.partition for key in self.ledger.partitions]

    async def end(self) -> None:
        await self.member.stop()


async def _until_shared(members: list[Sharing]) -> None:
    """Poll until each member has partitions and each partition one member."""

    def shared() -> bool:
        shares = [one.partitions for one in members]
        return all(shares) and sorted(chain.from_iterable(shares)) == [0, 1, 2, 3]

    try:
        async with asyncio.timeout(LIMIT_S):
            while not shared():
                await asyncio.gather(*[one.member.fetch(100) for one in members])
    except TimeoutError:
        shares = [one.partitions for one in members]
        raise AssertionError(f"not shared within {LIMIT_S:g} s: {shares}") from None
