"""The error codes in a broker's answer to a produce request."""

from __future__ import annotations

from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import (
    DuplicateSequenceNumber,
    KafkaError,
    NoError,
    NotLeaderForPartitionError,
    UnknownError,
    for_code,
)

STORED_CODES: Final = (NoError.errno, DuplicateSequenceNumber.errno)
LEADER_CHANGED: Final = {72: "LISTENER_NOT_FOUND", 74: "FENCED_LEADER_EPOCH", 75: "UNKNOWN_LEADER_EPOCH"}
"""Codes that aiokafka lacks or does not treat as a change of the leader."""
TOO_LARGE: Final = {10: "MESSAGE_TOO_LARGE", 18: "RECORD_LIST_TOO_LARGE"}
CONTENT: Final = {**TOO_LARGE, 32: "INVALID_TIMESTAMP", 87: "INVALID_RECORD"}
"""Codes by which a broker rejects a batch for its content; no part of the batch is stored."""


class ContentRefusedError(KafkaError):
    """The broker rejects a batch for its content.

    Args:
        code: One of CONTENT.
    """

    def __init__(self, code: int) -> None:
        self.why = f"{CONTENT[code]} (code {code})"
        super().__init__(self.why)
        self.code = code

    @property
    def is_too_large(self) -> bool:
        """Whether the batch was too large, so that a smaller one may be accepted."""
        return self.code in TOO_LARGE


def errors_of(response: Any) -> dict[TopicPartition, KafkaError | None]:
    """The error of each batch; None for a batch that is stored."""
    return {
        TopicPartition(topic, answer[0]): error_of(answer[1])
        for topic, answers in response.topics
        for answer in answers
    }


def error_of(code: int) -> KafkaError | None:
    """The error that a code stands for; None if the batch is stored."""
    if code in STORED_CODES:
        return None
    if code in CONTENT:
        return ContentRefusedError(code)
    if code in LEADER_CHANGED:
        return NotLeaderForPartitionError(f"{LEADER_CHANGED[code]} (code {code})")
    kind = for_code(code)
    return kind(f"code {code}") if kind is UnknownError else kind()
