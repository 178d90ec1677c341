"""What a broker's answer to a batch means."""

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

HAS_IT: Final = (NoError.errno, DuplicateSequenceNumber.errno)
MOVED: Final = {72: "LISTENER_NOT_FOUND", 74: "FENCED_LEADER_EPOCH", 75: "UNKNOWN_LEADER_EPOCH"}
"""What aiokafka does not know, or not as this: the partition is led by another broker, or will be soon."""
TOO_LARGE: Final = {10: "MESSAGE_TOO_LARGE", 18: "RECORD_LIST_TOO_LARGE"}
CONTENT: Final = {**TOO_LARGE, 32: "INVALID_TIMESTAMP", 87: "INVALID_RECORD"}
"""What a broker says of the content of a batch, of which it has taken nothing then."""


class ContentRefusedError(KafkaError):
    """The broker does not take a batch for what is in it.

    Args:
        code: One of CONTENT.
    """

    def __init__(self, code: int) -> None:
        self.why = f"{CONTENT[code]} (code {code})"
        super().__init__(self.why)
        self.code = code

    @property
    def is_size(self) -> bool:
        """A smaller batch may be taken."""
        return self.code in TOO_LARGE


def errors_of(response: Any) -> dict[TopicPartition, KafkaError | None]:
    """What was wrong with each batch; None with one that the broker has."""
    return {
        TopicPartition(topic, answer[0]): error_of(answer[1])
        for topic, answers in response.topics
        for answer in answers
    }


def error_of(code: int) -> KafkaError | None:
    """The error that a code stands for."""
    if code in HAS_IT:
        return None
    if code in CONTENT:
        return ContentRefusedError(code)
    if code in MOVED:
        return NotLeaderForPartitionError(f"{MOVED[code]} (code {code})")
    kind = for_code(code)
    return kind(f"code {code}") if kind is UnknownError else kind()
