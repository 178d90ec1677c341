"""Warns of topics that may lose records when one broker is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from fivestage.kafka import topics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.kafka.topics import TopicInfo
    from fivestage.settings import Settings

log = structlog.get_logger("fivestage.kafka.durability")


async def warn_of_loss(settings: Settings, found: Mapping[str, TopicInfo]) -> None:
    """Log a warning about topics with one replica, or with min.insync.replicas = 1; not on loopback."""
    if settings.kafka.is_local:
        return
    in_sync = await topics.output_configs(settings, "min.insync.replicas")
    single, weakly_acked = weak(found, in_sync)
    if single:
        log.warning(
            "topics with one replica",
            topics=single,
            reason="the records are gone with the broker that has them",
            advice="use a replication factor of 3",
        )
    if weakly_acked:
        log.warning(
            "topics that acknowledge with one replica in sync",
            topics=weakly_acked,
            reason="what was acknowledged is gone when that broker is lost",
            advice="set min.insync.replicas to 2",
        )


def weak(found: Mapping[str, TopicInfo], in_sync: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The topics with one replica, and those with more that acknowledge with one replica in sync.

    Args:
        found: The topics.
        in_sync: Their ``min.insync.replicas``, as far as this principal may read it.
    """
    single = sorted(name for name, info in found.items() if info.replicas == 1)
    weakly_acked = sorted(name for name, count in in_sync.items() if count == 1 and name not in single)
    return single, weakly_acked
