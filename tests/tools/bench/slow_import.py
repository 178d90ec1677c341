"""A module that takes long to import, as those do that load a model or a large table."""

from __future__ import annotations

import time
from typing import TypeVar

T = TypeVar("T")

time.sleep(0.6)


def same(value: T) -> T:
    """What it is given."""
    return value
