"""``fivestage run``."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, load_settings, warn_of_variables
from fivestage.errors import ConfigurationError, InvalidAppError

if TYPE_CHECKING:
    from collections.abc import Iterator

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def run(
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:APP", help="Your Pipeline; by default the built-in one."),
    ] = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    log_level: Annotated[
        LogLevel, typer.Option(case_sensitive=False, help="The lowest level that is logged.")
    ] = "INFO",
) -> None:
    """Run the service until SIGTERM or Ctrl-C; it logs to standard error, as JSON if that is no terminal.

    Example: `fivestage run` answers with the built-in stages and nodes

    Example: `fivestage run myapp:app --bootstrap localhost:9092`
    """
    harden_process()
    gc.disable()  # imports make no garbage; looking for it would take a tenth of their time
    from fivestage.observability import logging
    from fivestage.pipeline.loader import load_app
    from fivestage.service import entry

    gc.enable()
    logging.configure(log_level)  # for what comes before the settings are known
    with errors_as_log_lines():
        settings = load_settings(config, bootstrap)
        chosen = log_level, settings.logging.show_text, settings.logging.format
        logging.configure(*chosen)
        warn_of_variables(settings)
        app = load_app(target)
    logging.configure(*chosen)  # the app may have configured the log
    code = entry.run(settings, app, target)
    os._exit(code)  # exits even if a thread of a node or a task of the Kafka client hangs


@contextlib.contextmanager
def errors_as_log_lines() -> Iterator[None]:
    """Log what prevents the start, with exit code 2. On a terminal it is printed as by other commands."""
    import structlog

    from fivestage.observability.log_output import output
    from fivestage.pipeline.loader import authors_traceback

    try:
        yield
    except (ConfigurationError, InvalidAppError) as error:
        if output.is_text:
            raise
        traceback = authors_traceback(error) if isinstance(error, InvalidAppError) else ""
        log = structlog.get_logger("fivestage.service")
        log.error("cannot run", error=str(error), traceback=traceback or None, exit_code=2)  # noqa: TRY400
        raise typer.Exit(2) from None


def harden_process() -> None:
    """Disable core dumps, which would contain queries and secrets, and open closed standard streams.

    If a standard stream were closed, a socket could get its file descriptor, and a print would write to
    Kafka.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_limit))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed; open returns the lowest free number, which is this one
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
