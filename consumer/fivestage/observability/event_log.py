"""Remembers the last lines that the service wrote to its log about itself, for the status page.

The page and the log so say the same. Lines of the app's own loggers and of libraries are left out, and so are
fields that may hold text of queries.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from fivestage.observability.status.model import Event

MAX_EVENTS: Final = 100
MAX_CHARS: Final = 500
MAX_ITEMS: Final = 32
"""Of a list in a field."""
OURS: Final = "fivestage."
_NOT_SHOWN: Final = frozenset({"event", "level", "timestamp", "logger", "error", "frames"})
"""``error`` is the text of an exception; the others are fields of the document itself, or long."""


class EventLog:
    """The last lines, the newest last. Lines come from any thread: an append is one step."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.count = 0
        """How many lines have come; two readings differ if a line came between them."""

    def remember(self, fields: Mapping[str, Any]) -> None:
        """Add a line, as the log's renderer gets it."""
        level = str(fields.get("level", "info"))
        if level == "debug":
            return
        shown = {name: _short(value) for name, value in fields.items() if name not in _NOT_SHOWN}
        text, at = str(fields.get("event", ""))[:MAX_CHARS], str(fields.get("timestamp", ""))
        self._events.append({"at": at, "level": level, "text": text, "fields": shown})
        self.count += 1

    def newest_first(self) -> list[Event]:
        """Return the lines."""
        return list(reversed(tuple(self._events)))

    def processor(self, _: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Add a line of the service, as a processor of structlog before the renderer."""
        self.remember(fields)
        return fields

    def foreign_processor(
        self, _: Any, __: str, fields: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """The same for a line of the standard library's loggers, if it is one of ours."""
        if str(fields.get("logger", "")).startswith(OURS):
            self.remember(fields)
        return fields


event_log: Final = EventLog()
"""One per process, like the log."""


def _short(value: Any) -> object:
    """Make a field's value short, and plain JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        items: Iterable[Any] = list(value)[:MAX_ITEMS]
        return [_short(item) for item in items]
    return str(value).encode("utf-8", "backslashreplace").decode()[:MAX_CHARS]
