"""A sink, with its published records and its reports."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from fivestage.core.observer import Observer
from fivestage.core.reachability import Reachability
from fivestage.core.records import Output, OutputRecord
from fivestage.kafka.producer.sink import Sink

from .checker import read_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.settings import Settings

LATE_S = 61.0
"""Later than half of kafka.publish_timeout_ms."""


class Publisher(Observer):
    """Publishes results.

    Args:
        settings: The sink's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.rebuilds: list[str] = []
        self.failures: list[Exception] = []
        self.acked: list[str] = []
        self.batches = 0
        self.throttled_s = 0.0
        self.refused: list[str] = []
        self.sink = Sink(settings, self, self.failures.append, max_record_bytes=100_000, reach=Reachability())

    def client_rebuilt(self, client: str, reason: str) -> None:
        """See Observer."""
        self.rebuilds.append(f"{client} {reason}")

    def published(self, topic: str, count: int, duration_s: float) -> None:  # noqa: ARG002 - Observer's
        """See Observer."""
        self.batches += 1

    def throttled(self, client: str, duration_s: float) -> None:
        """See Observer."""
        assert client == "producer"
        self.throttled_s += duration_s

    def event_refused(self, error_type: str) -> None:
        """See Observer."""
        self.refused.append(error_type)

    def publish(self, *values: str, key: bytes = b"key") -> None:
        """Publish records, one delivery each; all have the same key."""
        for value in values:
            record = OutputRecord.of(Output.RESULTS, key, value.encode(), [])
            self.sink.publish([record], functools.partial(self.acked.append, value))

    def look(self, times: int) -> None:
        """Check the sink as the health monitor does, a minute from now."""
        for _ in range(times):
            self.sink.look(asyncio.get_running_loop().time() + LATE_S)

    def written(self) -> list[str]:
        """Return the content of the topic."""
        found = read_all(self._settings.kafka.bootstrap_servers, self._settings.topics.results)
        return [(one.value() or b"").decode() for one in found]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.01)
