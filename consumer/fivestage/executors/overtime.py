"""Code in worker processes that computes on after its query has ended: how much of it there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fivestage.executors.cpu import thread_cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fivestage.threads import Abandoned

W = TypeVar("W")
Thread = tuple[int, int]

LOOK_EVERY_S: Final = 0.05
COMPUTES_S: Final = 0.015
"""Code that has used more CPU after its end computes, else it waits; the kernel counts by 10 ms."""
MOST_S: Final = 5.0
"""How much CPU a call may use after its end at all."""


class Overtime(Generic[W]):
    """Finds the workers to replace because code of ended queries computes on in them.

    One worker for each node may go on: its call may be a first one that imports a library or loads a model,
    and with less it would never get done. Those beside it take the CPU from queries that are waited for.

    Args:
        cpu_s: The CPU seconds that a thread has used so far; None for one that has ended.
    """

    def __init__(self, cpu_s: Callable[[Thread], float | None] = thread_cpu_s) -> None:
        self._cpu_s = cpu_s
        self._used_before: dict[tuple[Thread, float], float] = {}
        """What threads had used when a call in them was first seen to be abandoned, by thread and time."""
        self._looked_at = 0.0

    def __repr__(self) -> str:
        return f"<Overtime of {len(self._used_before)} calls>"

    def too_much(self, calls: Iterable[tuple[W, Abandoned]], now: float) -> list[W]:
        """The workers that must go, of all that have abandoned calls; looks every LOOK_EVERY_S only."""
        if now - self._looked_at < LOOK_EVERY_S:
            return []
        self._looked_at = now
        before, self._used_before = self._used_before, {}
        computing: dict[str, list[tuple[float, float, W]]] = {}
        for worker, call in calls:
            used_s = None if call.thread is None else self._cpu_s(call.thread)
            if call.thread is None or used_s is None:
                continue
            key = call.thread, call.since
            self._used_before[key] = before.get(key, used_s)
            spent_s = used_s - self._used_before[key]
            if spent_s > COMPUTES_S:
                computing.setdefault(call.name, []).append((call.since, spent_s, worker))
        return list(dict.fromkeys(worker for found in computing.values() for worker in _too_many(found)))


def _too_many(found: list[tuple[float, float, W]]) -> list[W]:
    """All but the worker whose call ended first, and that one too when its call has used MOST_S."""
    found.sort(key=lambda one: one[0])
    _, spent_s, first = found[0]
    others = [worker for _, _, worker in found if worker is not first]
    return others if spent_s < MOST_S else [first, *others]
