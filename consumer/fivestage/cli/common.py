"""What the commands share: options, errors as one line, and the end of a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from fivestage.settings import Settings

T = TypeVar("T")

REPEAT_S = 30.0

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A TOML file with settings.", envvar="FIVESTAGE_CONFIG")
]
BootstrapOption = Annotated[
    str | None, typer.Option("--bootstrap", "-b", help="Kafka as host:port; wins over every other setting.")
]

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a command that Ctrl-C kept from ending by itself."""


def load_settings(config: Path | None, bootstrap: str | None = None, **sections: dict[str, Any]) -> Settings:
    """Settings from file, environment and command line; exit code 2 when they are wrong."""
    from fivestage.settings import Settings

    overrides = {name: values for name, values in sections.items() if values}
    if bootstrap:
        overrides["kafka"] = {**overrides.get("kafka", {}), "bootstrap_servers": bootstrap}
    with errors_as_one_line():
        return Settings.load(config, overrides)
    raise AssertionError  # not reached: errors_as_one_line ends the command


@contextlib.contextmanager
def errors_as_one_line(*, interrupted: int = INTERRUPTED, reader_gone: int = 0) -> Iterator[None]:
    """Turn the errors a user can mend, Ctrl-C and a closed pipe into one line at most and an exit code.

    What importing an author's module raised comes before it, with the traceback of their own frames.

    Args:
        interrupted: The exit code after Ctrl-C; 0 for commands that end in no other way.
        reader_gone: The exit code when nobody reads the output any more.
    """
    from fivestage.errors import ConfigurationError, FivestageError, InvalidAppError

    try:
        yield
        sys.stdout.flush()  # a closed pipe shows here, not in a traceback at the end of the interpreter
    except ConfigurationError as error:
        _end(f"fivestage: {error}", 2)
    except InvalidAppError as error:
        from fivestage.pipeline.loader import authors_traceback

        _end(f"{authors_traceback(error)}fivestage: {error}", 2)
    except FivestageError as error:
        _end(f"fivestage: {error}", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(reader_gone) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(interrupted) from None


def _end(text: str, code: int) -> None:
    print(text, file=sys.stderr)
    raise typer.Exit(code) from None


class _NowAndThen(logging.Handler):
    """The client repeats itself many times a second while it cannot connect; once in a while is enough."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line, unless there was one lately."""
        if record.created >= self._quiet_until:
            self._quiet_until = record.created + REPEAT_S
            print(f"fivestage: Kafka client: {record.getMessage()[:200]}; trying again", file=sys.stderr)


def quieten_clients() -> None:
    """Have the Kafka client say little; for commands, as the service has a log."""
    log = logging.getLogger("aiokafka")
    log.handlers, log.propagate = [_NowAndThen()], False


async def while_read(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* for as long as somebody reads standard output, and until SIGTERM or SIGHUP.

    Raises:
        BrokenPipeError: the reader has gone. Without this a command that waits would notice only when it
            has something to print, which may be never.
        KeyboardInterrupt: one of the signals came; Ctrl-C raises it too, as everywhere in asyncio.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    quieten_clients()
    causes: list[type[BaseException]] = []

    def end(cause: type[BaseException]) -> None:
        causes.append(cause)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, KeyboardInterrupt)
    watched = _watch_stdout(loop, end)
    try:
        return await task
    except asyncio.CancelledError:
        if causes:
            raise causes[0] from None
        raise
    finally:
        if watched:
            loop.remove_reader(1)


def _watch_stdout(loop: asyncio.AbstractEventLoop, end: Callable[[type[BaseException]], None]) -> bool:
    """Whether standard output is a pipe, whose closed other end makes it "readable" (with an error)."""

    def closed() -> None:
        loop.remove_reader(1)
        end(BrokenPipeError)

    try:
        if not stat.S_ISFIFO(os.fstat(1).st_mode):
            return False
        loop.add_reader(1, closed)
    except OSError:  # no standard output, or none that can be watched
        return False
    return True
