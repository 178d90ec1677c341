"""Limits the number of label values that producers and nodes choose: they must not use up the memory."""

from __future__ import annotations

from typing import Final

MAX_LANES: Final = 32
MAX_ERROR_TYPES: Final = 64
MAX_NODES: Final = 128
"""Pairs of lane and node."""
MAX_SERIES: Final = 20_000
"""Time series of one service, without those of its partitions."""
OTHER: Final = "other"
"""The label value that all further ones share."""


class Bounded:
    """The values of a label.

    Args:
        most: How many there may be, in all scopes together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[tuple[str, str]] = set()

    def of(self, value: str, scope: str = "") -> str:
        """Return *value*; OTHER if it is new in *scope* and there are too many already."""
        key = scope, value
        if key not in self._seen:
            if len(self._seen) >= self._most:
                return OTHER
            self._seen.add(key)
        return value
