"""Prints the demo: a row for each result, the progress on a terminal, and the summary of the audit."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fivestage.cli import rows
from fivestage.cli.demo.audit import COLUMNS, SLACK_MS
from fivestage.cli.demo.questions import NO_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.cli.demo.audit import Audit
    from fivestage.cli.demo.questions import Input
    from fivestage.cli.demo.service_process import ServiceProcess
    from fivestage_schemas import PipelineResult

_BAR_WIDTH = 24
_STATUSES = ("success", "degraded", "error", "timeout", "expired", "dead letter")


class DemoView:
    """Prints rows; on a terminal the progress is shown below them."""

    def __init__(self, console: rows.OutputConsole, inputs: Sequence[Input]) -> None:
        self._questions = {one.query_id: one.question for one in inputs}
        self._counts: Counter[str] = Counter()
        self._note = ""
        self._rows = rows.RowPrinter(
            console,
            rows.Column("id", len(inputs[-1].query_id)),
            rows.Column("question", min(34, console.width // 2 - 20)),
            rows.Column("status", 11),
            rows.Column(rows.STAGES_HEADING, 9),
            rows.Column("ms", 5, right=True),
            rows.Column("answer or error", 0),
        )
        self._live = (
            Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._rows.heading()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the progress."""
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Show what the demo is doing; on a terminal only."""
        self._note = text
        self._refresh()

    def result(self, result: PipelineResult) -> None:
        """Show a terminal event."""
        question = self._questions.get(result.query_id, "?")
        marks, answer = self._rows.marks(result), rows.answer_of(result)
        self._row(result.query_id, question, rows.status_of(result), marks, rows.duration_of(result), answer)

    def dead_letter(self, reason: str) -> None:
        """Show the dead letter of an input without a readable id, for which there is no result."""
        self._row("-", "(no JSON)", "dead letter", Text(), "", reason)

    def _row(self, query_id: str, question: str, status: str, marks: Text, duration: str, text: str) -> None:
        self._counts[status] += 1
        self._rows.row(query_id, question, rows.status_text(status), marks, duration, text)
        self._refresh()

    def _refresh(self) -> None:
        if self._live:
            self._live.update(self._progress(), refresh=True)

    def _progress(self) -> Group:
        ended, expected = self._counts.total(), len(self._questions)
        grid = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=expected, completed=ended, width=_BAR_WIDTH)
        grid.add_row(bar, f"{ended}/{expected}", self._note)
        counts = [Text(f"{self._counts[status]} ") + rows.status_text(status) for status in _STATUSES]
        return Group("", grid, Text("  ").join(counts))


def print_summary(console: rows.OutputConsole, found: Audit) -> None:
    """Print what the audit found."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("input")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for kind, tally in found.tallies.items():
        table.add_row(kind, *[_figure(tally[column]) for column in COLUMNS])
    table.add_row("total", *[str(found.total[column]) for column in COLUMNS], style="bold")
    console.print()
    console.print(table)
    console.print()
    for line in _sentences(found):
        console.print(line, soft_wrap=True)


def print_served(console: rows.OutputConsole, service: ServiceProcess, inputs: Sequence[Input]) -> None:
    """Print where the service that goes on can be seen, and commands to try."""
    page = service.page()
    query_id = max(inputs, key=lambda one: (one.kind == "slow node", one.kind != NO_ID)).query_id
    lines = (
        "",
        f"status page: {page}",
        f"broker:      {service.bootstrap}",
        f"log:         {service.log_path}",
        "",
        "In another terminal:",
        f"  fivestage explain {query_id} -b {service.bootstrap}",
        f"  fivestage top {page.removeprefix('http://').removesuffix('/')}",
        "",
        "The questions are repeated until Ctrl-C.",
    )
    for line in lines:
        console.print(line, soft_wrap=True)


def _figure(count: int) -> Text:
    return Text(str(count)) if count else Text("-", style="dim")


def _sentences(found: Audit) -> list[Text | str]:
    verdict = Text("adds up", style="bold green")
    if found.problems:
        verdict = Text("does not add up", style="bold red")
    p50, p95, longest = (found.percentile_ms(share) for share in (0.5, 0.95, 1.0))
    sums = f"{found.inputs} inputs = {found.terminal_events} terminal events + {found.unreadable} unreadable"
    read_back = f"read back: {found.stage_results} stage results, {found.timeouts} timeout events"
    return [
        Text(f"{sums} without an id: ") + verdict,
        f"{read_back}, {found.dead_letters} dead letters",
        f"total_duration_ms: p50 {p50:.1f}, p95 {p95:.1f}, max {longest:.1f}",
        f"{found.in_budget} of {len(found.durations_ms)} ended within budget + {SLACK_MS:.0f} ms",
    ]
