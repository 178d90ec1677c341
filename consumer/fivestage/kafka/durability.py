"""Warns of topics that may lose records when one broker is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from fivestage.kafka import topics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.kafka.topic_info import TopicInfo
    from fivestage.settings import Settings

log = structlog.get_logger("fivestage.kafka.durability")


async def warn_of_loss(settings: Settings, found: Mapping[str, TopicInfo]) -> None:
    """Warn of topics with one replica or min.insync.replicas = 1, unless all bootstrap servers are local."""
    if settings.kafka.is_local:
        return
    in_sync = await topics.output_configs(settings, "min.insync.replicas")
    single, weakly_acked = weak_topics(found, in_sync)
    if single:
        log.warning(
            "topics with one replica",
            topics=single,
            reason="when the broker that has the replica is lost, the records are lost",
            advice="use a replication factor of 3",
        )
    if weakly_acked:
        log.warning(
            "topics that acknowledge with one replica in sync",
            topics=weakly_acked,
            reason="when the broker with that replica is lost, acknowledged records are lost",
            advice="set min.insync.replicas to 2",
        )


def weak_topics(found: Mapping[str, TopicInfo], in_sync: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The topics with one replica, and the topics with several that acknowledge with one replica in sync.

    Args:
        found: The topics.
        in_sync: Their ``min.insync.replicas``, as far as this principal may read it.
    """
    single = sorted(name for name, info in found.items() if info.replicas == 1)
    weakly_acked = sorted(name for name, count in in_sync.items() if count == 1 and name not in single)
    return single, weakly_acked
