"""Brokers replaced behind a stable bootstrap address, and rotated certificates."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.ledger import Ledger
from fivestage.kafka.aiokafka_internals import client_of
from fivestage.kafka.connection.clients import Clients
from fivestage.settings import KafkaSettings, Settings, TopicSettings
from support.certificates import Authority
from support.checker import wait_for_results
from support.feeder import event, write
from support.members import make_member
from support.mock import Mock
from support.operations import port_of
from support.operations import until as wait_until
from support.probe import counted, get
from support.process import ServiceProcess
from support.proxy import Proxy
from support.publisher import Publisher, until

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

pytestmark = [pytest.mark.broker, pytest.mark.fault(41)]
TOPICS = TopicSettings()


def test_brokers_that_are_replaced() -> None:
    """A service whose brokers are gone reconnects to the new ones behind its bootstrap address."""
    with (
        Mock(partitions=2) as old,
        Mock(partitions=2) as new,
        Proxy(old.bootstrap) as front,
        ServiceProcess("support.apps:load", front.address) as service,
    ):
        write(old.bootstrap, TOPICS.queries, [(None, event("before", "fast"))])
        wait_for_results(old.bootstrap, TOPICS.results, 1)
        front.target = new.bootstrap
        old.go_away()
        port = port_of(service)
        wait_until(lambda: get(port, "/readyz")[0] == 503, "unready")
        assert get(port, "/livez") == (200, "ok\n")
        wait_until(lambda: get(port, "/readyz") == (200, "ok\n"), "ready again", 120)
        write(new.bootstrap, TOPICS.queries, [(None, event("after", "fast"))])
        wait_for_results(new.bootstrap, TOPICS.results, 1)
        assert counted(port, "fivestage_client_rebuilds_total") == {
            '{client="consumer",reason="cut_off"}': 1,
            '{client="producer",reason="cut_off"}': 1,
        }
        assert service.end() == 0


async def test_which_clients_are_connected() -> None:
    """A client is connected unless its requests go unanswered, also when idle."""
    with Mock(partitions=1) as mock:
        settings = Settings.load(None, {"kafka": {"bootstrap_servers": mock.bootstrap}})
        publisher, member = Publisher(settings), make_member(settings, Ledger(max_span=10))
        await publisher.sink.start()
        await member.start()
        clients = Clients(settings.kafka, member, publisher.sink.producer)
        for _ in range(2):
            assert clients.all_have_answers()
            await _asked(clients)
        mock.go_away()
        clients.all_have_answers()
        await _asked(clients)
        clients.all_have_answers()  # of requests in flight
        await _asked(clients)
        assert not clients.all_have_answers()
        mock.come_back()
        await until(clients.all_have_answers)
        await member.stop()
        await publisher.sink.stop()


async def test_certificates_that_are_rotated(tmp_path: Path) -> None:
    """New connections use rotated files once these fit together; until then the old ones."""
    authority = Authority(tmp_path)
    certificate, key = authority.client("service")
    files = {"ssl_cafile": authority.file, "ssl_certfile": certificate, "ssl_keyfile": key}
    kafka = KafkaSettings.model_validate({"security_protocol": "SSL", **files})
    settings = Settings().model_copy(update={"kafka": kafka})
    publisher, member = Publisher(settings), make_member(settings, Ledger(max_span=10))
    clients = Clients(kafka, member, publisher.sink.producer)

    def contexts() -> list[ssl.SSLContext]:
        inner = client_of(member.consumer), publisher.sink.producer.client.client
        return [client._ssl_context for client in inner]

    before = contexts()
    clients.renew_certificates()
    assert contexts() == before
    fresh = key.read_bytes()
    key.write_text("half of it")
    clients.renew_certificates()
    assert contexts() == before
    key.write_bytes(fresh)
    clients.renew_certificates()
    [one, other] = contexts()
    assert one is other
    assert one not in before
    await member.stop()
    await publisher.sink.stop()


async def _asked(clients: Clients) -> None:
    """Wait until the clients have asked all brokers that they know."""
    for client in clients._connected():
        await until(functools.partial(_is_idle, client))


def _is_idle(client: Any) -> bool:
    return client._md_update_fut is None
