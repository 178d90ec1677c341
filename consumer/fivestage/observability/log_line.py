"""The one shape of log lines, and the two ways of writing it: JSON for programs, text for people.

A line has ``timestamp``, ``level``, ``event`` and ``logger``, then its own fields. A line from the code of a
query also has ``query_id``, ``lane``, ``stage``, ``node`` and ``trace_id``.
"""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
from opentelemetry import trace
from structlog.dev import ConsoleRenderer

from fivestage.errors import FivestageError
from fivestage.pipeline.failure_log import failure_log
from fivestage.pipeline.running_call import running_call

if TYPE_CHECKING:
    from collections.abc import Mapping

    Line = dict[str, Any]

MAX_FRAMES: Final = 20
_HEAD: Final = ("timestamp", "level", "event", "logger")
_EVENT_WIDTH: Final = 28


def line_of(created: float, level: str, event: object, logger: str, fields: Mapping[str, Any]) -> Line:
    """Make a line.

    Args:
        created: When, in seconds since 1970.
        level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
        event: What happened; of the service's own lines a short constant text.
        logger: Which logger wrote it.
        fields: All else, without what is None. One that is named like a part of the head gets a ``_``.
    """
    stamp = datetime.fromtimestamp(created, UTC).isoformat(timespec="microseconds")
    line = dict(zip(_HEAD, (stamp.replace("+00:00", "Z"), level, printed(event, str), logger), strict=True))
    for name, value in fields.items():
        if value is not None:
            line[f"{name}_" if name in _HEAD else str(name)] = value
    for name, value in _correlation().items():
        line.setdefault(name, value)
    return line


def _correlation() -> dict[str, str]:
    """What the code that logs works for; empty outside of queries."""
    found = {}
    if (call := running_call()) is not None:
        found = {"query_id": call.query_id, "lane": call.lane, "stage": call.stage}
        if call.node is not None:
            found["node"] = call.node
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        found["trace_id"] = trace.format_trace_id(span.trace_id)
    return found


def described(error: BaseException | None) -> dict[str, Any]:
    """Describe an exception by its class, ``file:line`` and stack frames.

    Its message, which may contain query text, is left out unless ``logging.show_text`` is set; the values of
    local variables always are.
    """
    walk = traceback.walk_tb(error.__traceback__ if error is not None else None)
    frames = traceback.StackSummary.extract(walk, limit=-MAX_FRAMES, lookup_lines=False)  # reads no files
    about: dict[str, Any] = {"error_type": type(error).__name__}
    if frames:
        about["where"] = f"{frames[-1].filename}:{frames[-1].lineno}"
        about["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    if failure_log.shows_text:
        about["error"] = printed(error, str)
    return about


def explained(error: Exception) -> dict[str, Any]:
    """Describe what ended or prevented something: errors of fivestage by their text, others as ``described``.

    The texts of fivestage's errors are for users and contain no query text; any other error is a bug.
    """
    if isinstance(error, FivestageError):
        return {"error_type": type(error).__name__, "error": str(error)}
    return described(error)


def as_json(line: Line) -> str:
    """Write a line as JSON, whatever its values are; never raises."""
    try:
        return _dumps(line)
    except Exception:  # noqa: BLE001 - a number above 64 bits, half a surrogate pair, a circle
        return _dumps({_dumpable(name): _dumpable(value) for name, value in line.items()})


def _dumpable(value: Any) -> Any:
    try:
        _dumps(value)
    except Exception:  # noqa: BLE001 - likewise
        text = value if isinstance(value, str) else printed(value, repr)
        return text.encode("utf-8", "backslashreplace").decode()
    return value


def _dumps(value: Any) -> str:
    options = orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=lambda odd: printed(odd, repr), option=options).decode()


def printed(value: Any, function: Any) -> str:
    """Apply ``str`` or ``repr`` to a value, whose class may be one of the app's; never raises."""
    try:
        return str(function(value))
    except Exception:  # noqa: BLE001 - the app's own __repr__ may raise anything
        return f"<{type(value).__name__}>"


class AsText:
    """Writes lines for people: the local time, then aligned columns; long values below.

    Args:
        colors: Use the colours of a terminal.
    """

    def __init__(self, *, colors: bool) -> None:
        self._render = ConsoleRenderer(colors=colors, sort_keys=False, pad_event_to=_EVENT_WIDTH)

    def __call__(self, line: Line) -> str:
        """Write a line; never raises."""
        try:
            return self._text(line)
        except Exception:  # noqa: BLE001 - a field that the renderer gives a meaning, such as ``stack``
            return as_json(line)

    def _text(self, line: Line) -> str:
        frames = {"frames": "\n".join(line["frames"])} if "frames" in line else {}
        shown: Line = {name: _shown(value) for name, value in {**line, **frames}.items()}
        shown["timestamp"] = _local_time(line["timestamp"])
        below = {
            name: shown.pop(name) for name in line if isinstance(shown[name], str) and "\n" in shown[name]
        }
        first, *more = below.pop("event", shown.get("event", "")).split("\n")
        text = str(self._render(None, "", {**shown, "event": first}))
        blocks = ["\n".join(more), *(f"{name}:\n{value}" for name, value in below.items())]
        return "\n".join([text, *(_indented(block) for block in blocks if block)])


class _Verbatim(str):
    """A text that the renderer writes without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown(value: Any) -> str:
    """A value as text, without the control characters that could steer a terminal."""
    if isinstance(value, str):
        return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in value)
    return _Verbatim(_shown(printed(value, repr)).replace("\n", " "))


def _local_time(stamp: str) -> str:
    return datetime.fromisoformat(stamp).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _indented(block: str) -> str:
    return "\n".join(f"    {one}" for one in block.rstrip("\n").split("\n"))
