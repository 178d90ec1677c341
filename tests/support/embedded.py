"""One embedded broker for many tests, each with its own topics and group."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import Producer

from fivestage.settings import TopicSettings
from fivestage_schemas import StageType
from support import preloaded

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_S = 60.0
STOP_S = 30.0
OUTPUTS = ("queries", "stage_results", "results", "timeouts", "dead_letters")


def patient(processing_ms: float = 20_000) -> dict[str, object]:
    """Return settings with time limits that no answering node reaches on a busy machine.

    Args:
        processing_ms: The limit of the processing stage, for nodes that do not answer.
    """
    return {
        "pipeline.total_timeout_ms": 20_000,
        "pipeline.stage_timeouts_ms": {
            **dict.fromkeys(StageType, 20_000),
            StageType.PROCESSING: processing_ms,
        },
        "adaptive.enabled": False,
        "executor.stall_ms": 5000,
    }


class Installation:
    """The topics and the group of one test.

    Args:
        bootstrap: The broker.
        name: The prefix of the topics' names.
    """

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.topics = TopicSettings(**{output: f"{name}.{output}" for output in OUTPUTS})

    def settings(self, more: Mapping[str, object] | None = None) -> dict[str, object]:
        """Build settings of a service by their dotted keys."""
        names: dict[str, Any] = {f"topics.{output}": getattr(self.topics, output) for output in OUTPUTS}
        return {"kafka.group_id": self.name, **names, **(more or {})}


class Broker:
    """A broker for the ``with`` block, in a child process that ends with its input."""

    def __enter__(self) -> Self:
        self._numbers = count()
        command = [sys.executable, "-m", "fivestage.kafka.embedded_broker", "--partitions=4"]
        pipe = subprocess.PIPE
        self._process = preloaded.Popen[str](
            command, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        guard = threading.Timer(READY_S, self._process.kill)
        guard.start()
        self._bootstrap = self._process.stdout.readline().strip()
        guard.cancel()
        if not self._bootstrap:
            self.__exit__()
            raise AssertionError(f"the embedded broker has ended, or was not ready within {READY_S:g} s")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._process.wait(STOP_S)
            self._process.stdout.close()

    def installation(self) -> Installation:
        """Return a new one; its topics appear, with 4 partitions, when a producer asks for them."""
        found = Installation(self._bootstrap, f"test-{next(self._numbers)}")
        producer = Producer({"bootstrap.servers": self._bootstrap})
        for output in OUTPUTS:
            producer.list_topics(getattr(found.topics, output), timeout=READY_S)
        return found
