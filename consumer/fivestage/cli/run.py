"""``fivestage run``."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from fivestage.cli.common import BootstrapOption, ConfigOption, load_settings, warn_of_variables
from fivestage.errors import ConfigurationError, InvalidAppError

if TYPE_CHECKING:
    from collections.abc import Iterator

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
FIRST_PROCESS: Final = 1


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
    prepare_process()
    gc.disable()  # imports make no garbage; looking for it would take a tenth of their time
    from fivestage.observability import logging
    from fivestage.pipeline.loader import load_app
    from fivestage.service import entry

    gc.enable()
    logging.configure(log_level)  # for what comes before the settings are known
    with errors_as_log_lines():
        settings = load_settings(config, bootstrap)
        logging.configure(log_level, settings.logging.show_text, settings.logging.format)
        warn_of_variables(settings)
        app = load_app(target)
    logging.configure_again()
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


def prepare_process() -> None:
    """Disable core dumps, which would contain queries and secrets, and let SIGTERM end the first process.

    The first process of a container has no default action for signals: while the app is imported, SIGTERM
    would be lost. The service replaces the handler when it starts.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_limit))
    if os.getpid() == FIRST_PROCESS:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
