"""Input mutation, repeatable by a fixed seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .corpus import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_BYTES = 4096
MAX_STEPS = 6


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Return *count* inputs, each a seed changed in a few places."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, MAX_STEPS)):
            _step(data, chance, seeds)
        yield bytes(data[:MAX_BYTES])


def _step(data: bytearray, chance: random.Random, seeds: Sequence[bytes]) -> None:
    """Apply one change."""
    start = chance.randint(0, len(data))
    end = min(len(data), start + chance.choice((0, 1, 1, 2, 4, 8, 64)))
    match chance.randrange(6):
        case 0:
            data[start:end] = chance.randbytes(end - start or 1)
        case 1:
            data[start:end] = chance.choice(WORDS)
        case 2:
            del data[start:end]
        case 3:
            data[start:start] = data[start:end] * chance.choice((1, 2, 50))
        case 4 if data:
            data[min(start, len(data) - 1)] ^= 1 << chance.randrange(8)
        case _:
            other = chance.choice(seeds)
            at = chance.randint(0, len(other))
            data[start:end] = other[at : at + 32]
