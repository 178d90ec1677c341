"""``fivestage produce``."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import uuid
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, load_settings, query_event
from fivestage.cli.progress import counting
from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fivestage.settings import Settings

CHUNK_BYTES = 64 * 1024


def produce(
    text: Annotated[
        str | None,
        typer.Argument(help="The question; - reads query events from standard input, one per line."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A file of query events, one JSON object per line.")
    ] = None,
    lane: Annotated[str | None, typer.Option(help="The lane, a traffic class (with TEXT).")] = None,
    budget_ms: Annotated[
        int | None, typer.Option(min=1, help="The time limit in milliseconds (with TEXT).")
    ] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Write queries to the input topic and print their ids. Lines are written unchanged, even malformed ones.

    Example: `fivestage produce "What is 15 + 7?"`

    Example: `fivestage produce --file queries.jsonl`

    Example: `echo '{"query_id": "a", "user_input": "2+2"}' | fivestage produce -`
    """
    import asyncio

    _check_usage(text, file, lane, budget_ms)
    event = _event(text, lane, budget_ms) if text is not None and text != "-" else None
    settings = load_settings(config, bootstrap)
    with contextlib.ExitStack() as stack:
        if event is not None:
            values = _once(event)
            count = stack.enter_context(counting("writing", prints=True))
        elif file is not None:
            stream = stack.enter_context(_open(file))
            values = _lines(stream)
            count = stack.enter_context(counting(f"writing {file.name}", total=_size(stream), prints=True))
        else:
            values = _lines(sys.stdin.buffer)
            count = stack.enter_context(counting("writing", "bytes", prints=True))
        asyncio.run(_produce(settings, values, count))


def _check_usage(text: str | None, file: Path | None, lane: str | None, budget_ms: int | None) -> None:
    if (text is None) == (file is None):
        raise ConfigurationError(
            'give one of TEXT, --file FILE, or -, for example: fivestage produce "What is 15 + 7?"'
        )
    if (file or text == "-") and (lane or budget_ms):
        raise ConfigurationError(
            "--lane and --budget-ms need TEXT: events from a file or from standard input have these fields"
        )


def _event(text: str, lane: str | None, budget_ms: int | None) -> bytes:
    event = query_event(str(uuid.uuid4()), text, lane=lane, budget_ms=budget_ms)
    return event.model_dump_json(exclude_none=True).encode()


def _open(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None


def _size(stream: BinaryIO) -> int | None:
    """Return the size in bytes; None for what is no file, such as a pipe."""
    found = os.fstat(stream.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None


async def _once(value: bytes) -> AsyncIterator[bytes]:
    yield value


async def _lines(stream: BinaryIO) -> AsyncIterator[bytes]:
    """Yield non-empty lines as they arrive.

    They are read in a thread, so that earlier lines are sent while the user types the next one. It is not one
    of asyncio's threads, for which Ctrl-C would have to wait. It reads the file descriptor, since it would
    hold the lock of the buffered *stream* when the interpreter exits.
    """
    from fivestage.pipeline.thread_pool import ThreadPool

    pool, rest = ThreadPool(1), b""
    while chunk := await pool.run(os.read, stream.fileno(), CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line.strip()
    if rest.strip():
        yield rest.strip()


async def _produce(settings: Settings, values: AsyncIterator[bytes], count: Callable[[float], None]) -> None:
    from fivestage.kafka.tools.client import QueryProducer

    async with QueryProducer(settings) as producer:
        async for value in values:
            print(await producer.send(value), flush=True)
            count(len(value) + 1)
