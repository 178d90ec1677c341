"""Growing pauses between attempts; the caller passes the random number of the jitter."""

from __future__ import annotations

_MAX_EXPONENT = 8
"""The largest exponent, which keeps the power small; every pause has reached its maximum by then."""


def backoff_s(
    attempt: int, random: float = 0.0, *, first_s: float, max_s: float, factor: float = 2.0
) -> float:
    """Seconds to pause after *attempt* (the first is 0), shortened by up to half by *random* (0 to 1).

    >>> [backoff_s(attempt, first_s=0.2, max_s=5.0, factor=4.0) for attempt in range(4)]
    [0.2, 0.8, 3.2, 5.0]
    """
    return min(max_s, first_s * factor ** min(attempt, _MAX_EXPONENT)) * (1 - random / 2)
