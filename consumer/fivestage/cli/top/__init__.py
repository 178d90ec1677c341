"""``fivestage top``: the status of a service, live in a terminal.

``client`` reads ``/api/status``, ``live`` keeps the screen fresh. ``frame`` puts the blocks together, in the
order of the status page: ``summary``, ``stages``, ``nodes``, ``recent``; ``words`` writes figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fivestage.cli.common import ConfigOption, errors_as_one_line, load_settings, run_while_read

if TYPE_CHECKING:
    from fivestage.cli.top.client import StatusClient


def top(
    address: Annotated[
        str | None,
        typer.Argument(help="host:port of a service's HTTP endpoints; default: admin.host and admin.port."),
    ] = None,
    once: Annotated[  # noqa: FBT002
        bool, typer.Option("--once", help="Print one frame and end; so it is too without a terminal.")
    ] = False,
    as_json: Annotated[  # noqa: FBT002
        bool, typer.Option("--json", help="Print the status once, as one JSON object.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Show the status of a running service, live, until q or Ctrl-C.

    Answers in time, where the time goes, nodes, load, the last slow, late and failed queries, and what
    changed: the same as on the status page, in the same order.

    Example: `fivestage top`

    Example: `fivestage top localhost:8081 --once`
    """
    from fivestage.cli.rows import OutputConsole
    from fivestage.cli.top.client import StatusClient, base_url

    admin = load_settings(config).admin
    client = StatusClient(base_url(address, admin.host, admin.port))
    if as_json:
        print(run_while_read(_read(client)))
    elif once or not OutputConsole().is_live:
        run_while_read(_print(client))
    else:
        with errors_as_one_line(interrupted=0):
            run_while_read(_watch(client))


async def _read(client: StatusClient) -> str:
    async with client:
        return await client.text()


async def _print(client: StatusClient) -> None:
    from fivestage.cli.rows import OutputConsole
    from fivestage.cli.top.frame import frame

    console = OutputConsole()
    async with client:
        status = await client.status()
    for line in frame(status, console.width if console.is_terminal else None, unicode=console.draws_unicode):
        console.print(line, soft_wrap=True)


async def _watch(client: StatusClient) -> None:
    from fivestage.cli.top.live import watch

    async with client:
        await watch(client)
