"""A module with a slow import, such as one that loads a model or a large table."""

from __future__ import annotations

import time
from typing import TypeVar

T = TypeVar("T")

time.sleep(0.6)


def same(value: T) -> T:
    """Return the argument."""
    return value
