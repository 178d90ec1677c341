"""Logs each change of an adaptive control (breaker, limit, choice of nodes) with the figures behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from fivestage.core.observer import ControlChange

EVENTS: Final = {
    ("breaker", "open"): "breaker opened",
    ("breaker", "half_open"): "breaker half-opened",
    ("breaker", "closed"): "breaker closed",
    ("concurrency_limit", "lowered"): "concurrency limit lowered",
    ("concurrency_limit", "raised"): "concurrency limit raised",
    ("concurrency_limit", "restored"): "concurrency limit restored",
    ("stage_limit", "lowered"): "stage limit lowered",
    ("stage_limit", "restored"): "stage limit restored",
    ("node_choice", "avoided"): "node avoided",
    ("node_choice", "returned"): "node returned",
}
"""The log's event for each control and change."""
WARNED: Final = frozenset({"open", "lowered", "avoided"})
"""Changes that restrict queries; logged as warnings."""

log = structlog.get_logger("fivestage.controls")


def log_change(change: ControlChange) -> None:
    """Log one change."""
    subject = "stage" if change.control == "stage_limit" else "node"
    fields = {"reason": change.why, subject: change.subject, "lane": change.lane}
    write = log.warning if change.change in WARNED else log.info
    write(EVENTS[change.control, change.change], **{k: v for k, v in fields.items() if v})
