"""The committer, with a group that does not answer."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from aiokafka.errors import GroupCoordinatorNotAvailableError

from fivestage.bus.committer import Committer
from fivestage.core.events import Observer
from fivestage.core.ledger import Ledger, PartitionKey

KEY = PartitionKey("queries", 0)


class SilentGroup:
    """A consumer whose commits never return; cancelled, they raise what they have been trying in vain."""

    async def commit(self, _: object) -> None:
        """Wait until cancelled."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise GroupCoordinatorNotAvailableError from None


async def test_a_commit_that_was_given_up() -> None:
    """A commit without an answer counts as failed, and what becomes of it later is no unexpected error."""
    unexpected: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
    ledger = Ledger(max_span=10)
    ledger.assign(frozenset({KEY}))
    book = ledger.books[KEY]
    book.begin(0)
    book.finish(0)
    group: Any = SilentGroup()
    committer = Committer(group, ledger, Observer(), interval_s=1.0, timeout_s=2.0)
    assert not await committer.commit()
    await asyncio.sleep(1)
    gc.collect()
    assert unexpected == []
    assert ledger.committable() == {KEY: 1}
