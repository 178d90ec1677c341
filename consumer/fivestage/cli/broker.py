"""``fivestage broker``."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from fivestage.cli.common import ConfigOption, errors_as_one_line, load_settings


def broker(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = 9092,
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Partitions of each topic.")] = 8,
    config: ConfigOption = None,
) -> None:
    """Run the embedded development broker in the foreground.

    For trying things out: it keeps at most 5 MiB a partition, and loses everything when it ends.

    Prints its address when it can be used.

    Example: `fivestage broker`, then in another terminal `fivestage run`
    """
    from fivestage.kafka import embedded_broker

    names = load_settings(config).topics.all
    with errors_as_one_line():
        asyncio.run(embedded_broker.serve(names, partitions=partitions, port=port))
