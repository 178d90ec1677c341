"""Configures the log: JSON lines on standard error, without query text."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from fivestage.observability.event_log import event_log
from fivestage.observability.log_stream import LogStream
from fivestage.observability.log_throttle import LogThrottle
from fivestage.pipeline.failure_log import FIELDS, LOGGER, failure_log

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

_AIOKAFKA_LEVEL = logging.WARNING
"""Nothing of aiokafka below this level is written: at DEBUG it logs SASL passwords and record values."""

MAX_FRAMES = 20


def configure(level: str = "INFO", show_text: bool | str = False) -> None:  # noqa: FBT001, FBT002
    """Send structlog and the standard library's loggers to standard error as JSON lines.

    Args:
        level: The lowest level that is written; DEBUG adds the stack frames of exceptions that nodes raise.
        show_text: If true, the messages of these exceptions are written. Worker processes pass a string, any
            of which counts as true.
    """
    failure_log.shows_text = bool(show_text)
    stream = _stream()
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    structlog.configure(
        processors=[*shared, event_log.processor, structlog.processors.JSONRenderer(serializer=_dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(FIELDS), *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            event_log.foreign_processor,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(LogThrottle("aiokafka"))
    handler.addFilter(LogThrottle(LOGGER))
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


def _stream() -> TextIO:
    """Return standard error as a stream that neither blocks nor raises."""
    try:
        return LogStream(sys.stderr.fileno())  # type: ignore[return-value] # has the methods that are used
    except (AttributeError, OSError):  # there is none, or it is not a real file
        return sys.stderr or Path(os.devnull).open("w", encoding="utf-8")


def _is_allowed(record: logging.LogRecord) -> bool:
    return record.levelno >= _AIOKAFKA_LEVEL or record.name.partition(".")[0] != "aiokafka"


def level_name() -> str:
    """Return the level that ``configure`` set."""
    return logging.getLevelName(logging.getLogger().level)


def described(error: BaseException | None) -> dict[str, Any]:
    """Describe an exception by its class and stack frames.

    Its message and local variables are left out, as both may contain query text.
    """
    frames = traceback.extract_tb(error.__traceback__ if error is not None else None)[-MAX_FRAMES:]
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error_type": type(error).__name__, "where": where}


def announce(event: str, **fields: Any) -> None:
    """Write a line that must not be lost, at any log level, even if the log is read slowly."""
    stamp = datetime.now(UTC).isoformat()
    written = {"event": event, "level": "info", "timestamp": stamp, **fields}
    event_log.remember(written)
    line = _dumps(written) + "\n"
    stream = _stream_in_use()
    if isinstance(stream, LogStream):
        stream.write_important(line)
    else:
        stream.write(line)
        stream.flush()


def _stream_in_use() -> TextIO | LogStream:
    """Return the stream of all other lines, if ``configure`` made it, so that the order of lines is kept."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.stream, LogStream):
            return handler.stream
    return _stream()


def _describe_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace ``exc_info`` by the fields of ``described``."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event.update(described(error))
    return event


def _dumps(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
