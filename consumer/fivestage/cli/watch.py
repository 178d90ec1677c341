"""``fivestage watch``."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from fivestage.cli.common import (
    BootstrapOption,
    ConfigOption,
    JsonOption,
    errors_as_one_line,
    load_settings,
    run_while_read,
)
from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from fivestage.cli.rows import RowPrinter
    from fivestage.settings import Settings
    from fivestage_schemas import PipelineResult


UUID_WIDTH = 110
"""From this width of the terminal on, whole UUIDs are shown."""
WATERFALL_WIDTH = 140
"""From this width of the terminal on, waterfalls are shown without being asked for."""
WATERFALL_CELLS = 25
STATUSES = ("success", "error", "timeout", "expired", "degraded", "partial")
"""Those of PipelineStatus, which the help should not have to import, ``degraded`` and ``partial``."""


class Filter(NamedTuple):
    """Which results are shown; empty and None = any."""

    statuses: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    lanes: frozenset[str] = frozenset()
    slow_ms: float | None = None
    """Those that took at least as long."""

    @property
    def is_empty(self) -> bool:
        """Whether all results match, also records that are no results."""
        return self == Filter()

    def matches(self, result: PipelineResult) -> bool:
        """Whether a result is shown; a node matches if it was called at all."""
        marks = {"degraded": result.degraded, "partial": result.partial}
        words = {str(result.status), *(word for word, applies in marks.items() if applies)}
        if self.statuses and not self.statuses & words:
            return False
        called = {attempt.node for stage in result.stages for attempt in stage.attempts} | {result.node}
        if self.nodes and not self.nodes & called:
            return False
        if self.lanes and result.lane not in self.lanes:
            return False
        return self.slow_ms is None or result.metrics.total_duration_ms >= self.slow_ms


def watch(
    as_json: JsonOption = False,  # noqa: FBT002
    from_beginning: Annotated[  # noqa: FBT002
        bool, typer.Option("--from-beginning", help="Start with the oldest result, not with the next one.")
    ] = False,
    limit: Annotated[int, typer.Option("--max", "-n", min=0, help="Stop after N results; 0 = never.")] = 0,
    status: Annotated[
        list[str] | None,
        typer.Option(help=f"Only results with this status ({', '.join(STATUSES)}); can be repeated."),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="Only results for which this node was called; can be repeated.")
    ] = None,
    lane: Annotated[
        list[str] | None, typer.Option(help="Only results of this lane; can be repeated.")
    ] = None,
    slow: Annotated[
        float | None, typer.Option(min=0, help="Only results that took at least as many milliseconds.")
    ] = None,
    waterfall: Annotated[
        bool | None,
        typer.Option(
            "--waterfall/--no-waterfall",
            help=f"Draw where the time of each query went; so it is from {WATERFALL_WIDTH} columns on.",
        ),
    ] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Follow the results until Ctrl-C, one line per result.

    The column I D P V R has a mark for each stage (intent, decision, processing, validation, reflection):
    ✓ or + success, T timeout, ✗ or E error, · or - not run. A waterfall has their letters on a line as long
    as the query's budget.

    Example: `fivestage watch --from-beginning`

    Example: `fivestage watch --status timeout --status error --slow 200 --waterfall`

    Example: `fivestage watch --json --max 10`
    """
    for word in status or ():
        if word not in STATUSES:
            raise ConfigurationError(f"--status: there is no {word!r}, but {', '.join(STATUSES)}")
    chosen = Filter(frozenset(status or ()), frozenset(node or ()), frozenset(lane or ()), slow)
    settings = load_settings(config, bootstrap)
    table = None if as_json else _Table(waterfall=waterfall)
    with errors_as_one_line(interrupted=0):
        run_while_read(_watch(settings, table, chosen, from_beginning=from_beginning, limit=limit))


async def _watch(
    settings: Settings, table: _Table | None, chosen: Filter, *, from_beginning: bool, limit: int
) -> None:
    from fivestage.kafka.tools.client import follow

    topic = settings.topics.results
    if sys.stderr.isatty():
        where = f"{topic} at {settings.kafka.bootstrap_servers}"
        print(f"following {where}; Ctrl-C ends it", file=sys.stderr)
    seen = 0
    async with aclosing(follow(settings, topic, from_beginning=from_beginning)) as records:
        async for record in records:
            value = record.value or b""
            result = None if table is None and chosen.is_empty else _result(value)
            if not chosen.is_empty and (result is None or not chosen.matches(result)):
                continue
            if table is None:
                print(value.decode(errors="replace"), flush=True)
            else:
                table.print(result)
            seen += 1
            if seen == limit:
                return


def _result(value: bytes) -> PipelineResult | None:
    from pydantic import ValidationError

    from fivestage_schemas import PipelineResult

    try:
        return PipelineResult.model_validate_json(value)
    except ValidationError:
        return None


class _Table:
    """The results as rows.

    Args:
        waterfall: Whether each row has a waterfall; None for wide terminals only.
    """

    def __init__(self, *, waterfall: bool | None) -> None:
        from fivestage.cli import rows

        console = rows.OutputConsole()
        is_wide = console.is_terminal and console.width >= WATERFALL_WIDTH
        self._has_waterfall = is_wide if waterfall is None else waterfall
        self._unicode = console.draws_unicode
        columns = [
            rows.Column("query", 36 if console.width >= UUID_WIDTH else 24),
            rows.Column("status", 9),
            rows.Column("ms", 8, right=True),
            rows.Column(rows.STAGES_HEADING, 9),
        ]
        if self._has_waterfall:
            columns.append(rows.Column("waterfall", WATERFALL_CELLS))
        self._rows: RowPrinter = rows.RowPrinter(console, *columns, rows.Column("answer or error", 0))

    def print(self, result: PipelineResult | None) -> None:
        """Print a result; None for a record that is none."""
        from rich.text import Text

        from fivestage.cli import rows
        from fivestage.cli.ruler import bar_line
        from fivestage.cli.timeline import Timeline, steps_of

        drawn = [Text()] if self._has_waterfall else []
        if result is None:
            self._rows.row("?", "?", "", "", *drawn, "this record is no PipelineResult")
            return
        if self._has_waterfall:
            metrics = result.metrics
            timeline = Timeline(steps_of(result), metrics.budget_ms, metrics.total_duration_ms)
            drawn = [bar_line(timeline, WATERFALL_CELLS, unicode=self._unicode)]
        self._rows.row(
            result.query_id,
            rows.status_text(rows.status_of(result)),
            rows.duration_of(result),
            self._rows.marks(result),
            *drawn,
            rows.answer_of(result),
        )
