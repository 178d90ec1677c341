"""Logs each change of an adaptive control (breaker, limit, choice of nodes) with the figures behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from fivestage.core.observer import ControlChange

WARNED: Final = frozenset({"open", "lowered", "avoided"})
"""Changes that restrict queries; logged as warnings."""

log = structlog.get_logger("fivestage.controls")


def log_change(change: ControlChange) -> None:
    """Log one change."""
    fields = {"lane": change.lane, "subject": change.subject}
    write = log.warning if change.change in WARNED else log.info
    write(f"{change.control} {change.change}: {change.why}", **{k: v for k, v in fields.items() if v})
