"""Starts the embedded broker and the service, and offers one load after another.

The service is its own process, as in production, so the figures have in them what its Kafka clients, its
limits and its load shedding cost. The memory bus would leave that out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import orjson

from fivestage.cli.bench.figures import Step, is_over, next_rate
from fivestage.cli.demo.service_process import READY_TIMEOUT_S, ServiceProcess
from fivestage.errors import FivestageError
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.kafka.tools.client import acknowledged, follow, open_producer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from aiokafka import AIOKafkaProducer

    from fivestage.settings import Settings

FIRST_RATE: Final = 10.0
STEPS: Final = 12
"""Loads that the time is divided into."""
LEAST_STEP_S: Final = 1.0
PAUSE_S: Final = 0.3
"""Between two loads, so that one does not disturb the next."""
GRACE_S: Final = 3.0
"""Seconds beyond the budget that the last results of a load may take."""
WARM_UP: Final = 20
NAP_S: Final = 0.001
FETCH_WAIT_MS: Final = 5
"""How long a fetch waits for records: unlike Kafka, the embedded broker never answers it earlier."""


async def measure(
    settings: Settings, target: str, options: Sequence[str], texts: Sequence[str], seconds: float
) -> AsyncGenerator[Step, None]:
    """Yield the figures of each load, until a higher one gives no more, or the time is over.

    Args:
        settings: The settings that the service has too, apart from the broker.
        target: ``MODULE:APP``.
        options: Options of ``fivestage run``, such as the file of the settings.
        texts: The questions, asked in turn.
        seconds: How long all loads together may take.

    Raises:
        FivestageError: the service did not start, or ended; the text has its log.
    """
    environment = {
        "FIVESTAGE_KAFKA__FETCH_MAX_WAIT_MS": str(FETCH_WAIT_MS),
        "FIVESTAGE_KAFKA__SECURITY_PROTOCOL": "PLAINTEXT",
    }
    async with (
        EmbeddedBroker(settings.topics.all) as broker,
        ServiceProcess(broker.bootstrap, target, options, environment) as service,
    ):
        plain = {"bootstrap_servers": broker.bootstrap, "security_protocol": "PLAINTEXT"}
        local = settings.model_copy(update={"kafka": settings.kafka.model_copy(update=plain)})
        try:
            await service.ready(READY_TIMEOUT_S + settings.executor.start_timeout_ms / 1000)
            async with _Load(local, texts).open() as load:
                ends_at = time.monotonic() + seconds
                await load.offer(FIRST_RATE * 2, WARM_UP / FIRST_RATE / 2)  # first calls are slow
                step_s = max(LEAST_STEP_S, seconds / STEPS)
                steps: list[Step] = []
                rate = FIRST_RATE
                while not steps or time.monotonic() + step_s < ends_at:
                    steps.append(await load.offer(rate, step_s))
                    yield steps[-1]
                    if is_over(steps):
                        return
                    rate = next_rate(steps[-1], load.budget_ms)
                    await asyncio.sleep(PAUSE_S)
        except FivestageError as error:
            error.args = (f"{error}; the service's log:\n{service.excerpt()}",)
            raise


class _Load:
    """Writes queries at a rate, and collects their results."""

    def __init__(self, settings: Settings, texts: Sequence[str]) -> None:
        self._settings = settings
        self._texts = itertools.cycle(texts)
        self._numbers = itertools.count()
        self.budget_ms = float(settings.pipeline.total_timeout_ms)
        self._producer: AIOKafkaProducer
        self._step = Step(0.0, 1.0)
        self._due: dict[str, float] = {}
        """When each query that has no result yet was due, in seconds since 1970."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[_Load]:
        """Connect; read results meanwhile."""
        topics = self._settings.topics
        async with open_producer(self._settings, topics.only_input()) as self._producer:
            reading = asyncio.create_task(self._read(), name="results")
            try:
                yield self
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def offer(self, rate: float, seconds: float) -> Step:
        """Offer a load, and wait for its results."""
        self._step = step = Step(rate, seconds)
        self._due.clear()
        count, began = max(1, round(rate * seconds)), time.time()
        sent: list[asyncio.Future[Any]] = []
        behind_ms: list[float] = []
        while step.sent < count:
            now = time.time()
            while step.sent < count and (due := began + step.sent / rate) <= now:
                behind_ms.append((now - due) * 1000)
                sent.append(await self._send(due))
                step.sent += 1
            await asyncio.sleep(NAP_S)
        step.behind_ms = median(behind_ms)
        await acknowledged(sent)
        ends_at = time.monotonic() + self.budget_ms / 1000 + GRACE_S
        while self._due and time.monotonic() < ends_at:  # noqa: ASYNC110 - another task takes them out
            await asyncio.sleep(NAP_S * 10)
        if self._due:
            step.outcomes["no result"] = len(self._due)
        return step

    async def _send(self, due: float) -> asyncio.Future[Any]:
        query_id = f"bench-{next(self._numbers)}"
        self._due[query_id] = due
        deadline = datetime.fromtimestamp(due + self.budget_ms / 1000, UTC).isoformat()
        event = {"query_id": query_id, "user_input": next(self._texts), "deadline": deadline}
        sent: asyncio.Future[Any] = await self._producer.send(
            self._settings.topics.only_input(), orjson.dumps(event), key=query_id.encode()
        )
        return sent

    async def _read(self) -> None:
        records = follow(self._settings, self._settings.topics.results, from_beginning=True)
        async with contextlib.aclosing(records):
            async for record in records:
                result = orjson.loads(record.value or b"{}")
                due = self._due.pop(result.get("query_id", ""), None)
                if due is not None:
                    finished_at = datetime.fromisoformat(result["finished_at"]).timestamp()
                    self._step.add(result, (finished_at - due) * 1000, self.budget_ms)
