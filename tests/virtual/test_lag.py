"""The lag of a consumer, as the metrics show it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.kafka.consumer.source import Source
from fivestage.settings import Settings
from support.members import drain_nothing, ignore_unanswered

KEY = PartitionKey("queries", 0)


class Client:
    """A consumer that has fetched up to *highwater* and hands over *position* next."""

    def __init__(self, highwater: int, position: int | None) -> None:
        state = SimpleNamespace(
            position=position, has_valid_position=position is not None, highwater=highwater
        )
        assignment = SimpleNamespace(state_value=lambda _: state)
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))


@pytest.mark.parametrize(
    ("highwater", "position", "lag"),
    [
        (8, 8, 0),  # 6 and 7 are an aborted record and the marker of its transaction
        (10, 8, 2),
        (10, 6, 4),
        (10, None, 4),  # the position is unknown during an offset reset
        (10, 3, 4),  # recovery from a failed fetch goes back
        (5, 6, 0),
    ],
)
async def test_what_is_never_handed_over_is_no_lag(highwater: int, position: int | None, lag: int) -> None:
    """Transaction markers and aborted records that the client has passed do not count."""
    ledger = Ledger(max_span=10)
    ledger.assign(frozenset({KEY}))
    offsets = ledger.offsets(KEY)
    assert offsets is not None
    offsets.begin(5)
    settings = Settings.load(None, {"kafka": {"group_id": "g"}, "topics": {"queries": "queries"}})
    client: Any = Client(highwater, position)
    source = Source(
        settings,
        ledger,
        drain_nothing,
        Observer(),
        on_unanswered=ignore_unanswered,
        make_consumer=lambda **_: client,
    )
    assert source.lag() == {KEY: lag}
