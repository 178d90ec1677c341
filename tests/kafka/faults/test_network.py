"""Network faults between a service and a real broker: lost responses, black holes, unresolved names."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from fivestage.errors import ConfigurationError
from fivestage.kafka.connection.preflight import preflight
from fivestage.settings import KafkaSettings
from kafka.broker import ADVERTISED, create_topics
from kafka.conftest import _lend
from kafka.faults.test_sasl import wait_until_unready
from kafka.test_service import settings_for
from support.checker import CUT_OFF, check, wait_for_results, wait_until_committed
from support.feeder import event, write
from support.process import ServiceProcess
from support.proxy import Mode, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kafka.broker import RealBroker

pytestmark = pytest.mark.kafka
SHORT = {
    "kafka__request_timeout_ms": 12_000,
    "kafka__rebalance_timeout_ms": 9_000,
    "kafka__session_timeout_ms": 2000,
    "kafka__heartbeat_interval_ms": 500,
}


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[RealBroker, Proxy]]:
    """Start a broker that is reachable through a proxy only, as ``localhost``."""
    with Proxy() as proxy:
        for broker in _lend(properties={ADVERTISED: f"localhost:{proxy.port}"}):
            proxy.target = broker.bootstrap
            yield broker, proxy


@pytest.fixture
def network(proxied: tuple[RealBroker, Proxy]) -> Iterator[tuple[RealBroker, Proxy]]:
    """Start the same with a working proxy."""
    yield proxied
    proxied[1].mode = Mode.PASS
    proxied[1].acks_to_lose = 0


@pytest.mark.fault(26)
def test_acknowledgements_are_lost(
    network: tuple[RealBroker, Proxy], record_property: Callable[[str, object], None]
) -> None:
    """Events written and not acknowledged are sent again, and the broker keeps the first."""
    broker, proxy = network
    topics = create_topics(broker, 2)
    ids = [f"q{n}" for n in range(200)]
    write(broker.bootstrap, topics.queries, [(name, event(name)) for name in ids])
    proxy.acks_lost, proxy.acks_to_lose = 0, 8
    with ServiceProcess("support.apps:load", proxy.address, settings_for(topics)) as service:
        wait_until_committed(broker.bootstrap, topics.prefix, topics.queries, len(ids))
        assert service.end() == 0
    assert proxy.acks_lost == 8
    report = check(broker.bootstrap, topics, ids, limits=CUT_OFF._replace(repeated=0))
    assert report.silent, report
    record_property("acknowledgements lost", proxy.acks_lost)
    record_property("events written twice", report.duplicates)


@pytest.mark.fault(37)
def test_connections_break(network: tuple[RealBroker, Proxy]) -> None:
    """All connections are reset three times under load: they are re-made, and nothing is lost."""
    broker, proxy = network
    topics = create_topics(broker, 2)
    with ServiceProcess("support.apps:load", proxy.address, settings_for(topics)) as service:
        for round_ in range(1, 4):
            ids = [f"q{n}" for n in range(100 * round_)]
            write(broker.bootstrap, topics.queries, [(name, event(name)) for name in ids[-100:]])
            ends_at = time.monotonic() + 30
            while not proxy.reset():  # the service may be about to connect again
                assert time.monotonic() < ends_at, "the service does not connect again"
                time.sleep(0.01)
        wait_until_committed(broker.bootstrap, topics.prefix, topics.queries, len(ids))
        assert service.end() == 0
    report = check(broker.bootstrap, topics, ids, limits=CUT_OFF)
    assert report.silent, report


@pytest.mark.fault(37)
@pytest.mark.long
def test_half_open_connections(
    network: tuple[RealBroker, Proxy], record_property: Callable[[str, object], None]
) -> None:
    """Connections that go dead without a close are replaced after kafka.request_timeout_ms.

    The idle producer learns it from the consumer: it sends nothing on a dead connection.
    """
    broker, proxy = network
    topics = create_topics(broker, 2)
    settings = settings_for(topics, kafka__request_timeout_ms=12_000, kafka__rebalance_timeout_ms=9_000)
    with ServiceProcess("support.apps:load", proxy.address, settings) as service:
        write(broker.bootstrap, topics.queries, [("a", event("a"))])
        wait_for_results(broker.bootstrap, topics.results, 1)
        proxy.mode = Mode.BLACK_HOLE
        proxy.mode = Mode.PASS  # for new connections
        dead_at = time.monotonic()
        write(broker.bootstrap, topics.queries, [(f"q{n}", event(f"q{n}")) for n in range(50)])
        wait_until_committed(broker.bootstrap, topics.prefix, topics.queries, 51, limit_s=60)
        record_property("half-open: recovered after s", round(time.monotonic() - dead_at, 1))
        assert service.end() == 0
    assert [line for line in service.log if line["event"] == "not published yet"] == []
    report = check(broker.bootstrap, topics, ["a", *(f"q{n}" for n in range(50))], limits=CUT_OFF)
    assert report.silent, report


@pytest.mark.fault(37)
@pytest.mark.long
def test_a_black_hole(
    network: tuple[RealBroker, Proxy], record_property: Callable[[str, object], None]
) -> None:
    """While all connections are swallowed the service is unready with the reason; then all is answered."""
    broker, proxy = network
    topics = create_topics(broker, 2)
    ids = [f"q{n}" for n in range(200)]
    settings = settings_for(topics, kafka__request_timeout_ms=12_000, kafka__rebalance_timeout_ms=9_000)
    with ServiceProcess("support.apps:load", proxy.address, settings) as service:
        write(broker.bootstrap, topics.queries, [(name, event(name)) for name in ids])
        wait_for_results(broker.bootstrap, topics.results, 1)
        proxy.mode = Mode.BLACK_HOLE
        wait_until_unready(service, "it accepts connections but does not answer within", limit_s=60)
        proxy.mode = Mode.PASS
        healed_at = time.monotonic()
        wait_until_committed(broker.bootstrap, topics.prefix, topics.queries, len(ids))
        record_property("black hole: recovered after s", round(time.monotonic() - healed_at, 1))
        assert service.end() == 0
    report = check(broker.bootstrap, topics, ids, limits=CUT_OFF)
    assert report.silent, report


@pytest.mark.fault(37)
@pytest.mark.parametrize("direction", [Mode.DROP_REQUESTS, Mode.DROP_RESPONSES], ids=lambda mode: mode.name)
def test_one_direction_is_cut(
    network: tuple[RealBroker, Proxy], direction: Mode, record_property: Callable[[str, object], None]
) -> None:
    """Connections to all brokers carry bytes one way: nothing is lost or committed early."""
    broker, proxy = network
    topics = create_topics(broker, 2)
    ids = [f"q{n}" for n in range(300)]
    settings = settings_for(topics, **SHORT)
    with ServiceProcess("support.apps:load", proxy.address, settings) as service:
        write(broker.bootstrap, topics.queries, [(name, event(name)) for name in ids[:150]])
        wait_for_results(broker.bootstrap, topics.results, 1)
        proxy.mode = direction
        wait_until_unready(service, "", limit_s=60)
        proxy.mode = Mode.PASS
        cut_at = time.monotonic()
        write(broker.bootstrap, topics.queries, [(name, event(name)) for name in ids[150:]])
        wait_until_committed(broker.bootstrap, topics.prefix, topics.queries, len(ids))
        record_property(f"{direction.name}: recovered after s", round(time.monotonic() - cut_at, 1))
        assert service.end() == 0
    report = check(broker.bootstrap, topics, ids, limits=CUT_OFF)
    assert report.silent, report


def own_names(folder: Path) -> tuple[Path, Path]:
    """Create a hosts file for one process and its children, and the command prefix that mounts it."""
    hosts, switch, python = folder / "hosts", folder / "nsswitch.conf", folder / "python"
    hosts.write_text("127.0.0.1 localhost\n")
    switch.write_text("hosts: files\n")
    mounts = " && ".join(f"mount --bind {path} /etc/{path.name}" for path in (hosts, switch))
    python.write_text(
        f'#!/bin/sh\nexec unshare -m sh -c \'{mounts} && exec "$0" "$@"\' {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return hosts, python


def forget(hosts: Path, name: str) -> None:
    """Change the file in place, as it is mounted."""
    hosts.write_text(f"127.0.0.1 not-{name}\n")


@pytest.mark.fault(34)
def test_a_name_that_does_not_resolve(network: tuple[RealBroker, Proxy], tmp_path: Path) -> None:
    """While the broker's name does not resolve the service is unready with the reason; then it continues.

    Uses a separate hosts file in a mount namespace, which needs root.
    """
    broker, proxy = network
    hosts, python = own_names(tmp_path)
    if subprocess.run([python, "-c", ""], capture_output=True, timeout=20, check=False).returncode:
        pytest.skip("no mount namespace here")
    topics = create_topics(broker, 2)
    with ServiceProcess(
        "support.apps:load", f"localhost:{proxy.port}", settings_for(topics), executable=str(python)
    ) as service:
        write(broker.bootstrap, topics.queries, [("a", event("a"))])
        wait_for_results(broker.bootstrap, topics.results, 1)
        forget(hosts, "localhost")
        assert proxy.reset() > 0
        wait_until_unready(
            service, f"cannot reach Kafka at localhost:{proxy.port}: the host name is not known"
        )
        write(broker.bootstrap, topics.queries, [("b", event("b"))])
        hosts.write_text("127.0.0.1 localhost\n")
        wait_for_results(broker.bootstrap, topics.results, 2)
        assert service.end() == 0
    report = check(broker.bootstrap, topics, ["a", "b"], limits=CUT_OFF)
    assert report.silent, report


@pytest.mark.fault(37)
async def test_the_modes_of_the_proxy(kafka: RealBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mode of the proxy does what it says to a request for the topics."""
    with Proxy(kafka.bootstrap) as proxy:
        settings = KafkaSettings(bootstrap_servers=proxy.address)
        await preflight(settings)
        proxy.mode, proxy.delay_s = Mode.LATENCY, 0.01
        await preflight(settings)
        monkeypatch.setattr("fivestage.kafka.connection.preflight.HANDSHAKE_TIMEOUT_S", 1.0)
        for mode in (Mode.GARBAGE, Mode.BLACK_HOLE, Mode.DROP_RESPONSES):
            proxy.mode = mode
            with pytest.raises(ConfigurationError, match=f"cannot reach Kafka at {proxy.address}: it "):
                await preflight(settings)
