"""Replaces events that the broker rejects: by events without data, and a result by an error result.

Key and id are those of the rejected event, so that readers find the replacement where they expect the event.
Only a dead letter also loses its key. Data known to be too large was left out before, by ``encode``.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from fivestage.core.records import Output, OutputRecord
from fivestage_schemas import PipelineStatus
from fivestage_schemas import headers as h

TOO_LARGE: Final = "result_too_large"
REFUSED: Final = "publish_refused"
_ERROR: Final = PipelineStatus.ERROR.encode()


def without_data(record: OutputRecord, error_type: str, why: str) -> OutputRecord | None:
    """The record to publish instead; None if nothing can be left out.

    Args:
        record: The rejected record.
        error_type: TOO_LARGE or REFUSED.
        why: The error of the broker.
    """
    if record.output is Output.DEAD_LETTERS:
        return _truncated(record)
    if record.output is Output.TIMEOUTS:
        return None
    value: dict[str, Any] = orjson.loads(record.value or b"null")
    if record.output is Output.STAGE_RESULTS:
        if not _leave_out(value, error_type, why):
            return None
        return record._replace(value=orjson.dumps(value))
    if value["error_type"] in (TOO_LARGE, REFUSED):
        return None
    for stage in value["stages"]:
        _leave_out(stage, error_type, why)
    value |= {"status": PipelineStatus.ERROR, "answer": None, "confidence": None}
    value |= {"degraded": False, "partial": False}
    value |= {"error": f"the broker refuses the result: {why}", "error_type": error_type}
    headers = [(name, _ERROR if name == h.STATUS else text) for name, text in record.headers]
    return OutputRecord.of(Output.RESULTS, record.key, orjson.dumps(value), headers)


def _leave_out(stage: dict[str, Any], error_type: str, why: str) -> bool:
    """Remove the data of a stage result; return False if there was none."""
    if stage["data"] is None:
        return False
    stage |= {"data": None, "error": f"data left out: the broker refuses it: {why}", "error_type": error_type}
    return True


def _truncated(letter: OutputRecord) -> OutputRecord | None:
    """The dead letter without key, value and headers of its record; None if they were left out before."""
    headers = [
        (name, text)
        for name, text in letter.headers
        if name.startswith("dlq.") and name != h.DLQ_REPLAYED_FROM
    ]
    if any(name == h.DLQ_TRUNCATED for name, _ in headers):
        return None
    return OutputRecord.of(Output.DEAD_LETTERS, None, None, [*headers, (h.DLQ_TRUNCATED, b"true")])


def name_of(record: OutputRecord) -> str:
    """The id of an event, or the coordinates of the record in a dead letter, for log lines."""
    headers = dict(record.headers)
    if (event_id := headers.get(h.CE_ID)) is not None and record.output is not Output.DEAD_LETTERS:
        return event_id.decode()
    place = (headers.get(name, b"?").decode() for name in (h.DLQ_TOPIC, h.DLQ_PARTITION, h.DLQ_OFFSET))
    return "/".join(place)
