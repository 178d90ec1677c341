"""Logs blocked event loops, at a limited rate."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.executors.worker import Worker

LOG_EVERY_S: Final = 5.0
"""Least seconds between two log lines about one place in the code; the metric counts every stall."""
MAX_LOGGED: Final = 256
"""Most places remembered; after that all may be logged again."""

log = structlog.get_logger("fivestage.executor")


class StallLog:
    """Logs code that blocks an event loop, each place at most once in LOG_EVERY_S.

    Args:
        stall_ms: ``executor.stall_ms``, which the log line names.
    """

    def __init__(self, stall_ms: int) -> None:
        self._stall_ms = stall_ms
        self._logged: dict[tuple[str | None, ...], float] = {}

    def add(self, worker: Worker, job: Job | None, location: str | None, why: str, now: float) -> None:
        """Log that *job*, or other code if None, blocks a worker's event loop."""
        node, stage = code_of(job)
        if self._is_due((node, stage, location), now):
            log.warning(
                "event loop blocked",
                reason=why,
                node=node,
                stage=stage,
                query_id=None if job is None else job.query.query_id,
                place=location,
                blocked_ms=round(worker.stalled_s * 1000),
                setting=f"executor.stall_ms = {self._stall_ms}",
                queries_waiting=len(worker.registry) - (job is not None),
            )

    def _is_due(self, what: tuple[str | None, ...], now: float) -> bool:
        if now - self._logged.get(what, -inf) < LOG_EVERY_S:
            return False
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[what] = now
        return True


def code_of(job: Job | None) -> tuple[str | None, str | None]:
    """Return the node and the stage that a job is in."""
    running = job.history.running if job is not None else None
    return (None, None) if running is None else (running.node, str(running.spec.stage_type))
