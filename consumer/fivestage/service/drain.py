"""Finishes and commits records in flight, when partitions are revoked and at shutdown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from fivestage._asyncio import wait_at_most
from fivestage.core.ledger import numbers_of
from fivestage.errors import BrokerError, DrainTimeoutError, FivestageError
from fivestage.service.assembly import COMMIT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.service.assembly import Parts
    from fivestage.service.shutdown import TimeLeft
    from fivestage.settings import Settings

REVOKE_DRAIN_S = 1.0
"""Seconds that a rebalance waits for queries in flight, at least."""
DRAIN_BEYOND_S = 0.75
"""Seconds beyond the total time of a query that a rebalance waits, if kafka.rebalance_timeout_ms allows."""
REVOKE_COMMIT_S = 2.0
"""Seconds for the commit of a rebalance; an earlier commit may hang for COMMIT_TIMEOUT_S before that."""
REJOIN_S = 1.0
"""Seconds of kafka.rebalance_timeout_ms that are left to join again."""
LAST_COMMIT_S = 2.0
"""Seconds for each of the two last commits at shutdown."""
AFTER_DRAIN_S = 4.0
"""Seconds, at most, that a drain at shutdown leaves for committing and disconnecting."""

log = structlog.get_logger("fivestage.service")


def revoke_drain_s(settings: Settings) -> float:
    """Return how long a rebalance waits for queries in flight: as long as they may run, if there is time."""
    rebalance_s = settings.kafka.rebalance_timeout_ms / 1000
    most_s = rebalance_s - COMMIT_TIMEOUT_S - REVOKE_COMMIT_S - REJOIN_S
    wanted_s = settings.pipeline.total_timeout_ms / 1000 + DRAIN_BEYOND_S
    return max(REVOKE_DRAIN_S, min(wanted_s, most_s))


async def drain_revoked(
    settings: Settings, parts: Parts, ledger: Ledger, keys: frozenset[PartitionKey]
) -> None:
    """Finish and commit the records in flight of partitions that are being revoked."""
    drained = await parts.dispatcher.drain(revoke_drain_s(settings), keys)
    committed = await parts.committer.commit(REVOKE_COMMIT_S)
    left = ledger.in_flight(keys)
    write = log.info if drained and committed else log.warning
    write("revoked", partitions=numbers_of(keys), drained=drained, committed=committed, abandoned=left)


async def drain_all(
    parts: Parts,
    fetching: asyncio.Task[None],
    time_left: TimeLeft,
    timeout_s: float,
    can_publish: Callable[[], bool],
) -> list[FivestageError]:
    """Stop polling, finish the records in flight, and commit them.

    Args:
        parts: The running service.
        fetching: The task of the poller.
        time_left: The time for the whole shutdown.
        timeout_s: How long the drain may take.
        can_publish: Returns whether it makes sense to wait for acknowledgements.

    Returns:
        An error if the last commits failed, and one if records were still in flight.
    """
    parts.health.draining = True
    parts.poller.stop()
    parts.member.stop_rebuilding()
    log.info("draining", in_flight=parts.dispatcher.in_flight)
    limit_s = time_left.share(timeout_s, leaving_s=AFTER_DRAIN_S)
    await asyncio.wait({fetching}, timeout=limit_s)  # never cancelled: see kafka/consumer/source.py
    limit_s = time_left.share(timeout_s, leaving_s=AFTER_DRAIN_S)
    drained = not can_publish() or await parts.dispatcher.drain(limit_s)
    failures: list[FivestageError] = []
    # A rebalance may make the first commit fail, and have ended by the second.
    committed = await _commit(parts, time_left) or await _commit(parts, time_left)
    left = parts.dispatcher.in_flight
    write = log.info if drained and committed else log.warning
    write("drained", drained=drained, committed=committed, abandoned=left)
    if not committed:
        failures.append(BrokerError("the last commit failed: its queries will be answered again"))
    if not drained:
        failures.append(DrainTimeoutError(f"{left} queries were still in flight after {limit_s:.0f} s"))
    return failures


async def _commit(parts: Parts, time_left: TimeLeft) -> bool:
    limit_s = time_left.share(LAST_COMMIT_S)
    try:  # also waits for a commit under way
        task = await wait_at_most(limit_s, parts.committer.commit(limit_s))
        return task.done() and task.result()
    except FivestageError:
        return False
