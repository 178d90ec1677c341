"""``fivestage run``."""

from __future__ import annotations

import gc
import os
import resource
import sys
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
    _harden_process()
    gc.disable()  # what is imported stays: looking for garbage would take a tenth of the time
    from fivestage.observability import logging
    from fivestage.pipeline.loader import load_app
    from fivestage.service import entry

    gc.enable()
    settings = load_settings(config, bootstrap)
    with errors_as_one_line():
        app = load_app(target)
        logging.configure(log_level, settings.logging.show_text)
    code = entry.run(settings, app, target)
    os._exit(code)  # a node's stuck thread, or a hung task of the client, must not keep the process


def _harden_process() -> None:
    """Leave no core behind, which would hold queries and secrets, and have all three standard streams.

    Where one is closed the next socket would get its number, and whoever prints would write to Kafka.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_limit))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed; the lowest free number is the one that is opened
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
