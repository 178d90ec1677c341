"""The budget of extra load: how many calls of a node may be made beyond one for each query.

A dependency that fails gets more load from every client that calls again, and then fails more. So extra calls
are paid from a token bucket, which only ordinary calls fill (as in Finagle's ``RetryBudget``, or gRPC's retry
throttling).
"""

from __future__ import annotations

from math import exp
from typing import Final

SHARE: Final = 0.2
"""Tokens that each ordinary call adds: at most a fifth more calls."""
PER_S: Final = 1.0
"""Tokens that each second adds, so that a node that is rarely called can be called again at all."""
MEMORY_S: Final = 10.0
"""Seconds in which all but a third of the tokens are forgotten: a quiet hour does not pay for a storm."""


class ExtraLoad:
    """A token bucket; an extra call takes one token. Times are monotonic seconds.

    Args:
        now: The bucket starts as after a long time without calls.
        share: Tokens that each ordinary call adds.
        per_s: Tokens that each second adds.

    >>> budget = ExtraLoad(now=0.0)
    >>> sum(budget.take(now=0.0) for _ in range(100))
    10
    >>> for _ in range(20):
    ...     budget.called(now=0.0)
    >>> sum(budget.take(now=0.0) for _ in range(100))
    4
    """

    __slots__ = ("_at", "_per_s", "_share", "_tokens")

    def __init__(self, now: float, share: float = SHARE, per_s: float = PER_S) -> None:
        self._at = now
        self._share, self._per_s = share, per_s
        self._tokens = per_s * MEMORY_S

    def __repr__(self) -> str:
        return f"<ExtraLoad {self._tokens:.1f} calls>"

    def called(self, now: float) -> None:
        """Count an ordinary call: the first of a query at a node."""
        self._refill(now)
        self._tokens += self._share

    def take(self, now: float) -> bool:
        """Pay for an extra call; False if that is not permitted now."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def owe(self, now: float) -> None:
        """Pay for an extra call that another budget has permitted: this one has fewer left, or owes some."""
        self._refill(now)
        self._tokens -= 1

    def _refill(self, now: float) -> None:
        kept = exp(-max(0.0, now - self._at) / MEMORY_S)
        self._tokens = self._tokens * kept + self._per_s * MEMORY_S * (1 - kept)
        self._at = max(now, self._at)
