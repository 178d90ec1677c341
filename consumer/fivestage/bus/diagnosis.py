"""The diagnosis: why Kafka is out of reach while the service runs.

The client tells it to nobody but its log, and tries for ever. What may pass (names, networks, brokers) is
waited for. Credentials or certificates that are refused again and again do not get better by trying: the
process ends, to be started with those that hold now, before an account is locked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from fivestage.bus.preflight import preflight
from fivestage.errors import AccessError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.settings import KafkaSettings

INTERVAL_S: Final = 4.0
MAX_REFUSALS: Final = 3
"""In a row: a broker that has just started may not know all its users yet."""

log = structlog.get_logger("fivestage.bus.diagnosis")


class Diagnosis:
    """Asks Kafka like a new client would, for as long as the service is cut off from it."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._refusals = 0
        self.cause: str | None = None
        """Why Kafka is out of reach, as far as is known."""

    async def run(self, is_cut_off: Callable[[], bool]) -> None:
        """Look around until cancelled.

        Raises:
            AccessError: Kafka refuses this client for good.
        """
        while True:
            await asyncio.sleep(INTERVAL_S)
            found = await self._look() if is_cut_off() else None
            cause = None if found is None else str(found)
            if cause != self.cause and cause is not None:
                log.warning("Kafka is out of reach", reason=cause)
            self.cause = cause
            self._refusals = self._refusals + 1 if isinstance(found, AccessError) else 0
            if found is not None and self._refusals >= MAX_REFUSALS:
                raise found

    async def _look(self) -> ConfigurationError | None:
        try:
            await preflight(self._kafka)
        except ConfigurationError as problem:
            return problem
        return None
