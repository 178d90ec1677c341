"""The producer, made anew when it is beyond repair.

A batch that is refused takes its sequence numbers with it, and brokers refuse whatever follows it. That
cannot be mended in place.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from fivestage.errors import BrokerError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import client_options
from fivestage.kafka.connection.preflight import answering_server
from fivestage.kafka.connection.rebuild import STOP_S, Rebuilds, attempt_within
from fivestage.kafka.producer.client import ProducerClient
from fivestage.kafka.producer.compression import codec_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability
    from fivestage.kafka.connection.rebuild_policy import Trouble
    from fivestage.settings import Settings

    MakeProducer = Callable[..., ProducerClient]

log = structlog.get_logger("fivestage.kafka.producer.producer")


class Producer:
    """Holds the client of the moment.

    Args:
        settings: Where to connect and how.
        observer: Notified of every rebuild.
        reach: Whether brokers can be reached.
        max_record_bytes: The largest record that all output topics take.
        on_retiring: Awaited before a client is stopped: nothing may be sent with it afterwards.
        on_rebuilt: Called when there is a new one.
        on_failure: Called when there will be none.
        make_client: Makes the client; a simulation puts another in its place.

    Raises:
        ConfigurationError: what ``kafka.compression`` takes is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        *,
        max_record_bytes: int,
        on_retiring: Callable[[], Awaitable[None]],
        on_rebuilt: Callable[[], None],
        on_failure: Callable[[BrokerError], None],
        make_client: MakeProducer = ProducerClient,
        reach: Reachability | None = None,
    ) -> None:
        self._make_client = make_client
        self._settings = settings
        self.max_batch_bytes = min(settings.kafka.publish_batch_bytes, max_record_bytes)
        self.max_request_bytes = settings.kafka.publish_request_bytes
        self.codec = codec_of(settings.kafka.compression)
        self._on_retiring = on_retiring
        self._on_rebuilt = on_rebuilt
        self._on_failure = on_failure
        self._rebuilds = Rebuilds("producer", observer, reach)
        self._rebuilding: asyncio.Task[None] | None = None
        self._stopping = False
        self.trouble: Trouble | None = None
        """Why the client is being made anew; nothing may be sent meanwhile."""
        self.client = self._make()

    def __repr__(self) -> str:
        return f"<Producer {'ok' if self.trouble is None else self.trouble.reason}>"

    def _make(self) -> ProducerClient:
        return self._make_client(**client_options(self._settings.kafka))

    async def start(self) -> dict[str, list[int]]:
        """Connect; returns the partitions of the output topics.

        Raises:
            KafkaError: no broker answers.
        """
        return await self._connect(self.client)

    async def _connect(self, client: ProducerClient) -> dict[str, list[int]]:
        kafka = self._settings.kafka
        aiokafka_internals.bootstrap_from(client.client, lambda: answering_server(kafka))
        await client.start()
        within_s = self._settings.kafka.request_timeout_ms / 1000
        return await client.partitions(self._settings.topics.outputs.values(), within_s)

    def rebuild(self, trouble: Trouble) -> None:
        """Make the client anew, unless that is being done or the end has come."""
        if self.trouble is None and not self._stopping:
            self.trouble = trouble
            self._rebuilding = asyncio.get_running_loop().create_task(self._rebuild(trouble))

    def hang_up(self, host: str, port: int) -> None:
        """A broker has not answered others for too long: an idle connection to it may be as dead as theirs.

        The first batch on it would have to wait for as long again to find that out.
        """
        aiokafka_internals.hang_up(self.client.client, host, port)

    async def _rebuild(self, trouble: Trouble) -> None:
        try:
            await self._rebuilds.permit(trouble)
            await self._retire()
            self.client = await self._rebuilds.connected(self._make, self._connect)
        except Exception as error:  # noqa: BLE001 - whatever it is, the service must know
            text = str(error) if isinstance(error, BrokerError) else f"internal error: {type(error).__name__}"
            self._on_failure(BrokerError(text))
            return
        self.trouble = None
        self._on_rebuilt()

    async def _retire(self) -> None:
        """End the old client. What it has under way may still be acknowledged, if brokers answer."""
        await self._on_retiring()
        failure = await attempt_within(self.client.stop, STOP_S)
        if failure is not None:
            log.warning("left behind", part="producer", cause=failure)
        aiokafka_internals.disconnect(self.client.client)

    async def stop(self) -> None:
        """Disconnect. The caller bounds this: with the brokers away it never returns."""
        self._stopping = True
        if self._rebuilding is not None:
            self._rebuilding.cancel()
        await self.client.stop()
