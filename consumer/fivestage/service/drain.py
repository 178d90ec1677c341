"""Finishes and commits what is in flight, when partitions are revoked and at shutdown."""

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
"""How long a rebalance waits for queries in flight at least, and ..."""
DRAIN_BEYOND_S = 0.75
"""... how much longer than a query may run, as far as the rebalance timeout allows."""
REVOKE_COMMIT_S = 2.0
"""Even after a commit that hangs (COMMIT_TIMEOUT_S), the sum stays below kafka.rebalance_timeout_ms."""
REJOIN_S = 1.0
"""The part of the rebalance timeout that is left to join again."""
LAST_COMMIT_S = 2.0
AFTER_DRAIN_S = 4.0
"""How much of the time for shutdown a drain leaves to commit and to disconnect."""

log = structlog.get_logger("fivestage.service")


def revoke_drain_s(settings: Settings) -> float:
    """Return how long a rebalance waits for queries in flight: as long as they may run, if it allows that."""
    rebalance_s = settings.kafka.rebalance_timeout_ms / 1000
    most_s = rebalance_s - COMMIT_TIMEOUT_S - REVOKE_COMMIT_S - REJOIN_S
    wanted_s = settings.pipeline.total_timeout_ms / 1000 + DRAIN_BEYOND_S
    return max(REVOKE_DRAIN_S, min(wanted_s, most_s))


async def drain_revoked(
    settings: Settings, parts: Parts, ledger: Ledger, keys: frozenset[PartitionKey]
) -> None:
    """Finish and commit what is in flight on partitions that are being revoked."""
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
    """Stop polling, finish what is in flight, and commit it.

    Args:
        parts: The running service.
        fetching: The task of the poller.
        time_left: For the whole shutdown.
        timeout_s: How long the drain may take.
        can_publish: Returns whether it makes sense to wait for acknowledgements.

    Returns:
        What could not be done.
    """
    parts.health.draining = True
    parts.poller.stop()
    parts.source.stop_rebuilding()
    log.info("draining", in_flight=parts.dispatcher.in_flight)
    limit_s = time_left.share(timeout_s, leaving_s=AFTER_DRAIN_S)
    await asyncio.wait({fetching}, timeout=limit_s)  # never cancelled: see kafka/consumer/source.py
    limit_s = time_left.share(timeout_s, leaving_s=AFTER_DRAIN_S)
    drained = not can_publish() or await parts.dispatcher.drain(limit_s)
    failures: list[FivestageError] = []
    # A rebalance may make the first commit fail, and be over by the second.
    committed = await _commit(parts, time_left) or await _commit(parts, time_left)
    left = parts.dispatcher.in_flight
    write = log.info if drained and committed else log.warning
    write("drained", drained=drained, committed=committed, abandoned=left)
    if not committed:
        failures.append(BrokerError("the last results could not be committed: they will be answered again"))
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
