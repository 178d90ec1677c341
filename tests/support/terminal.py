"""A result as the judge compares it with others of the same query."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .events import instant

if TYPE_CHECKING:
    from .events import Event
    from .reading import Place


@dataclass(frozen=True, slots=True)
class Terminal:
    """A readable record of the results topic. Points in time are seconds since 1970."""

    event: Event
    query_id: str
    status: str
    key: bytes | None
    lane: str
    rejected: bool
    """The record was unreadable but for its id."""
    answer: str
    """As JSON."""
    started_at: float | None
    """None when nothing was started."""
    finished_at: float
    budget_s: float
    content: bytes

    @classmethod
    def of(cls, event: Event) -> Terminal:
        """Parse a record."""
        value = event.value
        return cls(
            event=event,
            query_id=value["query_id"],
            status=value["status"],
            key=event.record.key,
            lane=value["lane"],
            rejected=value["error_type"] == "invalid_query",
            answer=json.dumps(value["answer"], sort_keys=True),
            started_at=instant(value["started_at"]),
            finished_at=instant(value["finished_at"]) or 0.0,
            budget_s=value["metrics"]["budget_ms"] / 1000,
            content=event.record.value or b"",
        )

    @property
    def ce_id(self) -> str:
        """Return its event's id."""
        return self.event.ce_id

    @property
    def source(self) -> Place:
        """Return the place of its query."""
        return self.event.source

    @property
    def at(self) -> Place:
        """Return its own place."""
        return self.event.record.at

    @property
    def written_at(self) -> float:
        """Return when it was written: by the broker's clock, where topics have LogAppendTime."""
        return self.event.record.timestamp_ms / 1000
