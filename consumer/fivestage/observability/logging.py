"""JSON logs: one object a line, on standard error, without query text."""

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

from fivestage.observability.log_stream import LogStream
from fivestage.observability.log_throttle import LogThrottle
from fivestage.pipeline.failure_log import FIELDS, LOGGER, failure_log

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

_AIOKAFKA_LEVEL = logging.WARNING
"""At DEBUG aiokafka prints SASL passwords and record bodies: below this level nothing of it is written."""

MAX_FRAMES = 20


def configure(level: str = "INFO", show_text: bool | str = False) -> None:  # noqa: FBT001, FBT002
    """Send structlog and the standard library's loggers to standard error as JSON lines.

    Args:
        level: The lowest to write; DEBUG adds the frames of what nodes raise.
        show_text: If true, or any text (worker processes are set up with texts), what nodes raise is written
            with its message.
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
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(FIELDS), *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(LogThrottle("aiokafka"))
    handler.addFilter(LogThrottle(LOGGER))
    handler.addFilter(_is_fit_to_print)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    # Its own handler, so that others never get its records: whoever sets a level below cannot undo that.
    client = logging.getLogger("aiokafka")
    client.handlers, client.propagate = [handler], False
    client.setLevel(max(number, _AIOKAFKA_LEVEL))
    # Likewise, as it is written from the nodes' loop: a slow handler of the app's would stop that.
    nodes = logging.getLogger(LOGGER)
    nodes.handlers, nodes.propagate = [handler], False


def _stream() -> TextIO:
    """Standard error, in a way that neither blocks nor raises."""
    try:
        return LogStream(sys.stderr.fileno())  # type: ignore[return-value] # as much of a file as is needed
    except (AttributeError, OSError):  # none, or something in memory in its place
        return sys.stderr or Path(os.devnull).open("w", encoding="utf-8")


def _is_fit_to_print(record: logging.LogRecord) -> bool:
    return record.levelno >= _AIOKAFKA_LEVEL or record.name.partition(".")[0] != "aiokafka"


def level_name() -> str:
    """The level that ``configure`` has set."""
    return logging.getLevelName(logging.getLogger().level)


def described(error: BaseException | None) -> dict[str, Any]:
    """An exception for the log: its class and where it was raised.

    Neither its text nor local variables: both may hold a query.
    """
    frames = traceback.extract_tb(error.__traceback__ if error is not None else None)[-MAX_FRAMES:]
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error_type": type(error).__name__, "where": where}


def announce(event: str, **fields: Any) -> None:
    """Write a line that others wait for, whatever the level, and however slowly the log is read."""
    stamp = datetime.now(UTC).isoformat()
    line = _dumps({"event": event, "level": "info", "timestamp": stamp, **fields}) + "\n"
    stream = _stream_in_use()
    if isinstance(stream, LogStream):
        stream.insist(line)
    else:
        stream.write(line)
        stream.flush()


def _stream_in_use() -> TextIO | LogStream:
    """Where ``configure`` has sent the other lines: on a stream of its own one would overtake them."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.stream, LogStream):
            return handler.stream
    return _stream()


def _describe_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put ``described`` in the place of a traceback."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event.update(described(error))
    return event


def _dumps(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
