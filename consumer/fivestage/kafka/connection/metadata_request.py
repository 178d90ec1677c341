"""Metadata request v8, which aiokafka lacks: it returns the rights of the caller on each topic."""

from __future__ import annotations

from typing import Any, Final

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v1, MetadataRequest_v4
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

_TEXT: Final = String("utf-8")
_BROKERS: Final = Array(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))
_PARTITIONS: Final = Array(
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", Array(Int32)),
    ("isr", Array(Int32)),
    ("offline_replicas", Array(Int32)),
)
_TOPICS: Final = Array(
    ("error_code", Int16),
    ("topic", _TEXT),
    ("is_internal", Boolean),
    ("partitions", _PARTITIONS),
    ("authorized_operations", Int32),
)


class _MetadataResponseV8(Response):
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _BROKERS),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        ("topics", _TOPICS),
        ("cluster_authorized_operations", Int32),
    )


class _MetadataRequestV8(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponseV8
    SCHEMA = Schema(
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class DescribeTopics(Request[MetadataRequest_v1 | MetadataRequest_v4 | _MetadataRequestV8]):
    """Describes topics, with the rights of the caller where the broker supports v8.

    Args:
        topics: Their names; None for all.
        create: Let the broker create missing topics, if it creates topics automatically.
    """

    API_KEY = 3

    def __init__(self, topics: list[str] | None, *, create: bool = False) -> None:
        self._topics = topics
        self._create = create

    def build(self, request_struct_class: type[RequestStruct]) -> Any:
        """The request in the newest version that the broker supports."""
        if request_struct_class is _MetadataRequestV8:
            return _MetadataRequestV8(self._topics, self._create, False, True)
        if request_struct_class is MetadataRequest_v4:
            return MetadataRequest_v4(self._topics, self._create)
        return MetadataRequest_v1(self._topics)
