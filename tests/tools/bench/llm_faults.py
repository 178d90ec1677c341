"""What the language model's server of ``--parts llm`` does with a request: drawn from a seed.

A query's first attempt gets the same from every contestant, and so does its second.
"""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

ANSWERS, STALLS, FAILS, REFUSES, DROPS = "answers", "stalls", "fails", "refuses", "drops"
SHARES: Final = {STALLS: 0.05, FAILS: 0.05, REFUSES: 0.03, DROPS: 0.02}
"""Of requests; the others are answered."""
SHORTEST_S, LONGEST_S = 0.1, 0.9
"""Of a streamed answer."""
STALL_S = 5.0
MOST_AT_A_TIME = 32
"""Requests that the server takes at a time; it refuses those beyond with status 429."""
RETRY_AFTER_S = 0.2
"""What a refusal asks to wait; a request of the same query is refused again before that."""
REFUSAL: Final = {"Retry-After": "1", "Retry-After-Ms": f"{RETRY_AFTER_S * 1000:.0f}"}
"""As servers write it: whole seconds by the standard, and the milliseconds that they mean."""
WORDS: Final = ("The", "answer", "is", "forty", "two", "but", "only", "if", "you", "ask")


class Reply(NamedTuple):
    """What a request gets."""

    kind: str
    seconds: float
    """From the first byte of the answer to its end, where nothing goes wrong."""
    broken_at: int
    """The word after which the stream stalls or is dropped."""


def reply(seed: int, question: str, attempt: int) -> Reply:
    """Draw what an attempt of a query gets; the first one is 0."""
    random = Random(f"{seed} {question} {attempt}")  # noqa: S311 - no secret
    drawn, seconds, broken_at = random.random(), random.uniform(SHORTEST_S, LONGEST_S), random.randrange(8)
    for kind, share in SHARES.items():
        if drawn < share:
            return Reply(kind, seconds, broken_at + 1)
        drawn -= share
    return Reply(ANSWERS, seconds, broken_at + 1)


def arrivals(seed: int, queries: int, per_s: float) -> list[float]:
    """Draw when each query is due: seconds since the start, at random (Poisson) and *per_s* on average."""
    random, due, found = Random(seed), 0.0, []  # noqa: S311 - no secret
    for _ in range(queries):
        due += random.expovariate(per_s)
        found.append(due)
    return found
