"""``fivestage watch``."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from fivestage.cli.common import (
    BootstrapOption,
    ConfigOption,
    JsonOption,
    errors_as_one_line,
    load_settings,
    run_while_read,
)
from fivestage_schemas import PipelineResult

if TYPE_CHECKING:
    from fivestage.cli.rows import RowPrinter
    from fivestage.settings import Settings


UUID_WIDTH = 110
"""From this width of the terminal on, whole UUIDs are shown."""


def watch(
    as_json: JsonOption = False,  # noqa: FBT002
    from_beginning: Annotated[  # noqa: FBT002
        bool, typer.Option("--from-beginning", help="Start with the oldest result, not with the next one.")
    ] = False,
    limit: Annotated[int, typer.Option("--max", "-n", min=0, help="Stop after N results; 0 = never.")] = 0,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Follow the results until Ctrl-C, one line per result.

    The column I D P V R has a mark for each stage (intent, decision, processing, validation, reflection):
    ✓ or + success, T timeout, ✗ or E error, · or - not run.

    Example: `fivestage watch --from-beginning`

    Example: `fivestage watch --json --max 10`
    """
    settings = load_settings(config, bootstrap)
    with errors_as_one_line(interrupted=0):
        run_while_read(_watch(settings, as_json=as_json, from_beginning=from_beginning, limit=limit))


async def _watch(settings: Settings, *, as_json: bool, from_beginning: bool, limit: int) -> None:
    from fivestage.kafka.tools.client import follow

    topic = settings.topics.results
    if sys.stderr.isatty():
        where = f"{topic} at {settings.kafka.bootstrap_servers}"
        print(f"following {where}; Ctrl-C ends it", file=sys.stderr)
    table = None if as_json else _table()
    seen = 0
    async with aclosing(follow(settings, topic, from_beginning=from_beginning)) as records:
        async for record in records:
            value = record.value or b""
            if table is None:
                print(value.decode(errors="replace"), flush=True)
            else:
                _print_row(table, value)
            seen += 1
            if seen == limit:
                return


def _table() -> RowPrinter:
    from fivestage.cli import rows

    console = rows.OutputConsole()
    return rows.RowPrinter(
        console,
        rows.Column("query", 36 if console.width >= UUID_WIDTH else 24),
        rows.Column("status", 9),
        rows.Column("ms", 8, right=True),
        rows.Column(rows.STAGES_HEADING, 9),
        rows.Column("answer or error", 0),
    )


def _print_row(table: RowPrinter, value: bytes) -> None:
    from fivestage.cli import rows

    try:
        result = PipelineResult.model_validate_json(value)
    except ValidationError:
        table.row("?", "?", "", "", "this record is no PipelineResult")
        return
    status = rows.status_text(rows.status_of(result))
    table.row(result.query_id, status, rows.duration_of(result), table.marks(result), rows.answer_of(result))
