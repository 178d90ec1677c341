"""The broker of these tests is a real Kafka, and its fixtures work."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from .broker import (
    IN_MEMORY,
    AttachedEngine,
    BrokerError,
    DockerEngine,
    Unavailable,
    acquire,
    external_broker,
)

if TYPE_CHECKING:
    from pathlib import Path

    from .broker import RealBroker, TopicSet
    from .conftest import MakeTopics

LONG = pytest.mark.long
"""For tests of what every other test with a broker relies on."""
ALICE = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="alice" password="wonder";',
}
SECURED = {
    "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.client.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
    'required user_alice="wonder";',
}


def produce(broker: RealBroker, topic: str, *values: str) -> None:
    """Write values with Kafka's console producer."""
    text = "".join(f"{value}\n" for value in values)
    broker.exec_tool("kafka-console-producer", "--topic", topic, input=text.encode())


def consume(broker: RealBroker, topic: str, count: int) -> list[str]:
    """Read the first values of a topic with Kafka's console consumer."""
    limits = ["--from-beginning", "--max-messages", str(count), "--timeout-ms", "20000"]
    return broker.exec_tool("kafka-console-consumer", "--topic", topic, *limits).splitlines()


def test_console_tools(kafka: RealBroker, topics: TopicSet) -> None:
    """Kafka's own consumer reads the records of Kafka's own producer."""
    produce(kafka, topics.queries, "one", "zwei", "trois")
    assert sorted(consume(kafka, topics.queries, 3)) == ["one", "trois", "zwei"]


@LONG
def test_version(kafka: RealBroker) -> None:
    """The broker is Kafka 4: it has features that are recorded only in Kafka's own storage format."""
    assert "metadata.version" in kafka.exec_tool("kafka-features", "describe")


def test_kcat(kafka: RealBroker, topics: TopicSet) -> None:
    """A foreign client, kcat, is served from outside the broker's machine."""
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed")
    base = ["kcat", "-b", kafka.bootstrap, "-t", topics.results]
    subprocess.run([*base, "-P"], input=b"from kcat\n", check=True, timeout=30)
    assert consume(kafka, topics.results, 1) == ["from kcat"]
    read = subprocess.run([*base, "-C", "-e", "-q"], capture_output=True, check=True, timeout=30)
    assert read.stdout == b"from kcat\n"


@LONG
def test_topics(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Each set of topics has its own prefix and the requested partitions."""
    first, second = make_topics(), make_topics(partitions=1)
    listed = kafka.exec_tool("kafka-topics", "--describe", "--topic", second.dead_letters)
    assert "PartitionCount: 1" in listed
    names = set(kafka.exec_tool("kafka-topics", "--list").split())
    assert names >= {*first.names, *second.names}
    assert len({*first.names, *second.names}) == 10


def test_no_topic_by_accident(kafka: RealBroker) -> None:
    """A topic that was not created is an error, and the tool's failure is reported."""
    with pytest.raises(BrokerError, match="does not exist"):
        kafka.exec_tool("kafka-topics", "--describe", "--topic", "not-created")


@LONG
def test_restart_keeps_data(own_kafka: RealBroker, make_topics: MakeTopics) -> None:
    """A restarted broker has the same address and data."""
    address = own_kafka.bootstrap
    topics = make_topics(broker=own_kafka)
    produce(own_kafka, topics.queries, "before")
    own_kafka.restart()
    assert own_kafka.bootstrap == address
    assert consume(own_kafka, topics.queries, 1) == ["before"]


@LONG
def test_stop_and_start(own_kafka: RealBroker) -> None:
    """A stopped broker refuses connections until it is started again."""
    host, _, port = own_kafka.bootstrap.rpartition(":")
    own_kafka.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=5)
    own_kafka.start()
    socket.create_connection((host, int(port)), timeout=5).close()


@LONG
@pytest.mark.parametrize("own_kafka", [SECURED], indirect=True)
def test_extra_properties(own_kafka: RealBroker) -> None:
    """Extra properties secure the clients' listener only: the tools' needs no password."""
    create = ["kafka-topics", "--create", "--topic"]
    own_kafka.exec_tool(*create, "by-alice", client_config=ALICE)
    own_kafka.exec_tool(*create, "by-the-tools")
    assert own_kafka.exec_tool("kafka-topics", "--list").split() == ["by-alice", "by-the-tools"]
    mallory = ALICE | {"sasl.jaas.config": ALICE["sasl.jaas.config"].replace("wonder", "wrong")}
    with pytest.raises(BrokerError, match="Authentication failed"):
        own_kafka.exec_tool("kafka-topics", "--list", client_config=mallory)


def test_the_shared_broker_is_in_memory(kafka: RealBroker, pytestconfig: pytest.Config) -> None:
    """A slow disk does not delay the broker that the tests share; long tests would fill the memory."""
    if not isinstance(kafka.engine, AttachedEngine | DockerEngine):
        pytest.skip("only a container has its own place in memory")
    in_memory = not pytestconfig.getoption("--long")
    box = kafka.engine.container
    assert (IN_MEMORY in (box.attrs["HostConfig"].get("Tmpfs") or {})) == in_memory
    assert (box.exec_run(["test", "-e", f"{IN_MEMORY}/meta.properties"]).exit_code == 0) == in_memory


def test_external_can_not_restart(kafka: RealBroker) -> None:
    """An external broker serves clients but cannot be stopped, and the error says so."""
    guest = external_broker(kafka.bootstrap)
    assert guest.bootstrap == kafka.bootstrap
    with pytest.raises(BrokerError, match="can't be started or stopped"):
        guest.restart()


def test_unavailable_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Docker and jars the reason names both and the remedy."""
    monkeypatch.delenv("FIVESTAGE_TEST_KAFKA", raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setenv("FIVESTAGE_KAFKA_LIBS", str(tmp_path))
    found = acquire()
    assert isinstance(found, Unavailable)
    for part in ("Docker:", "holds no kafka_2.13 jar", "build.sh kafka"):
        assert part in found.reason
