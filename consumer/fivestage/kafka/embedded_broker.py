"""The embedded development broker: librdkafka's mock cluster, in a separate process.

For trials and fast tests. It keeps at most 5 MiB per partition, loses everything when it ends, and does not
detect duplicates of an idempotent producer. For its groups see ``embedded_group``. The mock is part of the C
library in the confluent-kafka wheel, and is called through ctypes because the Python binding lacks it.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
"""The address of a chosen port."""
REBALANCE_DELAY_MS = 50
FETCH_WAIT_MS = 20
"""The ``kafka.fetch_max_wait_ms`` to use: this broker answers an empty fetch at its end even if some come."""
_READY_TIMEOUT_S = 15.0
_COPY_BYTES = 64 * 1024


class MockCluster:
    """A mock cluster of librdkafka in this process; a failed assertion in the mock aborts the process."""

    size = 1

    def __init__(self, topics: Sequence[str], partitions: int) -> None:
        lib = _load()
        error = ctypes.create_string_buffer(512)
        self._lib = lib
        conf = lib.rd_kafka_conf_new()
        # Warnings and worse only: the client that the mock needs connects to no broker, and would log that.
        lib.rd_kafka_conf_set(conf, b"log_level", b"4", error, len(error))
        self._client = lib.rd_kafka_new(0, conf, error, len(error))
        if not self._client:
            raise ConfigurationError(f"the embedded broker cannot start: {error.value.decode()}")
        self._cluster = lib.rd_kafka_mock_cluster_new(self._client, self.size)
        lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, REBALANCE_DELAY_MS)
        for topic in topics:
            lib.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        self.bootstrap: str = lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def advertise(self, host: str, port: int) -> None:
        """Advertise *host:port* to clients."""
        self._lib.rd_kafka_mock_broker_set_host_port(self._cluster, 1, host.encode(), port)

    def close(self) -> None:
        """End the broker and delete its records."""
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)


def check_installed() -> None:
    """Check that the wheel with the C library is installed.

    Raises:
        ConfigurationError: it is not; the text says how to install it.
    """
    if importlib.util.find_spec("confluent_kafka") is None:
        raise ConfigurationError(
            'the embedded broker needs confluent-kafka: pip install "fivestage[embedded]"'
        )


def _load() -> ctypes.CDLL:
    """Load the C library of the confluent-kafka wheel and declare the functions that are used."""
    check_installed()
    import confluent_kafka  # noqa: PLC0415 - loads the library; only this process needs it

    package = Path(confluent_kafka.__file__).parent
    found = sorted(package.parent.glob("confluent_kafka.libs/librdkafka-*.so*")) + sorted(
        package.glob(".dylibs/librdkafka*.dylib")
    )
    if not found:
        raise ConfigurationError("the embedded broker needs the confluent-kafka wheel (Linux or macOS)")
    lib = ctypes.CDLL(str(found[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_host_port": (None, [pointer, ctypes.c_int32, text, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


async def serve(topics: Sequence[str], *, partitions: int, port: int = 0, until_eof: bool = False) -> None:
    """Run the broker until SIGINT, SIGTERM, or (*until_eof*) the end of standard input.

    Prints ``host:port`` to standard output when it is ready.

    Args:
        topics: Topics to create; others are created at their first use, with 4 partitions.
        partitions: The number of partitions of each of *topics*.
        port: The port to listen on; 0 for the mock's random port.
        until_eof: End with standard input, so that the broker does not outlive the process that started it.

    Raises:
        ConfigurationError: the broker is not installed or cannot start, or the port cannot be used.
    """
    cluster = MockCluster(topics, partitions)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        loop.add_reader(sys.stdin.fileno(), _stop_at_eof, stop)
    server = await _forward_port(cluster, port) if port else None
    try:
        print(f"{HOST}:{port}" if port else cluster.bootstrap, flush=True)  # noqa: T201 - the caller reads it
        await stop.wait()
    finally:
        if server is not None:
            server.close()
        cluster.close()


def _stop_at_eof(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        stop.set()


async def _forward_port(cluster: MockCluster, port: int) -> asyncio.Server:
    """Forward a chosen port to the mock's, which is always random."""
    upstream_host, _, upstream_port = cluster.bootstrap.rpartition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(upstream_host, int(upstream_port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))

    try:
        server = await asyncio.start_server(forward, HOST, port)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {HOST}:{port}: {os.strerror(error.errno or 0)}; choose another --port"
        ) from None
    cluster.advertise(HOST, port)
    return server


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_COPY_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class EmbeddedBroker:
    """The broker as a child process, for the length of an ``async with``.

    Args:
        topics: See ``serve``.
        partitions: See ``serve``.
        port: See ``serve``.

    Example:
        >>> async with EmbeddedBroker(["q"], partitions=8) as broker:  # doctest: +SKIP
        ...     print(broker.bootstrap)
    """

    def __init__(self, topics: Sequence[str], *, partitions: int = 8, port: int = 0) -> None:
        self._arguments = [f"--partitions={partitions}", f"--port={port}", *topics]
        self._process: asyncio.subprocess.Process | None = None
        self.bootstrap = ""

    async def __aenter__(self) -> Self:
        check_installed()
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fivestage.kafka.embedded_broker",
            *self._arguments,
            stdin=pipe,
            stdout=pipe,
            start_new_session=True,  # Ctrl-C ends the parent only, which still needs the broker to shut down
        )
        try:
            self.bootstrap = await self._address(self._process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _address(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None  # noqa: S101 - a pipe, see above
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                line = await process.stdout.readline()
        except TimeoutError:
            raise ConfigurationError(
                f"the embedded broker did not start within {_READY_TIMEOUT_S:.0f} s"
            ) from None
        if not line:
            raise ConfigurationError("the embedded broker ended at once; its message is above")
        return line.decode().strip()

    async def __aexit__(self, *_: object) -> None:
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _main() -> None:
    options = [one for one in sys.argv[1:] if one.startswith("--")]
    numbers = {name: int(number) for name, _, number in (one.partition("=") for one in options)}
    topics = [one for one in sys.argv[1:] if one not in options]
    try:
        asyncio.run(
            serve(topics, partitions=numbers["--partitions"], port=numbers.get("--port", 0), until_eof=True)
        )
    except ConfigurationError as error:
        sys.exit(f"fivestage: {error}")


if __name__ == "__main__":
    _main()
