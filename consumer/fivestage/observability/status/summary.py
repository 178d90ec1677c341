"""Computes windows, rates, percentiles and series from the counts of the figures."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from fivestage.observability.status.durations import BUCKETS, percentiles_ms, total_s
from fivestage.observability.status.figures import OUTCOMES, RECENT_SLOTS, SLOT_S, SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fivestage.observability.status.durations import RollingCounts
    from fivestage.observability.status.figures import Figures, Slot
    from fivestage.observability.status.model import Between, Percentiles, Rates, Series, Window

RATE_SLOTS: Final = 12
"""Rates are those of the last minute."""


def window(figures: Figures, slots: int, *, objective: float) -> Window:
    """Return how many queries ended in time within the last *slots*."""
    ended = in_time = 0
    for slot in _last(figures, slots):
        ended += slot.ended
        in_time += slot.in_time
    share = in_time / ended if ended else None
    burn_rate = None if share is None else round((1 - share) / (1 - objective), 2)
    return {
        "window_s": slots * SLOT_S,
        "ended": ended,
        "in_time": None if share is None else round(share, 6),
        "burn_rate": burn_rate,
    }


def windows(figures: Figures, *, objective: float) -> list[Window]:
    """Return the windows of five minutes and of an hour."""
    return [window(figures, slots, objective=objective) for slots in (RECENT_SLOTS, SLOTS)]


def rates(figures: Figures, since_slot_s: float, uptime_s: float) -> Rates:
    """Return the rates of the last minute.

    Args:
        figures: The counts.
        since_slot_s: How long ago the current slot began.
        uptime_s: How long counts have been kept.
    """
    slots = list(_last(figures, RATE_SLOTS))
    seconds = max(1.0, min((len(slots) - 1) * SLOT_S + since_slot_s, uptime_s))
    return {
        "answered": round(sum(slot.answered for slot in slots) / seconds, 2),
        "timeouts": round(sum(slot.timeouts for slot in slots) / seconds, 2),
        "errors": round(sum(slot.errors for slot in slots) / seconds, 2),
        "expired": round(sum(slot.expired for slot in slots) / seconds, 2),
        "rejected": round(sum(slot.rejected for slot in slots) / seconds, 2),
        "dead_letters": round(sum(slot.dead_letters for slot in slots) / seconds, 2),
    }


def percentiles(counts: RollingCounts) -> Percentiles:
    """Return the percentiles of the last five minutes."""
    p50_ms, p95_ms, p99_ms = percentiles_ms(counts.total(), (0.5, 0.95, 0.99))
    return {"p50_ms": p50_ms, "p95_ms": p95_ms, "p99_ms": p99_ms}


def between(figures: Figures) -> Between:
    """Return how long no stage ran, in the last five minutes."""
    counts, whole_s = figures.between.total(), total_s(figures.whole.total())
    p50_ms, p95_ms = percentiles_ms(counts, (0.5, 0.95))
    share = min(1.0, round(total_s(counts) / whole_s, 4)) if whole_s else None
    return {"p50_ms": p50_ms, "p95_ms": p95_ms, "share": share}


def outcomes(counts: list[int]) -> tuple[int, dict[str, float]]:
    """Return how many stages ended, and the share of each outcome."""
    found = counts[BUCKETS:]
    ended = sum(found)
    shares = {
        str(name): round(count / ended, 6) for name, count in zip(OUTCOMES, found, strict=True) if count
    }
    return ended, shares


def series(figures: Figures, slot_started_at: float) -> Series:
    """Return the points of the last hour.

    Args:
        figures: The counts.
        slot_started_at: When the current slot began (seconds since the epoch); points are closed slots.
    """
    slots = list(figures.slots)
    return {
        "interval_s": SLOT_S,
        "started_at": iso(slot_started_at - len(slots) * SLOT_S),
        "ended": [slot.ended for slot in slots],
        "in_time": [round(slot.in_time / slot.ended, 6) if slot.ended else None for slot in slots],
        "p50_ms": [slot.p50_ms for slot in slots],
        "p95_ms": [slot.p95_ms for slot in slots],
        "running": [slot.running for slot in slots],
        "lag": [slot.lag for slot in slots],
    }


def iso(wall: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _last(figures: Figures, slots: int) -> Iterable[Slot]:
    """Return the current slot and those before it, *slots* in all."""
    yield figures.slot
    yield from islice(reversed(figures.slots), slots - 1)
