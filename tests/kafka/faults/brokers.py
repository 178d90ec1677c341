"""Three brokers of librdkafka's mock in one child process, each advertised at a chosen address.

Partition leaders are chosen too: a test makes the broker of certain partitions fail.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from fivestage.kafka.embedded_broker import MockCluster
from fivestage.settings import TopicSettings
from support.mock import TESTS

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 3


class Brokers:
    """Brokers 1 to 3, while the ``with`` lasts.

    Args:
        ports: The advertised port of each, on the loopback address.
        leaders: The leader of each query partition; the first broker leads everything else.
    """

    def __init__(self, ports: Sequence[int], leaders: Sequence[int]) -> None:
        self._arguments = json.dumps({"ports": ports, "leaders": leaders})
        self.addresses: list[str] = []
        """Their real addresses."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kafka.faults.brokers", self._arguments],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.addresses = self._process.stdout.readline().strip().split(",")
        assert len(self.addresses) == SIZE, "the brokers have ended"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)  # they end with their input


class _Cluster(MockCluster):
    """The mock in the child process, with access to single brokers."""

    size = SIZE

    def __init__(self, ports: Sequence[int], leaders: Sequence[int]) -> None:
        topics = TopicSettings()
        super().__init__(topics.all, len(leaders))
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
        self._declare("partition_set_leader", [pointer, text, number, number])
        self._declare("coordinator_set", [pointer, text, text, number])
        for broker, port in enumerate(ports, start=1):
            self._lib.rd_kafka_mock_broker_set_host_port(self._cluster, broker, b"127.0.0.1", port)
        for topic in topics.all:
            for partition, leader in enumerate(leaders):
                by = leader if topic == topics.queries else 1
                self._lib.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, by)
        self._lib.rd_kafka_mock_coordinator_set(self._cluster, b"group", b"fivestage", 1)

    def _declare(self, name: str, arguments: list[Any]) -> None:
        function = getattr(self._lib, f"rd_kafka_mock_{name}")
        function.restype, function.argtypes = ctypes.c_int, arguments


if __name__ == "__main__":
    _brokers = _Cluster(**json.loads(sys.argv[1]))
    print(_brokers.bootstrap, flush=True)  # noqa: T201 - the parent reads it
    sys.stdin.read()
    _brokers.close()
