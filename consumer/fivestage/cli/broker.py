"""``fivestage broker``."""

from __future__ import annotations

from typing import Annotated

import typer

from fivestage.cli.common import ConfigOption, load_settings


def broker(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 = any free port.")] = 9092,
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Partitions of each topic.")] = 8,
    config: ConfigOption = None,
) -> None:
    """Run an embedded Kafka broker for development, in the foreground, until Ctrl-C.

    It keeps at most 5 MiB per partition, and loses all records when it ends.

    Prints its address as soon as it is ready.

    Example: `fivestage broker`, then in another terminal `fivestage run`
    """
    import asyncio

    from fivestage.kafka import embedded_broker

    names = load_settings(config).topics.all
    asyncio.run(embedded_broker.serve(names, partitions=partitions, port=port))
