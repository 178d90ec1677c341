"""``fivestage watch``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from fivestage.settings import Settings


def watch(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,  # noqa: FBT002
    from_beginning: Annotated[bool, typer.Option(help="Also the results that are there already.")] = False,  # noqa: FBT002
    limit: Annotated[int, typer.Option("--max", min=0, help="Stop after so many results; 0 = never.")] = 0,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Follow the results as a table, one line each.

    Example: `fivestage watch --json --max 10`
    """
    settings = load_settings(config, bootstrap)
    try:
        with errors_as_one_line():
            asyncio.run(_watch(settings, as_json=as_json, from_beginning=from_beginning, limit=limit))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _watch(settings: Settings, *, as_json: bool, from_beginning: bool, limit: int) -> None:
    from fivestage.bus.client import follow

    seen = 0
    if not as_json:
        print(_HEADING)
    async for record in follow(settings, settings.topics.results, from_beginning=from_beginning):
        print(record.value.decode() if as_json else line_of(record.value), flush=True)
        seen += 1
        if seen == limit:
            return


_HEADING = f"{'query':<24} {'status':<9} {'ms':>8}  {'stages':<11} answer"
_MARKS = {"success": "+", "timeout": "T", "error": "E", "skipped": "-"}


def line_of(value: bytes) -> str:
    """One result as one line: id, status, time, the five stages (+ T E -), answer or error."""
    from pydantic import ValidationError

    from fivestage_schemas import PipelineResult

    try:
        result = PipelineResult.model_validate_json(value)
    except ValidationError:
        return "(a record that is no PipelineResult)"
    marks = " ".join(_MARKS[stage.outcome] for stage in result.stages)
    text = result.error if result.answer is None else result.answer
    status = f"{result.status}{'*' if result.degraded else ''}"
    duration = result.metrics.total_duration_ms
    return f"{result.query_id[:24]:<24} {status:<9} {duration:>8.1f}  {marks:<11} {str(text)[:70]}"
