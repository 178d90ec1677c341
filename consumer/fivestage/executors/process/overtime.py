"""Finds worker processes in which code computes on after its query has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fivestage.executors.abandoned_cpu import SpentCpu, thread_cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.pipeline.thread_pool import Abandoned

WorkerT = TypeVar("WorkerT")

COMPUTING_S: Final = 0.015
"""Code that has used more CPU seconds after its query's end computes; the kernel counts by 10 ms."""
MAX_CPU_S: Final = 5.0
"""CPU seconds that any call may use after its query's end."""


class Overtime(Generic[WorkerT]):
    """Selects the workers to replace because code of ended queries computes on in them.

    One call of each node may go on: it may be a first call that imports a library or loads a model, which
    would otherwise never succeed. Any other call takes the CPU from queries that need it.

    Args:
        cpu_s: Returns the CPU seconds that a thread has used so far; None for one that has ended.
    """

    def __init__(self, cpu_s: Callable[[tuple[int, int]], float | None] = thread_cpu_s) -> None:
        self._cpu = SpentCpu(cpu_s)

    def too_much(self, calls: Sequence[tuple[WorkerT, Abandoned]], now: float) -> list[WorkerT]:
        """Return the workers to replace, given all abandoned calls; none before MEASURE_EVERY_S is over."""
        if not self._cpu.measure([call for _, call in calls], now):
            return []
        computing: dict[str, list[tuple[float, float, WorkerT]]] = {}
        for worker, call in calls:
            spent_s = self._cpu.spent_s(call)
            if spent_s > COMPUTING_S:
                computing.setdefault(call.name, []).append((call.since, spent_s, worker))
        return list(dict.fromkeys(worker for found in computing.values() for worker in _all_but_first(found)))


def _all_but_first(found: list[tuple[float, float, WorkerT]]) -> list[WorkerT]:
    """Return the workers of all calls but the first abandoned; of that call too if it has used MAX_CPU_S."""
    found.sort(key=lambda one: one[0])
    _, spent_s, _ = found[0]
    return [worker for _, _, worker in found[spent_s < MAX_CPU_S :]]
