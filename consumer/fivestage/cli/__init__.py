"""The command line: one file per command, thin. Results on stdout, everything else on stderr.

Exit codes: 0, 1 (it ran and the answer is bad), 2 (wrong use, or something must be put right first).
"""

import typer

from fivestage.cli import broker, config, demo, dlq, produce, run, topics, watch

app = typer.Typer(
    name="fivestage",
    help="""Queries from Kafka through five stages inside a hard deadline: exactly one answer each.

    Example: `fivestage demo` shows all of it on this machine
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("run")(run.run)
app.command("demo")(demo.demo)
app.command("produce")(produce.produce)
app.command("watch")(watch.watch)
app.command("broker")(broker.broker)
app.add_typer(topics.app, name="topics")
app.add_typer(config.app, name="config")
app.add_typer(dlq.app, name="dlq")

__all__ = ["app"]
