"""The lag of partitions, whether it grows, and when it will be gone."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.core.ledger import PartitionKey
    from fivestage.observability.status.model import Lag, Trend

SPAN_S: Final = 60.0
"""The trend is computed over at most this time."""
STEADY_SHARE: Final = 0.05
STEADY_RECORDS: Final = 10
"""A change of the lag by no more than the larger of these is none."""


class LagHistory:
    """The lag of each partition within the last SPAN_S.

    Args:
        interval_s: How often ``add`` is called.
    """

    def __init__(self, interval_s: float) -> None:
        self._samples: deque[tuple[float, Mapping[PartitionKey, int]]] = deque(
            maxlen=round(SPAN_S / interval_s)
        )

    def add(self, now: float, lags: Mapping[PartitionKey, int]) -> None:
        """Remember the lags at *now* (monotonic seconds)."""
        self._samples.append((now, lags))

    def of(self, key: PartitionKey, records: int, now: float) -> Lag:
        """Return the lag of a partition that is *records* now, with its trend."""
        before = next(((at, lags[key]) for at, lags in self._samples if key in lags), None)
        return _lag(records, before, now)

    def total(self, lags: Mapping[PartitionKey, int], now: float) -> Lag:
        """Return the lag of all partitions; of the past, those that are still assigned count."""
        known = next(((at, past) for at, past in self._samples if past.keys() >= lags.keys()), None)
        before = None if known is None else (known[0], sum(known[1][key] for key in lags))
        return _lag(sum(lags.values()), before, now)


def _lag(records: int, before: tuple[float, int] | None, now: float) -> Lag:
    if before is None or now <= before[0]:
        return {"records": records, "trend": "steady", "catch_up_s": 0.0 if records == 0 else None}
    took_s = now - before[0]
    change = records - before[1]
    noise = max(STEADY_RECORDS, STEADY_SHARE * before[1])
    trend: Trend = "steady" if abs(change) <= noise else "rising" if change > 0 else "falling"
    catch_up_s = round(records * took_s / -change, 1) if trend == "falling" else None
    return {"records": records, "trend": trend, "catch_up_s": 0.0 if records == 0 else catch_up_s}
