"""The machine's own speed: two fixed pieces of work, repeated between the rounds of whatever is measured."""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPS = 100_000
BUFFER, PASSES = bytes(range(256)) * 4096, 10
REPEATS = 5


class Yardstick(NamedTuple):
    """The CPU of each piece of work, in milliseconds."""

    python_ms: float
    native_ms: float


def yardstick() -> Yardstick:
    """Measure both: the best of some repetitions, as all that disturbs them makes them slower."""
    return Yardstick(_best_ms(_interpret), _best_ms(_checksum))


def _best_ms(work: Callable[[], int]) -> float:
    return min(_cpu_ms(work) for _ in range(REPEATS))


def _cpu_ms(work: Callable[[], int]) -> float:
    started = time.thread_time()
    work()
    return (time.thread_time() - started) * 1000


def _interpret() -> int:
    seen: dict[int, int] = {}
    for number in range(LOOPS):
        seen[number & 255] = seen.get(number & 127, 0) + number
    return len(seen)


def _checksum() -> int:
    found = 0
    for _ in range(PASSES):
        found = zlib.crc32(BUFFER, found)
    return found
