"""The command ``fivestage``: one module per command, each with its options, texts and output.

``common`` has what the commands share. ``rows`` prints tables, ``timeline`` lists the attempts of a query and
``ruler`` draws them, ``progress`` shows how far a command is, ``child_process`` runs a service for a command.
``bench``, ``demo``, ``explain`` and ``top`` are packages. Called by ``__main__``.
Kafka clients are imported inside the commands' functions, so that ``--help`` is quick.

Invariant: results go to standard output, everything else to standard error. Exit code 0: done; 1: done, with
a bad result; 2: wrong usage, or settings, topics or permissions must be corrected first.
"""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from fivestage.cli import (
    ask,
    bench,
    broker,
    check,
    config,
    demo,
    dev,
    dlq,
    explain,
    new,
    produce,
    run,
    schemas,
    top,
    topics,
    watch,
)
from fivestage.cli.common import discard_output, errors_as_one_line, open_standard_streams, quieten_clients
from fivestage.cli.version import VersionOption


class _Commands(TyperGroup):
    """All commands, with the handling of errors that they share."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; help and version are printed before a command is chosen."""
        open_standard_streams()
        try:
            return super().main(*args, **options)
        except OSError as error:
            discard_output()
            sys.exit(f"fivestage: {error}")

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        with errors_as_one_line():
            quieten_clients()
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    name="fivestage",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _options(version: VersionOption = False) -> None:  # noqa: FBT002 - its callback prints it
    """Run each query from Kafka through five stages within a hard deadline; publish one answer for each.

    Example: `fivestage demo` shows all of it on this machine
    """


app.command("run")(run.run)
app.command("demo")(demo.demo)
app.command("dev")(dev.dev)
app.command("produce")(produce.produce)
app.command("watch")(watch.watch)
app.command("top")(top.top)
app.command("new")(new.new)
app.command("check")(check.check)
app.command("ask")(ask.ask)
app.command("explain")(explain.explain)
app.command("bench")(bench.bench)
app.command("broker")(broker.broker)
app.add_typer(topics.app, name="topics")
app.add_typer(config.app, name="config")
app.add_typer(schemas.app, name="schemas")
app.add_typer(dlq.app, name="dlq")

__all__ = ["app"]
