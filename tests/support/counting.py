"""Counts calls, lines, event loop operations, and memory blocks."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

BY_THE_CLOCK = ("Watchdog._round", "LoopWorker._on_pong")
"""Callbacks that come every few milliseconds, independent of queries."""
CO_COROUTINE = 0x80

Counts = Counter[tuple[str, str]]
"""Counts by kind and by the name of the caller."""


def totals(counts: Counts) -> dict[str, int]:
    """Sum the counts by kind."""
    found: Counter[str] = Counter()
    for (what, _), count in counts.items():
        found[what] += count
    return dict(found)


@contextmanager
def calls(counts: Counts) -> Iterator[None]:
    """Count calls in this thread: of Python, of C, and resumptions of coroutines."""

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            what = "steps of coroutines" if code.co_flags & CO_COROUTINE else "calls of Python"
            counts[what, code.co_qualname] += 1
        elif event == "c_call":
            counts["calls of C", getattr(argument, "__qualname__", "?")] += 1

    with _without_collector():
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(before)


@contextmanager
def lines(counts: Counts) -> Iterator[None]:
    """Count the lines that are executed in this thread, in frames that start meanwhile.

    They show a loop that calls nothing, and differ less between versions of Python than instructions do.
    """
    executed: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event == "line":
            executed[frame.f_code] += 1
        return count

    with _without_collector():
        before = sys.gettrace()  # of a coverage measurement
        sys.settrace(count)
        try:
            yield
        finally:
            sys.settrace(before)
    for code, number in executed.items():
        counts["lines", code.co_qualname] += number


def watch_loop(loop: asyncio.AbstractEventLoop, counts: Counts, where: str) -> None:
    """Count the operations of a loop from now on, by the name of the callback."""

    def counted(method: str, what: str) -> None:
        original = getattr(loop, method)

        def ask(*args: Any, **options: Any) -> Any:
            # The callback comes first, except for timers; a task's step has no name itself.
            callback = args[1] if method == "call_at" else args[0]
            callback = getattr(callback, "func", callback)
            name = getattr(callback, "__qualname__", type(callback).__name__)
            if name not in BY_THE_CLOCK:
                counts[f"{what} {where}", name] += 1
            return original(*args, **options)

        setattr(loop, method, ask)

    counted("call_soon", "callbacks")
    counted("call_at", "timers")
    counted("call_soon_threadsafe", "wake-ups")
    counted("create_task", "tasks")


def blocks_in_use() -> int:
    """Return the memory blocks in use. A collection also empties the interpreter's free lists."""
    gc.collect()
    return sys.getallocatedblocks()


@contextmanager
def cycles(counts: Counts) -> Iterator[None]:
    """Count objects in reference cycles, which only the collector finds."""
    gc.collect()
    with _without_collector():
        yield
        counts["objects in cycles", ""] += gc.collect()


@contextmanager
def _without_collector() -> Iterator[None]:
    """Disable the collector: its runs depend on all earlier code, and it calls back."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
