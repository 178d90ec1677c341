"""A real broker that returns at another address, behind a stable bootstrap address."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from kafka.broker import ADVERTISED, create_topics
from kafka.conftest import _lend
from kafka.test_service import settings_for
from support.checker import CUT_OFF, check, wait_for_results, wait_until_committed
from support.feeder import Feeder
from support.operations import port_of, until
from support.probe import counted, get
from support.process import ServiceProcess
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka.broker import RealBroker
    from support.operations import RecordProperty

pytestmark = [pytest.mark.kafka, pytest.mark.fault(41)]


@pytest.fixture
def moving() -> Iterator[tuple[RealBroker, contextlib.ExitStack]]:
    """Start a broker whose clients use a proxy, which is closed with the stack."""
    with contextlib.ExitStack() as old:
        proxy = old.enter_context(Proxy())
        for broker in _lend(properties={ADVERTISED: proxy.address}):
            proxy.target = broker.bootstrap
            yield broker, old


def test_brokers_at_other_addresses(
    moving: tuple[RealBroker, contextlib.ExitStack], record_property: RecordProperty
) -> None:
    """The broker moves under load: the service reconnects by its bootstrap address, and nothing is lost."""
    broker, old = moving
    topics = create_topics(broker, 4)
    with (
        Proxy(broker.bootstrap) as front,
        Proxy(broker.bootstrap) as new,
        ServiceProcess("support.apps:load", front.address, settings_for(topics)) as service,
        Feeder(front.address, topics.queries, count=1200, rate=100) as feeder,
    ):
        wait_for_results(broker.bootstrap, topics.results, 300)
        broker.stop()
        old.close()
        broker.engine.advertise(new.address)
        broker.start()
        until(lambda: get(port_of(service), "/readyz") == (200, "ok\n"), "ready again", 120)
        wait_until_committed(new.address, topics.prefix, topics.queries, 1200)
        rebuilt = counted(port_of(service), "fivestage_client_rebuilds_total")
        assert rebuilt == dict.fromkeys(
            ('{client="consumer",reason="cut_off"}', '{client="producer",reason="cut_off"}'), 1
        )
        assert service.end() == 0
        report = check(new.address, topics, feeder.ids, limits=CUT_OFF)
    record_property("answered twice", report.duplicates)
    assert report.silent, report
