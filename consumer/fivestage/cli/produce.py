"""``fivestage produce``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.settings import Settings


def produce(
    text: Annotated[
        str | None, typer.Argument(help="The question; - reads query events from standard input, one a line.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A file of query events, one JSON object a line.")
    ] = None,
    lane: Annotated[str | None, typer.Option(help="Traffic class (with TEXT).")] = None,
    budget_ms: Annotated[int | None, typer.Option(min=1, help="Limit in milliseconds (with TEXT).")] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Write queries to the input topic; prints their ids.

    Example: `fivestage produce "What is 15 + 7?"`, or `fivestage produce - < queries.jsonl`
    """
    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        asyncio.run(_produce(settings, _values(text, file, lane, budget_ms)))


def _values(text: str | None, file: Path | None, lane: str | None, budget_ms: int | None) -> Iterator[bytes]:
    """Record values, read one by one so that a large file does not fill memory."""
    from fivestage.errors import ConfigurationError

    if (text is None) == (file is None):
        raise ConfigurationError('say either TEXT, or --file FILE, or - (see "fivestage produce --help")')
    if file is not None:
        try:
            with file.open("rb") as lines:
                yield from (line.strip() for line in lines if line.strip())
        except OSError as error:
            raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None
    elif text == "-":
        yield from (line.strip() for line in sys.stdin.buffer if line.strip())
    else:
        yield _event(text or "", lane, budget_ms)


def _event(text: str, lane: str | None, budget_ms: int | None) -> bytes:
    import uuid

    from fivestage_schemas import QueryEvent

    event = QueryEvent(query_id=str(uuid.uuid4()), user_input=text, lane=lane, budget_ms=budget_ms)
    return event.model_dump_json(exclude_none=True).encode()


async def _produce(settings: Settings, values: Iterator[bytes]) -> None:
    from fivestage.bus.client import QueryProducer

    async with QueryProducer(settings) as producer:
        for value in values:
            print(await producer.send(value), flush=True)
