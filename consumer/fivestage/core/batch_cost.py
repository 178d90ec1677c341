"""Predicts how long a batch takes, from the batches before it."""

from __future__ import annotations

from collections import deque
from typing import Final

BATCHES: Final = 50
"""How many of the last batches count."""
MIN_BATCHES: Final = 5
"""Fewest batches from which it is concluded that an item would be late: the first calls are often slow."""


class BatchCost:
    """Fits ``a * size + b`` to the last BATCHES batches, by least squares. Times are seconds.

    >>> cost = BatchCost()
    >>> for size in (1, 5, 10):
    ...     cost.add(size, 0.005 + 0.001 * size)
    >>> round(cost.predicted_s(20), 6)
    0.025
    """

    __slots__ = ("_batches", "_each_s", "_fixed_s")

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=BATCHES)
        self._each_s = 0.0
        self._fixed_s = 0.0

    def __repr__(self) -> str:
        each_ms, fixed_ms = self._each_s * 1000, self._fixed_s * 1000
        return f"<BatchCost {fixed_ms:.1f} ms + {each_ms:.2f} ms an item, of {len(self._batches)} batches>"

    def add(self, size: int, took_s: float) -> None:
        """Learn from a batch that has ended."""
        self._batches.append((size, took_s))
        self._fit()

    def add_abandoned(self, size: int, ran_s: float) -> None:
        """Learn from a batch that had not ended after *ran_s*: it takes longer than predicted, if at all."""
        if ran_s > self.predicted_s(size):
            self.add(size, ran_s)

    def predicted_s(self, size: int) -> float:
        """How long a batch of *size* items takes; 0 while unknown."""
        return self._fixed_s + self._each_s * size

    def certain_s(self, size: int) -> float:
        """The same; 0 after fewer than MIN_BATCHES."""
        return self.predicted_s(size) if len(self._batches) >= MIN_BATCHES else 0.0

    def _fit(self) -> None:
        count = len(self._batches)
        items = sum(size for size, _ in self._batches)
        total_s = sum(took_s for _, took_s in self._batches)
        squares = sum(size * size for size, _ in self._batches)
        products = sum(size * took_s for size, took_s in self._batches)
        spread = count * squares - items * items
        # Where all were of one size, or larger ones were quicker, the size is taken to make no difference.
        self._each_s = max(0.0, (count * products - items * total_s) / spread) if spread else 0.0
        self._fixed_s = (total_s - self._each_s * items) / count
        if self._fixed_s < 0:
            self._each_s, self._fixed_s = products / squares, 0.0
