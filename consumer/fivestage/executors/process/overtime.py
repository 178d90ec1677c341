"""Code in worker processes that computes on after its query has ended: how much of it there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fivestage.executors.abandoned_cpu import SpentCpu, thread_cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.pipeline.thread_pool import Abandoned

W = TypeVar("W")
Thread = tuple[int, int]

COMPUTES_S: Final = 0.015
"""Code that has used more CPU after its end computes, else it waits; the kernel counts by 10 ms."""
MOST_S: Final = 5.0
"""How much CPU a call may use after its end at all."""


class Overtime(Generic[W]):
    """Finds the workers to replace because code of ended queries computes on in them.

    One call of each node may go on: it may be a first one that imports a library or loads a model, and with
    less that would never get done. Those beside it take the CPU from queries that are waited for.

    Args:
        cpu_s: The CPU seconds that a thread has used so far; None for one that has ended.
    """

    def __init__(self, cpu_s: Callable[[Thread], float | None] = thread_cpu_s) -> None:
        self._cpu = SpentCpu(cpu_s)

    def __repr__(self) -> str:
        return f"<Overtime {self._cpu}>"

    def too_much(self, calls: Sequence[tuple[W, Abandoned]], now: float) -> list[W]:
        """The workers that must go, of all that have abandoned calls."""
        if not self._cpu.look([call for _, call in calls], now):
            return []
        computing: dict[str, list[tuple[float, float, W]]] = {}
        for worker, call in calls:
            spent_s = self._cpu.spent_s(call)
            if spent_s > COMPUTES_S:
                computing.setdefault(call.name, []).append((call.since, spent_s, worker))
        return list(dict.fromkeys(worker for found in computing.values() for worker in _too_many(found)))


def _too_many(found: list[tuple[float, float, W]]) -> list[W]:
    """Those of all calls but the one that ended first, and of that one too when it has used MOST_S."""
    found.sort(key=lambda one: one[0])
    _, spent_s, _ = found[0]
    return [worker for _, _, worker in found[spent_s < MOST_S :]]
