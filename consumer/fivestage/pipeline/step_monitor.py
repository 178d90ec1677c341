"""Shows which job's code has control of an event loop."""

from __future__ import annotations

from typing import Any


class StepMonitor:
    """Two cells that another thread or process reads to detect a stalled loop.

    They are written around every step of user code: the number of the job whose code runs (0 = none), and a
    count of steps. If both stay the same for a while, one step has not given control back.
    """

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview | list[int] | None = None) -> None:
        self.cells: Any = [0, 0] if cells is None else cells

    def __repr__(self) -> str:
        return f"<StepMonitor job={self.cells[0]} step={self.cells[1]}>"

    def seen(self) -> tuple[int, int]:
        """The job's number and the step count, now."""
        return self.cells[0], self.cells[1]
