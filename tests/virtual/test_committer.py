"""The committer over a coordinator whose answers the test releases."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.kafka.consumer.committer import Committer

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = PartitionKey("queries", 0)


async def test_a_rebalance_commits_after_the_commit_in_flight() -> None:
    """Two commits are never in flight together: brokers might take the older one last."""
    sent: list[list[int]] = []
    answers: asyncio.Queue[None] = asyncio.Queue()

    async def commit_offsets(_: None, offsets: Mapping[Any, Any]) -> None:
        sent.append([one.offset for one in offsets.values()])
        await answers.get()

    ledger = Ledger(max_span=10)
    ledger.assign(frozenset({KEY}))
    member: Any = SimpleNamespace(
        consumer=SimpleNamespace(_coordinator=SimpleNamespace(commit_offsets=commit_offsets))
    )
    committer = Committer(member, ledger, Observer(), interval_s=60, timeout_s=60)
    commits = []
    for offset in range(2):
        offsets = ledger.partitions[KEY]
        offsets.begin(offset)
        offsets.finish(offset)
        commits.append(asyncio.ensure_future(committer.commit()))
        await asyncio.sleep(1)
    assert sent == [[1]]
    for _ in commits:
        answers.put_nowait(None)
    assert await asyncio.gather(*commits) == [True, True]
    assert sent == [[1], [2]]
