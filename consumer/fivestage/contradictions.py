"""Settings that are valid one by one, and contradict each other or what Kafka takes."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fivestage.settings import Settings

_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


def invalid_names(names: Iterable[str]) -> list[str]:
    """Those of these topic names that no broker takes."""
    return [name for name in names if not _TOPIC_NAME.fullmatch(name) or name in {".", ".."}]


def contradictions(settings: Settings, cores: int | None = None) -> Iterator[str]:
    """Settings with which the service runs, but not as they say: one sentence each.

    Args:
        settings: Valid ones.
        cores: How many cores there are; as many as this process may use when absent.
    """
    total_ms, shutdown = settings.pipeline.total_timeout_ms, settings.shutdown
    for stage, limit_ms in settings.pipeline.stage_timeouts_ms.items():
        if limit_ms > total_ms:
            yield (
                f"pipeline.stage_timeouts_ms.{stage}: {limit_ms} ms are more than pipeline.total_timeout_ms, "
                f"{total_ms} ms: the stage never has that long"
            )
    if shutdown.drain_timeout_ms < total_ms:
        yield (
            f"shutdown.drain_timeout_ms: {shutdown.drain_timeout_ms} ms are less than a query may take, "
            f"{total_ms} ms: those that run when the service ends are read and run again"
        )
    if shutdown.total_timeout_ms < shutdown.drain_timeout_ms:
        yield (
            f"shutdown.drain_timeout_ms: {shutdown.drain_timeout_ms} ms are more than "
            f"shutdown.total_timeout_ms, {shutdown.total_timeout_ms} ms, which cut them short"
        )
    cores = cores or _cores()
    if settings.executor.kind == "process" and settings.executor.workers > cores:
        yield (
            f"executor.workers: {settings.executor.workers} processes share {cores} cores: code that "
            "computes gets less of a core each, and is late more often"
        )


def _cores() -> int:
    """As many as this process may use, where the system says so; else all."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
