"""``fivestage run``."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, errors_as_one_line, load_settings

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def run(
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:APP", help="Your Pipeline; the built-in one when absent."),
    ] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    log_level: Annotated[LogLevel, typer.Option(case_sensitive=False, help="What is logged.")] = "INFO",
) -> None:
    """Run the service until SIGTERM or Ctrl-C; logs JSON lines to standard error.

    Example: `fivestage run` answers with the built-in stages and nodes

    Example: `fivestage run myapp:app --bootstrap localhost:9092`
    """
    from fivestage import service
    from fivestage.apps import load_app
    from fivestage.telemetry import logging

    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        app = load_app(target)
        logging.configure(log_level)
    code = service.run(settings, app, target)
    os._exit(code)  # a node's stuck thread, or a hung task of the client, must not keep the process
