"""Self-repair on a real broker, which checks sequence numbers and generations unlike the mock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.checker import CUT_OFF, check, wait_for_results, wait_until_committed
from support.embedded import patient
from support.feeder import Feeder, event, write
from support.probe import counted
from support.process import ServiceProcess

from .test_service import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from .broker import RealBroker, TopicSet


@pytest.mark.fault(27, 38)
def test_clients_are_rebuilt(
    kafka: RealBroker, topics: TopicSet, record_property: Callable[[str, object], None]
) -> None:
    """A gap in the producer's sequence, and consumers whose tasks end, cost one rebuild each."""
    broken = ("gap", "kill fetch", "kill group")
    settings = {**patient(), **settings_for(topics)}
    with ServiceProcess("support.sabotage:app", kafka.bootstrap, settings) as service:
        port = service.log[-1]["admin_port"]
        with Feeder(kafka.bootstrap, topics.queries, count=1500, rate=300) as feeder:
            for number, text in enumerate(broken, start=1):
                feeder.wait_until_sent(number * 300)
                write(kafka.bootstrap, topics.queries, [(text, event(f"break-{number}", text))])
                service.wait_for("rebuilt")
        ids = [*feeder.ids, "break-1", "break-2", "break-3"]
        wait_for_results(kafka.bootstrap, topics.results, len(ids))
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, len(ids))
        assert counted(port, "fivestage_client_rebuilds_total") == {
            '{client="producer",reason="OutOfOrderSequenceNumber"}': 1,
            '{client="consumer",reason="fetch_ended"}': 1,
            '{client="consumer",reason="group_ended"}': 1,
        }
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids, limits=CUT_OFF)
    assert report.silent, report
    record_property("rebuilds", len(broken))
    record_property("answered twice", report.duplicates)
