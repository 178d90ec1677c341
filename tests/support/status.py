"""The status document of a pipeline on a bus in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fivestage.observability.event_log import EventLog
from fivestage.observability.status.document import StatusDocument, as_json
from fivestage.observability.status.readings import Readings
from fivestage.observability.status.recorder import StatusRecorder
from fivestage.service.health import Health
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.ledger import PartitionKey
    from fivestage.pipeline.pipeline import Pipeline


class AlwaysReady:
    """The health of a bus in memory, which has no Kafka clients to monitor."""

    draining = False
    was_ready = True
    bus_lag_s = 0.0

    def live(self) -> Health:
        """See HealthMonitor."""
        return Health(ok=True)


class StatusOfBus:
    """A bus in memory with its status document. Make it on the running loop.

    Args:
        app: The pipeline.
        settings: Limits and so on.
        wall_clock: Seconds since the epoch.
        more: Further arguments of MemoryBus.
    """

    def __init__(
        self, app: Pipeline, settings: Settings | None = None, *, wall_clock: Callable[[], float], **more: Any
    ) -> None:
        settings = settings or Settings()
        self.recorder = StatusRecorder(show_text=settings.admin.show_text, wall_clock=wall_clock)
        self.bus = MemoryBus(app, settings=settings, observer=self.recorder, **more)
        self.events = EventLog()
        self.lags: dict[PartitionKey, int] = {}
        health: Any = AlwaysReady()
        readings = Readings(
            settings=settings,
            recorder=self.recorder,
            dispatcher=self.bus.dispatcher,
            executor=self.bus.executor,
            ledger=self.bus.ledger,
            health=health,
            ready=health.live,
            lags=lambda: self.lags,
        )
        self.document = StatusDocument(readings, self.events)

    async def read(self) -> dict[str, Any]:
        """Return the document as its readers get it."""
        found: dict[str, Any] = json.loads(as_json(await self.document.sections()))
        return found
