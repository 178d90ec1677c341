"""Poison pills: queries in flight during process-wide stalls."""

from __future__ import annotations

from fivestage.core.admission.poison_pills import STALLED_S, PoisonPills
from fivestage.core.records import PlainRecord


def test_the_latest_are_remembered() -> None:
    """A bounded number of queries that twice ended much too late is kept; a recreated log has new ones."""
    held = PoisonPills(most=2)
    records = [PlainRecord("queries", 0, offset, timestamp=7) for offset in range(4)]
    held.note(records[0], STALLED_S / 2)
    for record in (records[1], records[1], records[2], records[3], records[2]):
        held.note(record, STALLED_S)
    assert [record in held for record in records] == [False, False, True, False]
    held.note(records[3], STALLED_S)
    assert records[3] in held
    assert records[3]._replace(timestamp=8) not in held
