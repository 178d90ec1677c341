"""Shows on a terminal how far a command is that takes longer than a moment."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

SHOWN_AFTER_S = 0.7


@contextmanager
def counting(
    text: str, unit: str = "", total: float | None = None, *, prints: bool = False
) -> Iterator[Callable[[float], None]]:
    """Show a bar, or a count if *total* is None, on standard error; yields a function that counts on.

    Nothing is shown if standard error is no terminal, or if the block ends within SHOWN_AFTER_S.

    Args:
        text: What is done.
        unit: What is counted; empty for nothing.
        total: How much there is to count.
        prints: The command prints its results meanwhile: on a terminal these are what is seen.
    """
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield lambda _: None
        return
    progress = _progress(unit, has_total=total is not None)
    task = progress.add_task(text, total=total)
    starting = threading.Timer(SHOWN_AFTER_S, progress.start)
    starting.daemon = True
    starting.start()
    try:
        yield lambda count: progress.advance(task, count)
    finally:
        starting.cancel()
        starting.join()
        progress.stop()


def _progress(unit: str, *, has_total: bool) -> Progress:
    from rich import progress
    from rich.console import Console

    columns: list[progress.ProgressColumn] = [
        progress.SpinnerColumn("line"),
        progress.TextColumn("{task.description}"),
    ]
    if has_total:
        columns += [progress.BarColumn(), progress.TaskProgressColumn(), progress.TimeRemainingColumn()]
    elif unit:
        columns.append(progress.TextColumn(f"{{task.completed:,.0f}} {unit}"))
    columns.append(progress.TimeElapsedColumn())
    return progress.Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    )
