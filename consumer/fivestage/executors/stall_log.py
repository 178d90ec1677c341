"""Logs blocked event loops, at a limited rate."""

from __future__ import annotations

import logging
import selectors
from math import ceil, inf
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.core.job import Job
    from fivestage.executors.worker import Stall, Worker

LOG_EVERY_S: Final = 5.0
"""Least seconds between two log lines about one place in the code; the metric counts every stall."""
NO_CPU: Final = "the loop was ready, but got no CPU"
ADVICE: Final = (
    "code that blocks belongs in a def, or in ctx.run_sync; "
    "a def blocks only while it holds the interpreter lock"
)
_SELECTORS: Final = f"{selectors.__file__}:"
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

    def begins(self, worker: Worker, about: Mapping[str, str | None], why: str, now: float) -> bool:
        """Log that code blocks a worker's event loop, if that is due; *about* is from ``fields_of``."""
        is_due = self._take_turn((about["node"], about["stage"], about["where"]), now)
        if is_due:
            waits = is_waiting(about)
            log.log(
                logging.INFO if waits else logging.WARNING,
                "event loop blocked",
                reason=NO_CPU if waits else why,
                advice=ADVICE if about["stage"] is not None and not waits else None,
                **about,
                blocked_ms=max(ceil(worker.stalled_s * 1000), self._stall_ms),  # checks are not exact
                setting=f"executor.stall_ms = {self._stall_ms}",
                queries_waiting=len(worker.registry) - (about["query_id"] is not None),
            )
        return is_due

    def ends(self, stall: Stall | None, now: float) -> None:
        """Log that an event loop turns again, with the time that it was blocked, if its begin was logged."""
        if stall is not None and stall.is_logged:
            log.info("event loop responds", **stall.about, blocked_ms=round((now - stall.since) * 1000))

    def _take_turn(self, what: tuple[str | None, ...], now: float) -> bool:
        """Return whether a line about this place is due; if so, the next one is due after LOG_EVERY_S."""
        if now - self._logged.get(what, -inf) < LOG_EVERY_S:
            return False
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[what] = now
        return True


def is_waiting(about: Mapping[str, str | None]) -> bool:
    """Whether no code blocks the loop: it is where it waits for events, which no stage's code is."""
    return about["query_id"] is None and (about["where"] or "").startswith(_SELECTORS)


def fields_of(job: Job | None, location: str | None) -> dict[str, str | None]:
    """The fields of log lines about code that blocks: of *job*, or other code if None."""
    node, stage = code_of(job)
    trace = None if job is None else job.trace
    return {
        "node": node,
        "stage": stage,
        "query_id": None if job is None else job.query.query_id,
        "lane": None if job is None else job.query.lane,
        "trace_id": None if trace is None else trace.trace_id,
        "where": location,
    }


def code_of(job: Job | None) -> tuple[str | None, str | None]:
    """Return the node and the stage that a job is in."""
    running = job.history.running if job is not None else None
    return (None, None) if running is None else (running.node, str(running.spec.stage_type))
