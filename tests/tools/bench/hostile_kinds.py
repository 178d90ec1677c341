"""The kinds of node in the table, and the mix of their queries with normal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .load import Segment, query_id

if TYPE_CHECKING:
    from collections.abc import Mapping

GOOD = ("good-async", "good-def")
SLOW = " slow"
"""The end of a question whose call is slow."""
MARGIN_MS = 50
"""How much longer than planned a slow call may hold others back."""


class Kind(NamedTuple):
    """A kind of node, and its expectations."""

    meaning: str
    ordinary: bool = False
    """Its queries too must be answered in time, except the slow ones."""
    burns: bool = False
    """Nothing can stop it in a thread: the service ends, and its supervisor restarts it."""
    process_only: bool = False
    """In a thread of the service it cannot be stopped."""
    seconds: float | None = None
    """The duration of its load in threads, where it differs."""
    share: float | None = None
    """Its share of the queries, where it differs."""
    slow_s: float = 0.0
    """The duration of a slow call; 0 where none is too slow to be answered."""
    slow_every: int = 0
    """Which of its calls are slow: one in this many, or the first one with 0."""
    others_wait: bool = False
    """Calls that arrive during a slow one wait for it, and are as slow."""

    def slow(self, calls: Mapping[str, str], asked: Mapping[str, int]) -> set[str]:
        """Return the ids of the slow queries.

        Args:
            calls: The questions of all queries of this kind, by their ids, in their order.
            asked: When queries were asked (epoch milliseconds), by their ids.
        """
        if not self.slow_s:
            return set()
        slow = [name for name, text in calls.items() if text.endswith(SLOW)]
        slow = slow if self.slow_every else list(calls)[:1]
        if not self.others_wait:
            return set(slow)
        longest_ms = self.slow_s * 1000 + MARGIN_MS
        return {name for name in calls for one in slow if 0 <= asked[name] - asked[one] <= longest_ms}


KINDS = {
    "deaf": Kind("swallows its cancellation"),
    "spin-async": Kind("`while True: pass` in an `async def`", burns=True, seconds=30),
    "spin-def": Kind("`while True: pass` in a `def`", burns=True, seconds=30),
    "block-async": Kind("`time.sleep(5)` in an `async def`"),
    "hold-gil": Kind("keeps the interpreter lock in a C call of 5 s", process_only=True),
    "never": Kind("waits for ever in a `def`"),
    "base-exception": Kind("raises a BaseException"),
    "system-exit": Kind("raises SystemExit"),
    "no-json": Kind("returns what is no JSON"),
    "large": Kind("returns 50 MB"),
    "fork": Kind("forks, and both go on"),
    "leak": Kind("leaves 100 tasks behind"),
    "lazy-import": Kind(
        "the first call of a `def` imports a module, which takes 0.6 s; calls meanwhile wait for it",
        ordinary=True,
        slow_s=0.6,
        others_wait=True,
    ),
    "client-per-loop": Kind(
        "an `async def` makes a client on first use in each event loop, which blocks it for 50 ms",
        ordinary=True,
    ),
    "pooled": Kind(
        "a `def` asks a server for rows, over 4 connections; one reply in 50 takes 0.4 s. "
        "A quarter of the queries",
        ordinary=True,
        share=0.25,
        slow_s=0.4,
        slow_every=50,
    ),
    "slow-log": Kind(
        "a `def` logs; one line in 50 takes the handler 0.5 s, and lines meanwhile wait for it",
        ordinary=True,
        slow_s=0.5,
        slow_every=50,
        others_wait=True,
    ),
    "to-thread": Kind("20 ms of blocking work in `asyncio.to_thread`", ordinary=True),
}


def segment(name: str, *, size: int, share: float) -> Segment:
    """Build questions: *share* of them for the node *name*, the others in turn with the normal ones."""
    kind = KINDS[name]
    every = max(2, round(1 / (kind.share or share)))
    calls = max(2, kind.slow_every)
    texts = [GOOD[number % 2] for number in range(every * calls)]
    for call in range(1, calls + 1):
        texts[every * call - 1] = name + SLOW if call == kind.slow_every else name
    return Segment(size, texts)


def calls_of(asked: Segment) -> dict[str, str]:
    """Return the questions for other than normal nodes, by query id."""
    texts = {query_id(number): asked.texts[number % len(asked.texts)] for number in range(asked.size)}
    return {name: text for name, text in texts.items() if text not in GOOD}
