"""``fivestage topics``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, load_settings
from fivestage.cli.progress import counting

if TYPE_CHECKING:
    from fivestage.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Create the topics, or check that they are usable.\n\nExample: `fivestage topics check`",
)


@app.command()
def create(
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each new topic.")] = 8,
    replication_factor: Annotated[
        int, typer.Option(min=-1, help="Replicas of each partition; -1 = the brokers' default.")
    ] = -1,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Create the missing topics: the input topics that topics.queries names, and the four output topics.

    Example: `fivestage topics create --partitions 12 --replication-factor 3`
    """
    import asyncio

    settings = load_settings(config, bootstrap)
    with counting("creating topics"):
        created, note = asyncio.run(_create(settings, partitions, replication_factor))
    for name in created:
        print(f"created {name}")
    if not created:
        print("nothing to do: all topics are there")
    if note:
        print(f"fivestage: {note}", file=sys.stderr)


async def _create(settings: Settings, partitions: int, replication_factor: int) -> tuple[list[str], str]:
    """Create the missing topics; return their names, and a note if they have another number of partitions.

    If none is missing, no permission to create topics is needed.
    """
    from fivestage.kafka import topic_info, topics

    found = await topic_info.describe(settings, settings.topics.all)
    if all(name in found and not found[name].error for name in settings.topics.all):
        return [], ""
    created = await topics.create(settings, partitions=partitions, replication_factor=replication_factor)
    if not topic_info.is_embedded(found) or partitions == topics.EMBEDDED_PARTITIONS:
        return created, ""
    return created, (
        f"the embedded broker gives a new topic {topics.EMBEDDED_PARTITIONS} partitions; for another number "
        "restart it with the same topics.* settings, for example: fivestage broker --partitions 12"
    )


@app.command()
def check(config: ConfigOption = None, bootstrap: BootstrapOption = None) -> None:
    """Print for each topic whether it is usable; exit code 1 if one is not.

    Example: `fivestage topics check --bootstrap localhost:9092`
    """
    import asyncio

    from fivestage.kafka import topics

    settings = load_settings(config, bootstrap)
    with counting("looking at the topics"):
        names, found = asyncio.run(topics.look_up(settings))
    problems = [
        topics.problem_of(found.get(name), name, is_input=settings.topics.is_input(name)) for name in names
    ]
    for name, problem in zip(names, problems, strict=True):
        print(problem or f"topic {name!r} can be used: {found[name].partitions} partitions")
    if any(problems):
        raise typer.Exit(1)
