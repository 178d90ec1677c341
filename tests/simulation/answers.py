"""The records of the output topics, by their input records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fivestage_schemas import headers as h

from .endings import STAGE_KINDS, ending_of

if TYPE_CHECKING:
    from fivestage.core.job import Job

    from .endings import QueryEnding
    from .questions import Query
    from .trace import Trace

Coordinates = tuple[int, int]
"""Partition and offset of an input record."""


class Written(NamedTuple):
    """A record of an output topic."""

    coordinates: Coordinates
    """Of its query."""
    kind: str
    """The end of its ``ce_id``, or ``dead_letter``."""
    status: str
    key: bytes | None
    producer: str
    topic: str = ""
    partition: int = 0
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    event: Any = None
    """The parsed value; None if it is no JSON."""
    run: bytes = b""
    """Its ``traceparent``, which is the same for all events of one run and differs between runs."""


class Answers:
    """The output topics, and the expected events.

    Args:
        trace: The trace of results and dead letters.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.rejects = False
        """Whether an answer that validation rejects is an error."""
        self.asked: dict[Coordinates, Query] = {}
        """The expectations of each record."""
        self.jobs: dict[bytes, Job] = {}
        """The jobs of the executors, by the ``traceparent`` of their events."""
        self.suspect: set[Coordinates] = set()
        """Records that were damaged on their way to a client, at least once."""
        self.outputs: dict[tuple[str, int], list[Written]] = defaultdict(list)
        self.about: dict[Coordinates, list[Written]] = defaultdict(list)
        """The events of each record."""
        self.refused: dict[tuple[Coordinates, bytes], dict[str, int]] = defaultdict(dict)
        """The codes of rejected events, by record, run and kind."""
        self._endings: dict[bytes, QueryEnding] = {}
        self._answered: set[Coordinates] = set()

    def append(
        self,
        who: str,
        at: tuple[str, int],
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        """Append a record to an output topic."""
        named: dict[str, bytes] = {name: text or b"" for name, text in headers}
        if h.DLQ_REASON in named:
            coordinates = int(named[h.DLQ_PARTITION]), int(named[h.DLQ_OFFSET])
            kind, event = "dead_letter", None
        else:
            parts = named.get(h.CE_ID, b"").decode().split("/", 3)
            if len(parts) < 4:
                self._trace.violated("every event has an id", who, *at, named)
                return
            coordinates, kind = (int(parts[1]), int(parts[2])), parts[3]
            event = _parsed(value)
        status, run = named.get(h.STATUS, b"").decode(), named.get(h.TRACEPARENT, b"")
        written = Written(coordinates, kind, status, key, who, *at, value, headers, event, run)
        self.outputs[at].append(written)
        self.about[coordinates].append(written)
        if kind in ("result", "dead_letter"):
            self._trace.add("broker", kind, *coordinates, status, f"by {who}")

    def note_refused(self, headers: Sequence[tuple[str, bytes | None]], code: int) -> None:
        """Note that an event was rejected for its content."""
        named = dict(headers)
        _, partition, offset, kind = (named[h.CE_ID] or b"").decode().split("/", 3)
        coordinates, run = (int(partition), int(offset)), named[h.TRACEPARENT] or b""
        self.refused[coordinates, run][kind] = code
        self._trace.add("broker", "event refused", *coordinates, kind, code)

    def ending(self, run: bytes) -> QueryEnding | None:
        """Return the expected outcome of a run; None where no executor ran it."""
        if run not in self._endings and run in self.jobs:
            self._endings[run] = ending_of(self.jobs[run], rejects=self.rejects)
        return self._endings.get(run)

    def is_answered(self, coordinates: Coordinates) -> bool:
        """Return whether all events of a record exist, of a single run."""
        if coordinates in self._answered:
            return True
        about = self.about.get(coordinates, ())
        runs: dict[bytes, set[str]] = defaultdict(set)
        for written in about:
            runs[written.run].add(written.kind)
        answered = any(self._is_whole(coordinates, written, runs) for written in about)
        if answered:
            self._answered.add(coordinates)
        return answered

    def _is_whole(self, coordinates: Coordinates, one: Written, runs: dict[bytes, set[str]]) -> bool:
        """Return whether *one* is a dead letter or a result with all events of its run."""
        if one.kind == "dead_letter":
            query = self.asked.get(coordinates)
            bare = query is None or not query.reason or query.query_id is None or coordinates in self.suspect
            return bare or any("result" in kinds for kinds in runs.values())
        if one.kind != "result":
            return False
        kinds = runs[one.run]
        if one.status == "expired":
            return "timeout" in kinds
        ending = self.ending(one.run)
        return kinds >= (STAGE_KINDS if ending is None else ending.kinds)


def _parsed(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
