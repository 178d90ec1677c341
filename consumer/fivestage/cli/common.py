"""Options, settings, error handling and the event loop of the commands."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fivestage.errors import ConfigurationError, FivestageError, InvalidAppError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator

    from fivestage.settings import Settings
    from fivestage_schemas import QueryEvent

T = TypeVar("T")

REPEAT_S = 30.0

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file with settings.", envvar="FIVESTAGE_CONFIG")
]
BootstrapOption = Annotated[
    str | None, typer.Option("--bootstrap", "-b", help="Kafka as host:port; overrides all other settings.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a command that was interrupted before it was done."""


def open_standard_streams() -> None:
    """Open standard streams that are closed (``>&-``), on nothing.

    Otherwise a socket could get the file descriptor of one, and a print would write to Kafka.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed; open returns the lowest free number, which is this one
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def discard_output() -> None:
    """Write what is still to be written to standard output to nothing: it would fail again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def load_settings(config: Path | None, bootstrap: str | None = None) -> Settings:
    """Load the settings from file, environment and command line.

    Raises:
        ConfigurationError: a setting is invalid.
    """
    from fivestage.settings import Settings

    return Settings.load(config, {"kafka": {"bootstrap_servers": bootstrap}} if bootstrap else None)


def warn_of_variables(settings: Settings) -> None:
    """Log the variables that look like settings and set nothing.

    Others with the prefix are not mentioned: Kubernetes makes some for each Service, such as
    ``FIVESTAGE_SERVICE_HOST`` for one called fivestage. ``fivestage config check`` names all.
    """
    import structlog

    from fivestage.setting_sources import unknown_variables

    log = structlog.get_logger("fivestage.settings")
    for variable, proposal in unknown_variables(type(settings)):
        advice = None if proposal is None else f"did you mean {proposal}?"
        if "__" in variable or advice is not None:
            log.warning("variable has no effect", variable=variable, advice=advice)


def query_event(query_id: str, text: str, **fields: Any) -> QueryEvent:
    """Make the event of a query that is given on the command line; *fields* are those of QueryEvent.

    Raises:
        ConfigurationError: the event may not have such a value.
    """
    from pydantic import ValidationError

    from fivestage_schemas import QueryEvent

    require_text(text, "the query's text")
    try:
        return QueryEvent(query_id=query_id, user_input=text, **fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigurationError(f"{first['loc'][0]}: {first['msg']}") from None


def require_text(argument: str, name: str) -> None:
    """Raise ConfigurationError if an argument of the command line has bytes that are not UTF-8."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} is not UTF-8") from None


@contextlib.contextmanager
def errors_as_one_line(*, interrupted: int = INTERRUPTED, reader_gone: int = 0) -> Iterator[None]:
    """Turn expected errors, Ctrl-C and failures of standard output into an exit code and at most one line.

    All commands run inside of it; a command with other exit codes uses it once more.
    If importing the author's module failed, the traceback of the author's own frames comes before that line.

    Args:
        interrupted: The exit code after Ctrl-C; 0 for commands that run until then.
        reader_gone: The exit code if the reader of standard output is gone.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # if the pipe is closed, raises here and not when the interpreter exits
    except ConfigurationError as error:
        _exit(f"fivestage: {error}", 2)
    except InvalidAppError as error:
        from fivestage.pipeline.loader import authors_traceback

        _exit(f"{authors_traceback(error)}fivestage: {error}", 2)
    except FivestageError as error:
        _exit(f"fivestage: {error}", 1)
    except OSError as error:  # usually standard output cannot be written
        discard_output()
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(reader_gone) from None
        _exit(f"fivestage: {str(error) or type(error).__name__}", 1)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "CancelledError":
            raise typer.Exit(interrupted) from None  # by name: --help should not have to import asyncio
        raise


def _exit(text: str, code: int) -> None:
    with contextlib.suppress(OSError):  # a disk that is full does not change the exit code
        print(text, file=sys.stderr, flush=True)
    raise typer.Exit(code) from None


class _ThrottledWarnings(logging.Handler):
    """Prints at most one warning in REPEAT_S: a client that cannot connect logs many per second."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Print the warning, unless another one was printed recently."""
        if record.created >= self._quiet_until:
            self._quiet_until = record.created + REPEAT_S
            print(f"fivestage: Kafka client: {record.getMessage()[:200]}; trying again", file=sys.stderr)


def quieten_clients() -> None:
    """Throttle the warnings of the Kafka client, until the service configures its log."""
    log = logging.getLogger("aiokafka")
    log.handlers, log.propagate = [_ThrottledWarnings()], False


def run_while_read(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* until it is done, standard output has no reader any more, or SIGTERM or SIGHUP arrives.

    Raises:
        BrokenPipeError: the reader is gone. A command that waits would otherwise not notice before its next
            output, which may never come.
        KeyboardInterrupt: one of the signals, or Ctrl-C.
    """
    import asyncio

    return asyncio.run(_run_while_read(work))


async def _run_while_read(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    causes: list[type[BaseException]] = []

    def cancel(cause: type[BaseException]) -> None:
        causes.append(cause)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, cancel, KeyboardInterrupt)
    is_watched = _watch_stdout(loop, cancel)
    try:
        return await task
    except asyncio.CancelledError:
        if causes:
            raise causes[0] from None
        raise
    finally:
        if is_watched:
            loop.remove_reader(1)


def _watch_stdout(loop: asyncio.AbstractEventLoop, cancel: Callable[[type[BaseException]], None]) -> bool:
    """Cancel when the other end of standard output is closed; return False if that cannot be watched.

    Only a pipe can be watched: it becomes "readable", with an error, when its reader closes it.
    """

    def on_closed() -> None:
        loop.remove_reader(1)
        cancel(BrokenPipeError)

    try:
        if not stat.S_ISFIFO(os.fstat(1).st_mode):
            return False
        loop.add_reader(1, on_closed)
    except OSError:  # standard output is closed, or cannot be watched
        return False
    return True
