"""A bus in memory: runs a pipeline with the real dispatcher, decoder and encoder, without Kafka.

For tests of pipelines and of the dispatcher itself; public through ``fivestage.testing``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson

from fivestage.core.codec.encode import Encoder
from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.records import Output, OutputRecord, PlainRecord
from fivestage.dispatch.build import build
from fivestage.executors import InlineExecutor
from fivestage.observability.tracing import Tracing
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage_schemas import PipelineResult
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.records import Record
    from fivestage.executors import Executor
    from fivestage.pipeline.node_settings import Tables
    from fivestage.pipeline.pipeline import Pipeline

TOPIC = "queries"
STOP_S = 10.0
EMPTY_S = 0.2
FETCH_BYTES = 1_048_576


class MemorySource:
    """Returns the records that were put in, and registers them in the ledger; halts no partition."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._records: deque[Record] = deque()
        self._arrived = asyncio.Event()
        self.paused = False
        self.pauses = 0
        """The number of calls of ``pause``."""

    def put(self, record: Record) -> None:
        """Add a record to the end of its partition."""
        self._records.append(record)
        self._arrived.set()

    async def fetch(self, max_records: int) -> list[Record]:
        """See RecordSource."""
        if fetched := self._take(max_records):
            return fetched
        self._arrived.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EMPTY_S):
                await self._arrived.wait()
        return self._take(max_records)

    def _take(self, max_records: int) -> list[Record]:
        """Return the next records, without those of partitions with too many that wait for their key."""
        fetched: list[Record] = []
        skipped: list[Record] = []
        size = 0
        while not self.paused and self._records and len(fetched) < max_records and size < FETCH_BYTES:
            record = self._records.popleft()
            offsets = self._ledger.offsets(PartitionKey(record.topic, record.partition))
            if offsets is not None and self._ledger.is_line_full(offsets):
                skipped.append(record)
                continue
            if offsets is not None:
                offsets.begin(record.offset)
            fetched.append(record)
            size += len(record.value or b"")
        self._records.extendleft(reversed(skipped))
        return fetched

    def pause(self) -> None:
        """See RecordSource."""
        self.paused = True
        self.pauses += 1

    def resume(self) -> None:
        """See RecordSource."""
        self.paused = False
        self._arrived.set()


class MemorySink:
    """Keeps published records; acknowledges them at once, or on request if ``hold`` is true."""

    def __init__(self) -> None:
        self.records: list[OutputRecord] = []
        self.hold = False
        """Hold back acknowledgements, as unreachable brokers do."""
        self._held: deque[Callable[[], None]] = deque()
        self._published = asyncio.Event()
        self._indexed = 0
        """How many of ``records`` are in the indexes below; the last of them is ``_last``."""
        self._last: OutputRecord | None = None
        self._by_output: dict[Output, list[OutputRecord]] = {output: [] for output in Output}
        self._first_results: dict[bytes, OutputRecord] = {}
        """The first terminal event of each query, by query id."""

    def publish(
        self,
        records: Sequence[OutputRecord],
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,  # noqa: ARG002 - records are not queued here
    ) -> None:
        """See EventSink. Acknowledges in a later iteration of the loop, never within this call."""
        self.records += records
        self._published.set()
        if self.hold:
            self._held.append(on_acked)
        else:
            asyncio.get_running_loop().call_soon(on_acked)

    def acknowledge(self, count: int | None = None) -> None:
        """Send the oldest *count* acknowledgements that are held back; all of them if None."""
        for _ in range(len(self._held) if count is None else count):
            self._held.popleft()()

    def of(self, output: Output) -> list[OutputRecord]:
        """Return the records published to one output."""
        self._index()
        return list(self._by_output[output])

    def result_of(self, query_id: str) -> OutputRecord | None:
        """Return the first terminal event of a query; None if there is none yet."""
        self._index()
        return self._first_results.get(query_id.encode())

    def _index(self) -> None:
        """Index the records published since the last call; all of them if ``records`` was cleared."""
        records = self.records
        if self._last is not None and records[self._indexed - 1 : self._indexed] != [self._last]:
            self._indexed = 0
            self._first_results.clear()
            for found in self._by_output.values():
                found.clear()
        for record in records[self._indexed :]:
            self._by_output[record.output].append(record)
            if record.output is Output.RESULTS:
                self._first_results.setdefault(dict(record.headers).get(h.CE_SUBJECT, b""), record)
        self._indexed = len(records)
        self._last = records[-1] if records else None

    async def published(self) -> None:
        """Wait until more is published."""
        self._published.clear()
        await self._published.wait()


class MemoryBus:
    """Runs a pipeline on a bus in memory.

    ``async with`` opens and closes the resources, and raises ResourceError if one cannot be opened.

    Example:
        >>> async with MemoryBus(app) as bus:  # doctest: +SKIP
        ...     result = await bus.ask("What is 15 + 7?")
        >>> result.answer  # doctest: +SKIP
        22

    Args:
        app: The pipeline.
        settings: Limits and admission; of the section for Kafka only ``max_record_bytes`` is used. By default
            those of *config*.
        config: A file with settings, such as ``fivestage.toml``; without it all have their defaults. The
            environment does not count, except for *settings* that were read with it: ``Settings.load(path)``.
        partitions: Number of partitions of the input topic.
        observer: Receives all events of ``core.observer``.
        tracing: Makes the spans; by default with OpenTelemetry's global provider.
        executor: Runs the stages; by default on this event loop.
        nodes: The settings of nodes and resources, in place of those in *settings*, see ``Orchestrator``.

    Raises:
        ConfigurationError: the file, a setting in it, or a name or value in *nodes* is wrong.
        ValueError: *settings* and *config* are given.
    """

    def __init__(
        self,
        app: Pipeline,
        *,
        settings: Settings | None = None,
        config: Path | str | None = None,
        partitions: int = 1,
        observer: Observer | None = None,
        tracing: Tracing | None = None,
        executor: Executor | None = None,
        nodes: Tables | None = None,
    ) -> None:
        if settings is not None and config is not None:
            raise ValueError(
                "MemoryBus: give settings or config, not both; Settings.load(config) reads the file"
            )
        if settings is None:
            settings = Settings.load(None if config is None else Path(config), environment=False)
        self.ledger = Ledger(
            max_span=settings.admission.max_uncommitted_span, halt_policy=settings.dlq.policy()
        )
        self.ledger.assign(frozenset(PartitionKey(TOPIC, number) for number in range(partitions)))
        self.source = MemorySource(self.ledger)
        self.sink = MemorySink()
        plan = settings.pipeline.plan()
        self.executor: Executor = executor or InlineExecutor(
            Orchestrator(
                app,
                plan=plan,
                threads=settings.executor.threads,
                start_timeout_ms=settings.executor.start_timeout_ms,
                nodes=settings.for_nodes(app) if nodes is None else nodes,
                deadline_header=settings.outbound.deadline_header,
            )
        )
        self.poller, self.dispatcher = build(
            settings,
            ledger=self.ledger,
            encoder=Encoder(
                source="/memory",
                max_record_bytes=settings.kafka.max_record_bytes,
                max_dead_letter_bytes=settings.kafka.max_record_bytes,
            ),
            executor=self.executor,
            sink=self.sink,
            observer=observer or Observer(),
            tracing=tracing or Tracing(results_topic="results", group_id="memory"),
        )
        self._next_offsets = [0] * partitions
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.executor.start(self.dispatcher.active.finished)
        self._running = asyncio.create_task(self.poller.run(self.source))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.poller.stop()
        if self._running is not None:
            await self._running
        await self.executor.stop(STOP_S)

    def put(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = -1,
    ) -> PlainRecord:
        """Write a record to the input topic and return it with its offset.

        Args:
            value: A QueryEvent as JSON, or anything else that may be on a topic.
            key: The record's key.
            partition: The partition that gets the record.
            headers: The record's headers.
            timestamp: Milliseconds since the epoch; -1 = none.

        Raises:
            IndexError: there is no such partition.
        """
        offset = self._next_offsets[partition]
        self._next_offsets[partition] += 1
        record = PlainRecord(TOPIC, partition, offset, timestamp, key, value, headers)
        self.source.put(record)
        return record

    async def ask(self, user_input: str, *, query_id: str | None = None, **fields: Any) -> PipelineResult:
        """Write a query and return its result.

        Args:
            user_input: The question.
            query_id: Its id; by default a numbered one.
            fields: Other fields of QueryEvent, such as ``lane`` or ``budget_ms``.

        Raises:
            ValueError: the query became a dead letter, so it has no result; the text says why.
        """
        query_id = query_id or f"query-{sum(self._next_offsets)}"
        record = self.put(orjson.dumps({"query_id": query_id, "user_input": user_input, **fields}))
        while (found := self.result(query_id)) is None:
            if (why := self._why_dead(record)) is not None:
                raise ValueError(f"this query can have no result: {why}")
            await self.sink.published()
        return found

    def _why_dead(self, record: PlainRecord) -> str | None:
        """Return reason and detail of a record's dead letter; None if it has none."""
        place = b"%d" % record.partition, b"%d" % record.offset
        for letter in self.sink.of(Output.DEAD_LETTERS):
            headers = dict(letter.headers)
            if (headers[h.DLQ_PARTITION], headers[h.DLQ_OFFSET]) == place:
                return f"{headers[h.DLQ_REASON].decode()}: {headers[h.DLQ_DETAIL].decode()}"
        return None

    def result(self, query_id: str) -> PipelineResult | None:
        """Return the terminal event of a query; None if there is none yet."""
        found = self.sink.result_of(query_id)
        return None if found is None else PipelineResult.model_validate_json(found.value or b"")

    def results(self) -> list[PipelineResult]:
        """Return all terminal events, in the order of publication."""
        return [PipelineResult.model_validate_json(r.value or b"") for r in self.sink.of(Output.RESULTS)]
