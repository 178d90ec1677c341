"""A broker that fails on request: librdkafka's mock cluster in a child process, and a faulty wire.

The mock's C API is driven through ctypes, as in ``fivestage.kafka.embedded_broker``; here it also answers
with chosen error codes, or slowly. Tests of what it lacks (see there) need a real broker.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fivestage.kafka.embedded_broker import MockCluster
from fivestage.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

PRODUCE, FETCH, OFFSET_COMMIT, JOIN_GROUP, HEARTBEAT, SYNC_GROUP = 0, 1, 8, 11, 12, 14
"""API keys of the Kafka protocol."""
TESTS = Path(__file__).parents[1]
SESSION: dict[str, object] = {"kafka.session_timeout_ms": 2500, "kafka.heartbeat_interval_ms": 250}
"""For services: the mock takes as long as a session for a member that joins after another has left."""
GARBAGE = (b"\xff" * 64, b"\x00\x00\x00\x08GARBAGE!", b"\x00\x00\x00\x00")
"""A frame of a negative size, one that answers another request, and an empty one."""


class Mock:
    """The broker as a child process, while the ``with`` lasts.

    Args:
        partitions: Partitions of each of the five topics.
    """

    def __init__(self, *, partitions: int = 4) -> None:
        self._partitions = partitions
        self.bootstrap = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.mock", str(self._partitions)],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.bootstrap = self._answer()["bootstrap"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it ends with its input
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.stdout.close()

    def push(self, api: int, codes: Iterable[int]) -> None:
        """Answer the next requests of an API, of any client, with these codes; 0 is no error."""
        self._do(do="push", api=api, codes=list(codes))

    def clear(self, api: int) -> None:
        """Forget the unused codes."""
        self._do(do="clear", api=api)

    def slow_down(self, rtt_ms: int) -> None:
        """Delay every response."""
        self._do(do="rtt", ms=rtt_ms)

    def requests(self, api: int) -> int:
        """Return the number of requests of an API."""
        return int(self._do(do="count", api=api)["count"])

    def go_away(self) -> None:
        """Close all connections, old and new, until ``come_back``."""
        self._do(do="away", away=True)

    def come_back(self) -> None:
        """Answer again."""
        self._do(do="away", away=False)

    def refused(self) -> int:
        """Return the number of closed new connections."""
        return int(self._do(do="refused")["count"])

    def spoil(self, chunks: int) -> None:
        """Replace the next responses on the wire by garbage."""
        self._do(do="spoil", chunks=chunks)

    def spoiled(self) -> int:
        """Return how many chunks are still to be spoiled."""
        return int(self._do(do="spoiled")["left"])

    def _do(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the mock has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


class _Cluster(MockCluster):
    """The mock in the child process, with more of its C API."""

    def __init__(self, partitions: int) -> None:
        super().__init__(TopicSettings().all, partitions)
        lib, pointer, number = self._lib, ctypes.c_void_p, ctypes.c_int
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "push_request_errors_array": (
                None,
                [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
            ),
            "clear_request_errors": (None, [pointer, ctypes.c_int16]),
            "broker_set_rtt": (number, [pointer, ctypes.c_int32, number]),
            "start_request_tracking": (None, [pointer]),
            "get_requests": (ctypes.POINTER(pointer), [pointer, ctypes.POINTER(ctypes.c_size_t)]),
            "request_api_key": (ctypes.c_int16, [pointer]),
            "request_destroy_array": (None, [ctypes.POINTER(pointer), ctypes.c_size_t]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(lib, f"rd_kafka_mock_{name}")
            function.restype, function.argtypes = result, arguments
        lib.rd_kafka_mock_start_request_tracking(self._cluster)

    def push(self, api: int, codes: list[int]) -> None:
        array = (ctypes.c_int * len(codes))(*codes)
        self._lib.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(codes), array)

    def clear(self, api: int) -> None:
        self._lib.rd_kafka_mock_clear_request_errors(self._cluster, api)

    def set_rtt(self, milliseconds: int) -> None:
        self._lib.rd_kafka_mock_broker_set_rtt(self._cluster, 1, milliseconds)

    def count(self, api: int) -> int:
        size = ctypes.c_size_t()
        found = self._lib.rd_kafka_mock_get_requests(self._cluster, ctypes.byref(size))
        keys = [self._lib.rd_kafka_mock_request_api_key(found[index]) for index in range(size.value)]
        self._lib.rd_kafka_mock_request_destroy_array(found, size)
        return keys.count(api)


class _Wire:
    """The clients' address: forwards bytes, and spoils responses on request."""

    def __init__(self, cluster: _Cluster) -> None:
        self._host, _, port = cluster.bootstrap.rpartition(":")
        self._port = int(port)
        self._cluster = cluster
        self._number = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._away = False
        self.refused = 0
        self.left = 0

    async def listen(self) -> str:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self._cluster.advertise(host, port)
        return f"{host}:{port}"

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._away:
            self.refused += 1
            writer.close()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, upstream_writer}
        await asyncio.gather(
            self._copy(reader, upstream_writer, spoils=False),
            self._copy(upstream_reader, writer, spoils=True),
        )
        self._writers -= {writer, upstream_writer}

    def set_away(self, *, away: bool) -> None:
        self._away = away
        for writer in self._writers if away else ():
            writer.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, spoils: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if spoils and self.left:
                    self.left -= 1
                    self._number += 1
                    data = GARBAGE[self._number % len(GARBAGE)]
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


async def _serve(partitions: int) -> None:
    cluster = _Cluster(partitions)
    wire = _Wire(cluster)
    _reply(bootstrap=await wire.listen())
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case {"do": "push", "api": api, "codes": codes}:
                cluster.push(api, codes)
                _reply()
            case {"do": "clear", "api": api}:
                cluster.clear(api)
                _reply()
            case {"do": "rtt", "ms": milliseconds}:
                cluster.set_rtt(milliseconds)
                _reply()
            case {"do": "count", "api": api}:
                _reply(count=cluster.count(api))
            case {"do": "away", "away": away}:
                wire.set_away(away=away)
                _reply()
            case {"do": "refused"}:
                _reply(count=wire.refused)
            case {"do": "spoil", "chunks": chunks}:
                wire.left = chunks
                _reply()
            case {"do": "spoiled"}:
                _reply(left=wire.left)
    cluster.close()


def _reply(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
