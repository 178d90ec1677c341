"""One log line for each change of a control that learns: what changed, and the figures behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from fivestage.core.observer import ControlChange

WARNED: Final = frozenset({"open", "lowered", "avoided"})
"""Changes that take something away from queries."""

log = structlog.get_logger("fivestage.controls")


def log_change(change: ControlChange) -> None:
    """Write the line of one change."""
    fields = {"lane": change.lane, "subject": change.subject}
    given = {name: value for name, value in fields.items() if value}
    write = log.warning if change.change in WARNED else log.info
    write(f"{change.control} {change.change}: {change.why}", **given)
