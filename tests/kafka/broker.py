"""A real Apache Kafka broker for the tests: in Docker, from Kafka's jars, or an external one.

``acquire`` finds the best available. A broker has three listeners: CLIENT (``bootstrap``, for the code
under test), INTERNAL (plain text, loopback, for Kafka's own tools) and CONTROLLER. Extra broker properties
override the defaults, so that a test can secure CLIENT alone, for instance with
``{"listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT", ...}``.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import secrets
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, cast

import docker
import docker.errors
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from support.reading import ANSWER_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOCAL_IMAGE = "fivestage-kafka:4.3.1"
OFFICIAL_IMAGE = "apache/kafka:4.3.1"
READY = "Kafka Server started"
START_SECONDS = 60.0
TOOL_SECONDS = 60
CLUSTER_ID = "5L6g3nShT-eMCtK--X86sw"
ON_DISK, IN_MEMORY = "/var/lib/kafka/data", "/mnt/memory"
"""Where a container has its data."""
ADVERTISED = "advertised.client"
"""Not a property of Kafka: the address that CLIENT advertises, where that is a proxy's."""
IMAGE_SOURCE = Path(__file__).resolve().parents[2] / "deploy" / "kafka-image"
ROUTING = (
    "start Docker and run deploy/kafka-image/build.sh kafka, or set FIVESTAGE_KAFKA_LIBS to the folder that "
    "deploy/kafka-image/build.sh libs prints, or set FIVESTAGE_TEST_KAFKA=host:port"
)


class BrokerError(Exception):
    """No broker could be started, or a broker or tool rejected a request."""


@dataclass(frozen=True)
class Unavailable:
    """No real broker is available here, with the reason."""

    reason: str


class Engine(Protocol):
    """A way to run one broker."""

    def start(self) -> None:
        """Start the broker, the first time or again with the same data and ports."""

    def stop(self) -> None:
        """Stop the broker and keep its data."""

    def kill(self) -> None:
        """Kill the broker's process and keep its data."""

    def advertise(self, address: str) -> None:
        """Advertise another address to clients from the next start on."""

    def remove(self) -> None:
        """Stop the broker and delete everything of it; may be called twice."""

    def alive(self) -> bool:
        """Return whether the broker's process runs."""

    def log(self) -> str:
        """Return the broker's log since its first start."""

    def put(self, data: bytes) -> str:
        """Store a file where the tools can read it and return its path there."""

    def java(self, args: Sequence[str], stdin: str) -> str:
        """Run a Java class of Kafka with a file as its input and return its output."""


@dataclass
class RealBroker:
    """One real Kafka broker."""

    bootstrap: str
    mode: str  # "docker", "jar" or "external"
    internal: str  # bootstrap address for Kafka's own tools, where these run
    engine: Engine = field(repr=False)
    starts: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the broker and wait until it serves clients."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the broker without waiting for it: brokers of a cluster wait for each other."""
        self.engine.start()
        self.starts += 1

    def wait_until_ready(self) -> None:
        """Wait until the broker serves clients."""
        deadline = time.monotonic() + START_SECONDS
        while (log := self.engine.log()).count(READY) < self.starts:
            if not self.engine.alive():
                raise BrokerError(f"the broker ended while it started:\n{log[-3000:]}")
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker was not ready within {START_SECONDS} s:\n{log[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the broker cleanly and keep its data and address."""
        self.engine.stop()

    def kill(self) -> None:
        """Kill the broker, as a power cut would, and keep its data and address."""
        self.engine.kill()

    def restart(self) -> None:
        """Restart the broker with its data and address."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the broker for good and delete its data."""
        self.engine.remove()
        atexit.unregister(self.engine.remove)

    def exec_tool(
        self,
        *args: str,
        input: bytes | None = None,  # noqa: A002  # the name in subprocess.run
        client_config: Mapping[str, str] | None = None,
    ) -> str:
        """Run one of Kafka's console tools against this broker and return its standard output.

        ``args[0]`` is a class or a script's name ("kafka-topics"). Unless the arguments name a bootstrap
        server, the tool talks to the INTERNAL listener, or with ``client_config`` (a client's properties,
        such as its SASL credentials) to CLIENT. A tool that fails raises BrokerError.
        """
        name, *rest = args
        address = self.internal if client_config is None else self.bootstrap
        tools = dict(line.split() for line in (IMAGE_SOURCE / "tools.txt").read_text().splitlines())
        if name not in _OFFLINE and "--bootstrap-server" not in rest:
            rest = ["--bootstrap-server", address, *rest]
        if client_config is not None:
            rest = ["--command-config", self.engine.put(_render(client_config).encode()), *rest]
        stdin = "/dev/null" if input is None else self.engine.put(input)
        return self.engine.java([tools.get(name, name), *rest], stdin)


@dataclass(frozen=True)
class TopicSet:
    """The five topics of one fivestage installation, with a unique prefix."""

    prefix: str
    partitions: int

    @property
    def queries(self) -> str:
        """Return the topic of the questions."""
        return f"{self.prefix}.queries"

    @property
    def stage_results(self) -> str:
        """Return the topic of the stages' results."""
        return f"{self.prefix}.stage-results"

    @property
    def results(self) -> str:
        """Return the topic of the answers."""
        return f"{self.prefix}.results"

    @property
    def timeouts(self) -> str:
        """Return the topic of the timeouts."""
        return f"{self.prefix}.timeouts"

    @property
    def dead_letters(self) -> str:
        """Return the topic of the dead letters."""
        return f"{self.prefix}.dead-letters"

    @property
    def names(self) -> tuple[str, ...]:
        """Return all five names."""
        return (self.queries, self.stage_results, self.results, self.timeouts, self.dead_letters)


_APPENDED = {"message.timestamp.type": "LogAppendTime"}


class Addressed(Protocol):
    """A broker or a cluster."""

    @property
    def bootstrap(self) -> str:
        """Return the address for clients."""


def create_topics(
    broker: Addressed, partitions: int = 3, prefix: str | None = None, *, replication_factor: int = 1
) -> TopicSet:
    """Create the five topics on a broker with an open CLIENT listener; wait until it knows them.

    Events have the time at which the broker appended them, which the checker compares with commits.
    """
    topics = TopicSet(prefix or f"t{uuid.uuid4().hex[:12]}", partitions)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    wanted = [
        NewTopic(name, partitions, replication_factor, config={} if name == topics.queries else _APPENDED)
        for name in topics.names
    ]
    for future in admin.create_topics(wanted, operation_timeout=30, request_timeout=ANSWER_S).values():
        future.result()
    for name in topics.names:
        _wait_for_leaders(admin, name, partitions)
    return topics


def _wait_for_leaders(admin: AdminClient, name: str, partitions: int) -> None:
    """The controller answers before the brokers have read of the new topic."""
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        found = admin.list_topics(name, timeout=ANSWER_S).topics[name].partitions
        if len(found) == partitions and all(one.leader >= 0 for one in found.values()):
            return
        time.sleep(0.02)
    raise BrokerError(f"topic {name!r} has no leaders {ANSWER_S:g} s after it was created")


def delete_topics(broker: RealBroker, topics: TopicSet) -> None:
    """Delete the five topics."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    gone = admin.delete_topics(list(topics.names), operation_timeout=30, request_timeout=ANSWER_S)
    for future in gone.values():
        future.result()


def acquire(
    *, own: bool = False, in_memory: bool = False, properties: Mapping[str, str] | None = None
) -> RealBroker | Unavailable:
    """Return a running broker: FIVESTAGE_TEST_KAFKA's, else one in Docker, else one from jars.

    A broker that may be stopped (``own``) or has extra properties is never FIVESTAGE_TEST_KAFKA's.
    In Docker it may keep its data in memory (``in_memory``): then a slow disk does not delay it.
    """
    try:
        address = os.environ.get("FIVESTAGE_TEST_KAFKA", "")
        if address and not own and not properties:
            return external_broker(address)
    except BrokerError as problem:
        return Unavailable(f"FIVESTAGE_TEST_KAFKA={address}: {problem}")
    try:
        return docker_broker(properties, in_memory=in_memory)
    except BrokerError as problem:
        reason = f"Docker: {problem}"
    libs = os.environ.get("FIVESTAGE_KAFKA_LIBS", "")
    if not libs:
        return Unavailable(f"no Kafka broker ({reason}); {ROUTING}")
    try:
        return jar_broker(Path(libs), properties=properties)
    except BrokerError as problem:
        return Unavailable(f"no Kafka broker ({reason}; FIVESTAGE_KAFKA_LIBS: {problem}); {ROUTING}")


def external_broker(address: str, internal: str | None = None) -> RealBroker:
    """Use a running broker, which cannot be stopped or restarted from here."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BrokerError(f"{address!r} is not host:port")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as problem:
        raise BrokerError(f"no connection: {problem}") from problem
    return RealBroker(address, "external", internal or address, RunningEngine())


def jar_broker(libs: Path, java: str = "java", properties: Mapping[str, str] | None = None) -> RealBroker:
    """Start a broker from a directory with Kafka's jars, on free ports of the loopback address."""
    if not list(libs.glob("kafka_2.13-*.jar")):
        raise BrokerError(f"{libs} holds no kafka_2.13 jar")
    if shutil.which(java) is None:
        raise BrokerError(f"there is no {java} to run the jars")
    ports = Ports(*free_ports(3))
    engine = JarEngine(Java(libs, java), ports, properties or {})
    broker = RealBroker(f"127.0.0.1:{ports.client}", "jar", f"127.0.0.1:{ports.internal}", engine)
    return _started(broker)


def docker_broker(
    properties: Mapping[str, str] | None = None, image: str | None = None, *, in_memory: bool = False
) -> RealBroker:
    """Start a broker in Docker through testcontainers.

    The image is, in this order: the argument, FIVESTAGE_KAFKA_IMAGE, the one that
    deploy/kafka-image/build.sh made (it needs no registry), else the official one, pulled when missing.
    """
    image = ready_image(image or os.environ.get("FIVESTAGE_KAFKA_IMAGE", ""))
    for attempt in range(3):
        ports = Ports(free_ports(1)[0], 9094, 9093)
        engine = DockerEngine(image, ports, properties or {}, in_memory=in_memory)
        broker = RealBroker(engine.address, "docker", f"127.0.0.1:{engine.ports.internal}", engine)
        try:
            return _started(broker)
        except BrokerError as problem:
            taken = "already allocated" in str(problem) or "address already in use" in str(problem)
            if attempt == 2 or not taken:  # another process took the port first
                raise
    raise AssertionError  # the loop returns or raises


_OFFLINE = frozenset(
    {
        "kafka-dump-log",
        "org.apache.kafka.tools.DumpLogSegments",
        "kafka-storage",
        "kafka.tools.StorageTool",
    }
)


class Ports(NamedTuple):
    """The addresses of a broker's three listeners."""

    client: int
    internal: int
    controller: int


def _started(broker: RealBroker) -> RealBroker:
    atexit.register(broker.engine.remove)  # also when the tests are interrupted
    try:
        broker.start()
    except BaseException:
        broker.close()
        raise
    return broker


def free_ports(count: int) -> list[int]:
    """Return free ports below the range that outgoing connections use.

    Otherwise a client that reconnects to a stopped broker could get the broker's own port.
    """
    found: list[int] = []
    while len(found) < count:
        port = 15_000 + secrets.randbelow(15_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def _settings(ports: Ports, bind: str, host: str, data: str, extra: Mapping[str, str]) -> str:
    more = dict(extra)
    client = more.pop(ADVERTISED, f"{host}:{ports.client}")
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "listeners": f"CLIENT://{bind}:{ports.client},INTERNAL://127.0.0.1:{ports.internal},"
        f"CONTROLLER://127.0.0.1:{ports.controller}",
        "advertised.listeners": f"CLIENT://{client},INTERNAL://127.0.0.1:{ports.internal}",
        "log.dirs": data,
    }
    return _render(properties | _DEFAULTS | more)


_DEFAULTS = {
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "INTERNAL",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",  # a test sees a consumer's death soon
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.cleaner.dedupe.buffer.size": "4194304",  # instead of 128 MiB
}


def _render(properties: Mapping[str, str]) -> str:
    """Write a Java properties file."""
    escaped = {key: value.replace("\\", "\\\\").replace("\n", "\\n") for key, value in properties.items()}
    return "".join(f"{key}={value}\n" for key, value in escaped.items())


class Java:
    """Runs Kafka's classes from jars, with a temporary directory."""

    def __init__(self, libs: Path, java: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="fivestage-kafka-"))
        self._libs = libs
        self._java = java

    def command(self, *args: str, heap: str = "256m", log: str = "tools-log4j2.yaml") -> list[str]:
        quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{heap}"]
        logging = f"-Dlog4j2.configurationFile={IMAGE_SOURCE / 'config' / log}"
        return [self._java, *quick, logging, "-cp", f"{self._libs}/*", *args]

    def put(self, data: bytes) -> str:
        path = self.home / uuid.uuid4().hex
        path.write_bytes(data)
        return str(path)

    def run(self, args: Sequence[str], stdin: str) -> str:
        command = self.command(*args)
        try:
            with Path(stdin).open("rb") as source:
                done = subprocess.run(
                    command, stdin=source, capture_output=True, timeout=TOOL_SECONDS, check=False
                )
        except subprocess.TimeoutExpired as problem:
            raise BrokerError(f"{args[0]} did not end within {TOOL_SECONDS} s") from problem
        return _output(args[0], done.returncode, done.stdout, done.stderr)


def _output(name: str, code: int, out: bytes | None, err: bytes | None) -> str:
    text = (out or b"").decode(errors="replace")
    if code:
        said = (err or b"").decode(errors="replace")
        raise BrokerError(f"{name} ended with code {code}:\n{text[-2000:]}\n{said[-2000:]}")
    return text


class JarEngine:
    """A process that runs Kafka's jars."""

    def __init__(self, java: Java, ports: Ports, properties: Mapping[str, str], heap: str = "512m") -> None:
        self._java = java
        self._heap = heap
        self._config = java.home / "server.properties"
        self._config.write_text(
            _settings(ports, "127.0.0.1", "127.0.0.1", str(java.home / "data"), properties)
        )
        self._log = java.home / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if not (self._java.home / "data").exists():
            self.java(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._config)])
        command = self._java.command("kafka.Kafka", str(self._config), heap=self._heap, log="log4j2.yaml")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def advertise(self, address: str) -> None:
        self._config.write_text(_advertising(address, self._config.read_text()))

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._java.home, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def home(self) -> Path:
        return self._java.home

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def put(self, data: bytes) -> str:
        return self._java.put(data)

    def java(self, args: Sequence[str], stdin: str = "/dev/null") -> str:
        return self._java.run(args, stdin)


class RunningEngine:
    """An external broker; Kafka's tools run from FIVESTAGE_KAFKA_LIBS."""

    def __init__(self) -> None:
        self._tools: Java | None = None

    def start(self) -> None:
        raise BrokerError("a broker that was not started here can't be started or stopped here")

    def stop(self) -> None:
        self.start()

    def kill(self) -> None:
        self.start()

    def advertise(self, address: str) -> None:
        raise BrokerError(f"a broker that was not started here can't be given the address {address}")

    def remove(self) -> None:
        if self._tools is not None:
            shutil.rmtree(self._tools.home, ignore_errors=True)

    def alive(self) -> bool:
        return True

    def log(self) -> str:
        return ""

    def put(self, data: bytes) -> str:
        return self._kafka().put(data)

    def java(self, args: Sequence[str], stdin: str) -> str:
        return self._kafka().run(args, stdin)

    def _kafka(self) -> Java:
        if self._tools is None:
            libs = os.environ.get("FIVESTAGE_KAFKA_LIBS", "")
            if not libs:
                raise BrokerError("Kafka's tools need FIVESTAGE_KAFKA_LIBS beside FIVESTAGE_TEST_KAFKA")
            self._tools = Java(Path(libs), "java")
            atexit.register(self.remove)
        return self._tools


class AttachedEngine(RunningEngine):
    """A broker in an external container; Kafka's tools run in it."""

    def __init__(self, container: Any) -> None:
        super().__init__()
        self.container = container

    def put(self, data: bytes) -> str:
        return _put_in(self.container, data)

    def java(self, args: Sequence[str], stdin: str) -> str:
        return _java_in(self.container, args, stdin)


def _advertising(address: str, config: str) -> str:
    """Return the configuration with another address for clients."""
    changed, count = re.subn(r"(?<=advertised\.listeners=CLIENT://)[^,]+", address, config)
    assert count == 1
    return changed


def _put_in(container: Any, data: bytes, folder: str = "/tmp", name: str = "") -> str:  # noqa: S108
    """Store a file in a container and return its path there."""
    name, archive = name or uuid.uuid4().hex, io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o644
        tar.addfile(entry, io.BytesIO(data))
    container.put_archive(folder, archive.getvalue())
    return f"{folder}/{name}"


def _java_in(container: Any, args: Sequence[str], stdin: str) -> str:
    """Run a Java class of Kafka in a container, with a file there as its input."""
    command = ["timeout", str(TOOL_SECONDS), "sh", "-c", f'exec "$@" <{stdin}', "sh"]
    done = container.exec_run([*command, "/opt/kafka/bin/kafka-run-class.sh", *args], demux=True)
    out, err = done.output
    return _output(args[0], done.exit_code or 0, out, err)


def ready_image(wanted: str) -> str:
    """Return the image to use, pulled when it is not there yet."""
    host = os.environ.get("DOCKER_HOST", "") or "unix:///var/run/docker.sock"
    try:
        if host.startswith("unix://"):  # docker's client would leave its socket open where no daemon answers
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(host.removeprefix("unix://"))
        with contextlib.closing(docker.from_env(timeout=30)) as client:
            for name in [wanted] if wanted else [LOCAL_IMAGE, OFFICIAL_IMAGE]:
                with contextlib.suppress(docker.errors.ImageNotFound):
                    client.images.get(name)
                    return name
            client.images.pull(wanted or OFFICIAL_IMAGE)
    except (docker.errors.DockerException, OSError) as problem:
        raise BrokerError(f"{host}: {problem}") from problem
    return wanted or OFFICIAL_IMAGE


class DockerEngine:
    """A container of the official image or of this project's; both read /mnt/shared/config/server.properties.

    Args:
        image: The image.
        ports: The addresses of the listeners.
        properties: Further properties.
        on_host: On this machine's network, where the brokers of a cluster find each other; else on
            Docker's, with CLIENT published.
        heap: The JVM's maximal heap, such as ``300m``; the image's default when None.
        labels: Further labels of the container.
        in_memory: Keep the data in memory, where a slow disk does not delay it; lost when the broker stops.
    """

    def __init__(
        self,
        image: str,
        ports: Ports,
        properties: Mapping[str, str],
        *,
        on_host: bool = False,
        heap: str | None = None,
        labels: Mapping[str, str] | None = None,
        in_memory: bool = False,
    ) -> None:
        # imported late: the import asks Docker, and leaves a socket open where no daemon answers
        from testcontainers.core.config import testcontainers_config  # noqa: PLC0415
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        # testcontainers' cleaner is an image from a registry; remove() and atexit do its work here
        testcontainers_config.ryuk_disabled = True
        self.ports = ports
        network = {"network": "host"} if on_host else {}
        labels = {"fivestage.test": "kafka", **(labels or {})}
        self._box = DockerContainer(image).with_kwargs(labels=labels, **network)
        if in_memory:
            self._box.tmpfs[IN_MEMORY] = "mode=1777"  # the broker is not root
        if heap is not None:
            self._box.with_env("KAFKA_HEAP_OPTS", f"-Xmx{heap}")
        host = self._box.get_docker_client().host()
        local = host in {"localhost", "127.0.0.1"}
        host = "127.0.0.1" if local else host
        self.address = f"{host}:{ports.client}"
        if on_host and not local:
            raise BrokerError("a cluster needs a Docker daemon on this machine")
        if not on_host:
            # the same port inside and outside: one advertised address is right for both
            published = cast("dict[str, Any]", self._box.ports)
            published[f"{ports.client}/tcp"] = ("127.0.0.1" if local else "0.0.0.0", ports.client)  # noqa: S104
        bind = "127.0.0.1" if on_host else "0.0.0.0"  # noqa: S104
        data = IN_MEMORY if in_memory else ON_DISK
        self._config = _settings(ports, bind, host, data, properties)
        self._box.with_copy_into_container(self._config.encode(), "/mnt/shared/config/server.properties")
        self._box.with_env("CLUSTER_ID", CLUSTER_ID)
        self._made = self._removed = False

    def start(self) -> None:
        try:
            if self._made:
                self.container.start()
            else:
                self._box.start()
                self._made = True
        except docker.errors.DockerException as problem:
            raise BrokerError(str(problem)) from problem

    def stop(self) -> None:
        self.container.stop(timeout=20)

    def kill(self) -> None:
        self.container.kill()
        self.container.wait(timeout=20)  # until then it cannot be started again

    def advertise(self, address: str) -> None:
        self._config = _advertising(address, self._config)
        _put_in(self.container, self._config.encode(), "/mnt/shared/config", "server.properties")

    def remove(self) -> None:
        if not self._removed:
            self._removed = True
            with contextlib.suppress(docker.errors.NotFound):
                self._box.stop()

    def alive(self) -> bool:
        self.container.reload()
        return bool(self.container.status == "running")

    def log(self) -> str:
        return bytes(self.container.logs()).decode(errors="replace")

    def put(self, data: bytes) -> str:
        return _put_in(self.container, data)

    def java(self, args: Sequence[str], stdin: str) -> str:
        return _java_in(self.container, args, stdin)

    @property
    def container(self) -> Any:
        return self._box.get_wrapped_container()
