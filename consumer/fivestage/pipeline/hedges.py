"""What hedged calls share in a process: budgets, and the calls that were overtaken and still run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fivestage.core.extra_load import ExtraLoad
from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    import asyncio


class Hedges:
    """The budget of each node, and the calls that were overtaken. Shared by the loops of a process."""

    def __init__(self) -> None:
        self._budgets: dict[str, ExtraLoad] = {}
        self.overtaken: dict[asyncio.Task[object], Abandoned] = {}
        """Calls that were cancelled, as another one had answered, until their code has really ended."""

    def __repr__(self) -> str:
        return f"<Hedges {self._budgets}, {len(self.overtaken)} overtaken>"

    def budget(self, node: str, max_extra_load: float, now: float) -> ExtraLoad:
        """The budget of hedges of a node's calls. Empty at first: only calls fill it."""
        budget = self._budgets.get(node)
        if budget is None:
            budget = self._budgets.setdefault(node, ExtraLoad(now, share=max_extra_load, per_s=0.0))
        return budget

    def leave(self, task: asyncio.Task[object], node: str) -> None:
        """Count a call that was cancelled as abandoned until it has ended."""
        self.overtaken[task] = Abandoned(node, time.monotonic())
        task.add_done_callback(self.overtaken.pop)

    def abandoned(self) -> list[Abandoned]:
        """The calls that were overtaken and have not ended. From any thread."""
        return list(self.overtaken.values())
