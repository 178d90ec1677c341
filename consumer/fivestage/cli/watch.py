"""``fivestage watch``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings, while_read

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.settings import Settings


ROOMY = 110
"""Columns of a terminal that has room for whole UUIDs."""


def watch(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,  # noqa: FBT002
    from_beginning: Annotated[  # noqa: FBT002
        bool, typer.Option("--from-beginning", help="Also the results that are there already.")
    ] = False,
    limit: Annotated[int, typer.Option("--max", "-n", min=0, help="Stop after so many; 0 = never.")] = 0,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Follow the results as a table, one line each, until Ctrl-C.

    The five stages are I D P V R (intent, decision, processing, validation, reflection), each with a mark:
    ✓ or + success, T timeout, ✗ or E error, · or - not run.

    Example: `fivestage watch --from-beginning`

    Example: `fivestage watch --json --max 10`
    """
    settings = load_settings(config, bootstrap)
    with errors_as_one_line(interrupted=0):
        following = _watch(settings, as_json=as_json, from_beginning=from_beginning, limit=limit)
        asyncio.run(while_read(following))


async def _watch(settings: Settings, *, as_json: bool, from_beginning: bool, limit: int) -> None:
    from contextlib import aclosing

    from fivestage.kafka.tools.client import follow

    if sys.stderr.isatty():
        where = f"{settings.topics.results} at {settings.kafka.bootstrap_servers}"
        print(f"following {where}; Ctrl-C ends it", file=sys.stderr)
    show = _print_json if as_json else _table()
    seen = 0
    async with aclosing(follow(settings, settings.topics.results, from_beginning=from_beginning)) as records:
        async for record in records:
            show(record.value or b"")
            seen += 1
            if seen == limit:
                return


def _print_json(value: bytes) -> None:
    print(value.decode(errors="replace"), flush=True)


def _table() -> Callable[[bytes], None]:
    """What prints a row, with the headings before the first one."""
    from pydantic import ValidationError

    from fivestage.cli import rows
    from fivestage_schemas import PipelineResult

    console = rows.OutputConsole()
    columns = [
        rows.Column("query", 36 if console.width >= ROOMY else 24),
        rows.Column("status", 9),
        rows.Column("ms", 8, right=True),
        rows.Column(rows.STAGES_HEADING, 9),
        rows.Column("answer or error", 0),
    ]
    table = rows.RowPrinter(console, columns)
    headed = False

    def show(value: bytes) -> None:
        nonlocal headed
        if not headed:
            headed = True
            table.heading()
        try:
            result = PipelineResult.model_validate_json(value)
        except ValidationError:
            table.row("?", "?", "", "", "this record is no PipelineResult")
            return
        table.row(
            result.query_id,
            rows.status_text(rows.shown_status(result)),
            rows.duration_of(result),
            table.marks([stage.outcome for stage in result.stages]),
            rows.ending_of(result),
        )

    return show
