"""Remembers the last lines that the service wrote to its log about itself, for the status page.

The page and the log so say the same. Lines of the app's own loggers and of libraries are left out, and so are
fields that may hold text of queries. So are lines that worker processes write (``executor.kind`` =
``process``), such as ``node failed``; the status document has these failures with their nodes and queries.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from fivestage.observability.log_line import printed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.observability.status.model import Event

MAX_EVENTS: Final = 100
MAX_CHARS: Final = 500
MAX_ITEMS: Final = 32
"""Of a list in a field."""
MAX_NUMBER: Final = 2**53
"""Whole numbers from this one on are texts: not every reader of JSON has more digits."""
_SAME: Final = ("node", "stage", "lane")
"""Lines with the same text and the same of these fields are the same."""
_PLAIN: Final = frozenset({type(None), bool, float})
_NOT_SHOWN: Final = frozenset({"event", "level", "timestamp", "logger", "error", "frames", "stack"})
"""``error`` is the text of an exception; the others are fields of the document itself, or long."""


class EventLog:
    """The last lines. They come from any thread, and from finalizers: hence a lock that may be taken twice.

    A line that comes again replaces the earlier one, so that one that comes often does not push out others.
    """

    def __init__(self) -> None:
        self._events: OrderedDict[tuple[object, ...], Event] = OrderedDict()
        """By what makes a line the same as an earlier one; the newest last."""
        self._lock = RLock()
        self.count = 0
        """How many lines have come; two readings differ if a line came between them."""

    def remember(self, fields: Mapping[str, Any]) -> None:
        """Add a line, before it is written as JSON or text."""
        level = _text(fields.get("level", "info"))
        if level == "debug":
            return
        shown = {_text(name): _short(value) for name, value in fields.items() if name not in _NOT_SHOWN}
        text, at = _text(fields.get("event", "")), _text(fields.get("timestamp", ""))
        key = text, *(str(shown.get(name)) for name in _SAME)
        with self._lock:
            earlier = self._events.pop(key, None)
            times = 1 if earlier is None else earlier["times"] + 1
            self._events[key] = {"at": at, "level": level, "text": text, "times": times, "fields": shown}
            if len(self._events) > MAX_EVENTS:
                self._events.popitem(last=False)
            self.count += 1

    def newest_first(self) -> list[Event]:
        """Return the lines."""
        with self._lock:
            return list(reversed(self._events.values()))


event_log: Final = EventLog()
"""One per process, like the log."""


def _short(value: Any) -> object:
    """Make a field's value short, and plain JSON."""
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:MAX_ITEMS]]
    return _plain(value)


def _plain(value: Any) -> object:
    if type(value) in _PLAIN or (type(value) is int and abs(value) < MAX_NUMBER):
        return value
    return _text(value)


def _text(value: Any) -> str:
    return printed(value, str).encode("utf-8", "backslashreplace").decode()[:MAX_CHARS]
