"""Configures the log: all lines go to standard error in one shape, without query text.

The service's own lines come from structlog and go straight to the stream, whatever the app does to the
standard library's loggers. The lines of the app and of libraries come from those.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from fivestage.observability import log_hooks
from fivestage.observability.event_log import event_log
from fivestage.observability.log_line import described, line_of
from fivestage.observability.log_output import OWN, output
from fivestage.observability.log_throttle import FailureThrottle, LogThrottle
from fivestage.pipeline.failure_log import LOGGER, failure_log

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from types import FrameType

    from fivestage.observability.log_line import Line

_AIOKAFKA_LEVEL: Final = logging.WARNING
"""Nothing of aiokafka below this level is written: at DEBUG it logs SASL passwords and record values."""
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes of every log record; all others are fields that the app has added."""
_NOT_DISABLED: Final = ("aiokafka", "fivestage")
"""The loggers, with those below them, that an app cannot disable. ``logging.config.dictConfig`` disables all
that exist already, unless ``disable_existing_loggers`` is false."""
_chosen: dict[str, Any] = {}
"""The arguments of the last ``configure``."""
_LEVELS: Final = {"warn": "warning", "exception": "error", "fatal": "critical", "msg": "info"}
"""The level of those methods of a structlog logger that are not named like one."""


def configure(
    level: str = "INFO",
    show_text: bool | str = False,  # noqa: FBT001, FBT002
    style: str = "auto",
    show_frames: bool | str = False,  # noqa: FBT001, FBT002
) -> None:
    """Send structlog and the standard library's loggers to standard error.

    Args:
        level: The lowest level that is written; DEBUG adds the stack frames of exceptions that nodes raise.
        show_text: If true, the messages of exceptions are written. Worker processes pass a string, any of
            which but the empty one counts as true.
        style: ``json``, ``text``, or ``auto`` for text on a terminal and else JSON.
        show_frames: If true, the stack frames of exceptions that nodes raise are written at every level.
    """
    _chosen.update(level=level, show_text=show_text, style=style, show_frames=show_frames)
    failure_log.shows_text = bool(show_text)
    failure_log.shows_frames = bool(show_frames)
    output.open(style)
    output.listener = event_log.remember
    log_hooks.install()
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[structlog.processors.StackInfoRenderer(), _line_of_structlog],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_StructlogLogger,
        cache_logger_on_first_use=True,
    )
    handler = _LogHandler()
    handler.addFilter(LogThrottle("aiokafka"))
    handler.addFilter(LogThrottle("opentelemetry", max_lines=1, window_s=60.0))
    handler.addFilter(FailureThrottle(LOGGER))
    handler.addFilter(_is_allowed)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    # aiokafka's records go to this handler only, so that no other handler gets them at a lower level.
    client = logging.getLogger("aiokafka")
    client.handlers, client.propagate = [handler], False
    client.setLevel(max(number, _AIOKAFKA_LEVEL))
    # Likewise for records of failed nodes: a slow handler of the app would block the nodes' event loop.
    nodes = logging.getLogger(LOGGER)
    nodes.handlers, nodes.propagate = [handler], False
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _NOT_DISABLED:
            logger.disabled = False


def configure_again() -> None:
    """Configure as before, if at all: an app that was imported meanwhile may have configured the log."""
    if _chosen:
        configure(**_chosen)


def _is_allowed(record: logging.LogRecord) -> bool:
    return record.levelno >= _AIOKAFKA_LEVEL or record.name.partition(".")[0] != "aiokafka"


def level_name() -> str:
    """Return the level that ``configure`` set."""
    return logging.getLevelName(logging.getLogger().level)


def announce(event: str, **fields: Any) -> None:
    """Write a line that must not be lost, at any log level, even if the log is read slowly."""
    output.write(line_of(time.time(), "info", event, "fivestage.service", fields), important=True)


class _LogHandler(logging.Handler):
    """Writes the records of the standard library's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that cannot be formatted is replaced by a line that says so."""
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= described(record.exc_info[1])
        if record.stack_info:
            fields["stack"] = record.stack_info
        try:
            event, level = record.getMessage(), record.levelname.lower()
            if record.name.startswith("fivestage."):  # which have a constant text for the event as well
                event = fields.pop("event", event)
        except Exception as error:  # noqa: BLE001 - the arguments are the app's: they may raise anything
            event, level = "log call failed", "error"
            fields = {"error_type": type(error).__name__, "where": f"{record.pathname}:{record.lineno}"}
        output.write(line_of(record.created, level, event, record.name, fields))


class _StructlogLogger:
    """What structlog's bound loggers write to: it has the name, and a method for each level.

    Args:
        name: The name that ``structlog.get_logger`` was called with; by default the module that logs.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or _caller()

    def msg(self, line: Line) -> None:
        """Write a line."""
        output.write(line)

    log = debug = info = warn = warning = error = exception = critical = fatal = msg


def _line_of_structlog(
    logger: _StructlogLogger, method: str, fields: MutableMapping[str, Any]
) -> tuple[tuple[Line], dict[str, Any]]:
    """Make the line of a structlog event; lines of the app also have what it has bound to the context."""
    name = getattr(logger, "name", "")
    if not name.startswith(OWN):
        fields = {**structlog.contextvars.get_contextvars(), **fields}
    event, info = fields.pop("event", ""), fields.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        fields.update(described(error))
    return (line_of(time.time(), _LEVELS.get(method, method), event, name, fields),), {}


def _caller() -> str:
    """The name of the module that logs, for a logger without a name."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as the standard library's own logging does
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != __name__ and name.partition(".")[0] != "structlog":
            return name
        frame = frame.f_back
    return "structlog"
