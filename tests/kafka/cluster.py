"""Three real Kafka brokers with replicated topics, which tests stop and kill.

Every topic has three replicas, two of which must have a record before it is acknowledged: with one broker
away everything continues. The brokers run on this machine's network, in Docker or from Kafka's jars, and are
controllers too. They end with the process that started them, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from confluent_kafka import ElectionType, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import TopicPartition

from support.commits import partition_of

from .broker import (
    ROUTING,
    BrokerError,
    DockerEngine,
    JarEngine,
    Java,
    Ports,
    RealBroker,
    TopicSet,
    Unavailable,
    create_topics,
    free_ports,
    ready_image,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .broker import Engine

SIZE = 3
OFFSETS = "__consumer_offsets"
HEAP = "300m"
LIMIT_S = 60.0
"""The time limit of every wait of a test."""
PROPERTIES = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "auto.leader.rebalance.enable": "false",  # leaders move when a test says so
    "broker.session.timeout.ms": "6000",  # after that, other brokers lead a killed broker's partitions
    "broker.heartbeat.interval.ms": "1000",
}
_LABEL = "fivestage.cluster"
_GUARD = f"""
import sys
sys.stdin.buffer.read()
import docker
for box in docker.from_env().containers.list(all=True, filters={{"label": "{_LABEL}=" + sys.argv[1]}}):
    box.remove(force=True, v=True)
"""

Partition = tuple[str, int]


class Cluster:
    """Three brokers by number, 1 to 3; ``with`` starts and removes them.

    Args:
        brokers: Not started yet.
        mark: The label of the brokers' containers; None without containers.
    """

    def __init__(self, brokers: Mapping[int, RealBroker], mark: str | None = None) -> None:
        self.brokers = dict(brokers)
        self._mark = mark
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._mark is not None:  # a process that outlives this one and removes the containers
            self._guard = subprocess.Popen(
                [sys.executable, "-c", _GUARD, self._mark],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        for broker in self.brokers.values():
            atexit.register(broker.engine.remove)
        try:
            self.start_all()
            self.wait_until_in_sync()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all brokers for good and delete their data."""
        for broker in self.brokers.values():
            broker.close()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()

    @property
    def bootstrap(self) -> str:
        """Return the addresses for clients."""
        return ",".join(broker.bootstrap for broker in self.brokers.values())

    # Brokers

    def stop(self, node: int) -> None:
        """Stop a broker cleanly: it hands over its leadership."""
        self.brokers[node].stop()

    def kill(self, node: int) -> None:
        """Kill a broker; its partitions have no leader until its session has expired."""
        self.brokers[node].kill()

    def start(self, node: int) -> None:
        """Start a broker again and wait until it serves clients."""
        self.brokers[node].start()

    def kill_all(self) -> None:
        """Kill all brokers."""
        for broker in self.brokers.values():
            broker.kill()

    def start_all(self) -> None:
        """Start all brokers; none is ready before another one is."""
        for broker in self.brokers.values():
            broker.launch()
        for broker in self.brokers.values():
            broker.wait_until_ready()

    def wait_until_in_sync(self, limit_s: float = LIMIT_S) -> None:
        """Wait until all brokers agree that every partition has a leader and all of its replicas."""
        _until(lambda: all(map(self._sees_all, self.brokers.values())), "the cluster is in sync", limit_s)

    def _sees_all(self, broker: RealBroker) -> bool:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        with contextlib.suppress(KafkaException):
            seen = admin.list_topics(timeout=5)
            partitions = [p for topic in seen.topics.values() for p in topic.partitions.values()]
            in_sync = all(p.leader in p.isrs and len(p.isrs) == len(p.replicas) for p in partitions)
            return len(seen.brokers) == len(self.brokers) and in_sync
        return False

    # Topics and their leaders

    def create_topics(self, partitions: int = 4, prefix: str | None = None) -> TopicSet:
        """Create the five topics, three replicas each, and wait until every broker knows them."""
        topics = create_topics(self, partitions, prefix, replication_factor=SIZE)
        self.wait_until_in_sync()
        return topics

    def leaders(self, *topics: str) -> dict[Partition, int]:
        """Return the leader of each partition of some topics."""
        return {place: leader for place, (leader, _) in self._replicas(*topics).items()}

    def move_leaders(self, *topics: str) -> None:
        """Give every partition of some topics another leader, and wait until it leads."""
        now = self._replicas(*topics).items()
        after = {place: nodes.index(leader) + 1 for place, (leader, nodes) in now}
        wanted = {place: [*nodes[after[place] :], *nodes[: after[place]]] for place, (_, nodes) in now}
        moves = [_named(place) | {"replicas": nodes} for place, nodes in wanted.items()]
        tool = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
        self._tool(tool, "--execute", "--reassignment-json-file", plan={"version": 1, "partitions": moves})
        self.elect_preferred(*topics)
        first = {place: nodes[0] for place, nodes in wanted.items()}
        _until(lambda: self.leaders(*topics) == first, "the new leaders lead")

    def elect_preferred(self, *topics: str) -> None:
        """Let the first replica of each partition lead it; those of all topics when none is named."""
        try:
            admin = self._admin()
            names = topics or tuple(admin.list_topics(timeout=LIMIT_S).topics)
            places = [TopicPartition(*place) for place in self._replicas(*names)]
            admin.elect_leaders(ElectionType.PREFERRED, places).result(LIMIT_S)
        except KafkaException as problem:
            raise BrokerError(f"no election: {problem}") from problem

    def _tool(self, *args: str, plan: object = None) -> None:
        """Run one of Kafka's tools on a running broker; *plan* is put in a file, the last argument."""
        broker = next(broker for broker in self.brokers.values() if broker.engine.alive())
        files = [] if plan is None else [broker.engine.put(json.dumps(plan).encode())]
        broker.exec_tool(*args, *files)

    def coordinator(self, group_id: str) -> int | None:
        """Return the broker that leads the group's offsets partition, its coordinator, or None."""
        with contextlib.suppress(KafkaException):
            partitions = self._admin().list_topics(OFFSETS, timeout=5).topics[OFFSETS].partitions
            leader = partitions[partition_of(group_id, len(partitions))].leader if partitions else -1
            return leader if leader > 0 else None
        return None

    def wait_for_coordinator(self, group_id: str, other_than: int | None = None) -> int:
        """Wait until a group has a coordinator other than the given one, and return it."""
        found: list[int | None] = [None]

        def moved() -> bool:
            found[0] = self.coordinator(group_id)
            return found[0] not in {None, other_than}

        _until(moved, f"group {group_id} has another coordinator")
        assert found[0] is not None
        return found[0]

    def _replicas(self, *topics: str) -> dict[Partition, tuple[int, list[int]]]:
        seen = self._admin().list_topics(timeout=LIMIT_S).topics
        return {
            (topic, number): (partition.leader, list(partition.replicas))
            for topic in topics
            for number, partition in seen[topic].partitions.items()
        }

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})


def acquire_cluster() -> Cluster | Unavailable:
    """Return a cluster that is not started yet, in Docker or else from jars."""
    try:
        return _docker_cluster()
    except BrokerError as problem:
        reason = f"Docker: {problem}"
    libs = Path(os.environ.get("FIVESTAGE_KAFKA_LIBS", ""))
    if list(libs.glob("kafka_2.13-*.jar")):
        return _cluster(
            lambda ports, properties: JarEngine(Java(libs, "java"), ports, properties, HEAP), "jar"
        )
    return Unavailable(f"no Kafka cluster ({reason}); {ROUTING}")


def lend_cluster() -> Iterator[Cluster]:
    """Lend a running cluster, as the body of a fixture; skip the test where none is available."""
    cluster = acquire_cluster()
    if isinstance(cluster, Unavailable):
        if os.environ.get("FIVESTAGE_REQUIRE_KAFKA") == "1":
            pytest.fail(cluster.reason, pytrace=False)
        pytest.skip(cluster.reason)
    with cluster:
        yield cluster


def _docker_cluster() -> Cluster:
    image = ready_image(os.environ.get("FIVESTAGE_KAFKA_IMAGE", ""))
    mark = uuid.uuid4().hex

    def engine(ports: Ports, properties: Mapping[str, str]) -> DockerEngine:
        return DockerEngine(image, ports, properties, on_host=True, heap=HEAP, labels={_LABEL: mark})

    return _cluster(engine, "docker", mark)


def _cluster(
    make: Callable[[Ports, Mapping[str, str]], Engine], mode: str, mark: str | None = None
) -> Cluster:
    free = free_ports(3 * SIZE)
    ports = {node: Ports(*free[3 * node - 3 : 3 * node]) for node in range(1, SIZE + 1)}
    voters = ",".join(f"{node}@127.0.0.1:{port.controller}" for node, port in ports.items())
    brokers = {}
    for node, own in ports.items():
        named = {"node.id": str(node), "broker.rack": f"rack-{node}"}
        own_properties = {**PROPERTIES, **named, "controller.quorum.voters": voters}
        engine = make(own, own_properties)
        internal = f"127.0.0.1:{own.internal}"
        brokers[node] = RealBroker(f"127.0.0.1:{own.client}", mode, internal, engine)
    return Cluster(brokers, mark)


def _named(place: Partition) -> dict[str, object]:
    return {"topic": place[0], "partition": place[1]}


def _until(condition: Callable[[], Any], text: str, limit_s: float = LIMIT_S) -> None:
    end, pause = time.monotonic() + limit_s, threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise BrokerError(f"not within {limit_s:.0f} s: {text}")
        pause.wait(0.25)
