"""``fivestage topics``."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings

app = typer.Typer(no_args_is_help=True, help="Create the topics, or check that they can be used.")


@app.command()
def create(
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each new topic.")] = 8,
    replication_factor: Annotated[int, typer.Option(min=1, help="Copies of each partition.")] = 1,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Create those of the five topics that are missing.

    Example: `fivestage topics create --partitions 12 --replication-factor 3`
    """
    from fivestage.bus import topics

    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        created = asyncio.run(
            topics.create(settings, partitions=partitions, replication_factor=replication_factor)
        )
    for name in created:
        print(f"created {name}")
    if not created:
        print("nothing to do: all five topics are there")


@app.command()
def check(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Tell of each topic whether it can be used; exit code 1 when one cannot.

    Example: `fivestage topics check --bootstrap localhost:9092`
    """
    from fivestage.bus import topics

    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        found = asyncio.run(topics.describe(settings, settings.topics.all))
    bad = False
    for name in settings.topics.all:
        info = found.get(name)
        problem = topics.problem_of(info, name, is_input=name == settings.topics.queries)
        bad = bad or problem is not None
        print(problem or f"topic {name!r} can be used: {info.partitions if info else 0} partitions")
    if bad:
        raise typer.Exit(1)
