"""What an administrator changes on a running broker, through librdkafka: a JVM a call takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import ElectionType
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT_S = 20.0
"""How long one call may take."""


def limit_records(bootstrap: str, topic: str, max_bytes: int) -> None:
    """Set a topic's ``max.message.bytes``."""
    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = _admin(bootstrap)  # kept until its answers are there
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(LIMIT_S)


def rule(kind: ResourceType, name: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    """A rule for clients without credentials, from any host."""
    return AclBinding(kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission)


def add_rules(bootstrap: str, rules: Sequence[AclBinding]) -> None:
    """Add access rules."""
    admin = _admin(bootstrap)
    for future in admin.create_acls(list(rules)).values():
        future.result(LIMIT_S)


def remove_rule(bootstrap: str, unwanted: AclBinding) -> None:
    """Remove one access rule."""
    exactly = AclBindingFilter(
        unwanted.restype,
        unwanted.name,
        unwanted.resource_pattern_type,
        unwanted.principal,
        unwanted.host,
        unwanted.operation,
        unwanted.permission_type,
    )
    admin = _admin(bootstrap)
    for future in admin.delete_acls([exactly]).values():
        assert future.result(LIMIT_S), f"there was no {unwanted}"


def elect_preferred(bootstrap: str, partitions: Sequence[tuple[str, int]]) -> None:
    """Let the first replica of each partition lead it."""
    wanted = [TopicPartition(topic, number) for topic, number in partitions]
    admin = _admin(bootstrap)
    admin.elect_leaders(ElectionType.PREFERRED, wanted).result(LIMIT_S)


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
