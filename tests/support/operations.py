"""Operations on a cluster, and observations of a service."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.cimpl import NewTopic

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.process import ServiceProcess

    RecordProperty = Callable[[str, object], None]
    """pytest's ``record_property``: figures for the table of faults."""

_api: Any = confluent_kafka.admin  # its stubs do not export what its documents name


class Operator:
    """Changes a cluster while the service runs; each method returns when it is done."""

    def __init__(self, bootstrap: str) -> None:
        self._admin: Any = _api.AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic, also one that is still being deleted."""
        _done(self._admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)]))

    def delete_topic(self, name: str) -> None:
        """Delete a topic."""
        _done(self._admin.delete_topics([name], operation_timeout=30))

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete the records before an offset, as retention does."""
        _done(self._admin.delete_records([TopicPartition(topic, partition, before)]))

    def set_position(self, group_id: str, topic: str, partition: int, offset: int) -> None:
        """Move the committed position of a group without members."""

        def moved() -> bool:  # not before the broker has created its offsets topic
            wanted = ConsumerGroupTopicPartitions(group_id, [TopicPartition(topic, partition, offset)])
            [future] = self._admin.alter_consumer_group_offsets([wanted]).values()
            return all(place.error is None for place in future.result().topic_partitions)

        until(moved, f"the position of {group_id} is {offset}")

    def forget_group(self, group_id: str) -> None:
        """Delete a group without members, and its positions."""
        _done(self._admin.delete_consumer_groups([group_id]))

    def limit_records(self, topic: str, size: int) -> None:
        """Set the largest record of a topic, in bytes."""
        self.configure(topic, "max.message.bytes", str(size))

    def add_partitions(self, topic: str, total: int) -> None:
        """Increase the partitions of a topic."""
        _done(self._admin.create_partitions([_api.NewPartitions(topic, total)]))

    def configure(self, topic: str, name: str, value: str) -> None:
        """Set one property of a topic."""
        entry = _api.ConfigEntry(name, value)
        entry.incremental_operation = _api.AlterConfigOpType.SET
        resource = _api.ConfigResource(_api.ResourceType.TOPIC, topic, incremental_configs=[entry])
        _done(self._admin.incremental_alter_configs([resource]))

    def deny(self, kind: str, name: str, operation: str) -> None:
        """Take a right, such as ("TOPIC", "t", "WRITE"), from everyone, who had all of them."""
        rules = _rules(kind, name, operation)
        _done(self._admin.create_acls(rules))
        until(lambda: self._has(rules) == {True}, f"{name} has its rules")

    def allow(self, kind: str, name: str, operation: str) -> None:
        """Return a right that was taken."""
        rules = _rules(kind, name, operation)
        _done(self._admin.delete_acls([_filter_of(rule) for rule in rules]))
        until(lambda: self._has(rules) == {False}, f"{name} has no rules")

    def _has(self, rules: list[Any]) -> set[bool]:
        """Whether the broker knows each rule: the controller, which takes changes, knows it earlier."""
        return {bool(self._admin.describe_acls(_filter_of(rule)).result()) for rule in rules}


def _rules(kind: str, name: str, operation: str) -> list[Any]:
    who = (_api.ResourcePatternType.LITERAL, "User:ANONYMOUS", "*")
    rules = {"ALL": _api.AclPermissionType.ALLOW, operation: _api.AclPermissionType.DENY}
    return [
        _api.AclBinding(_api.ResourceType[kind], name, *who, _api.AclOperation[right], permission)
        for right, permission in rules.items()
    ]


def _filter_of(rule: Any) -> Any:
    fields = ("restype", "name", "resource_pattern_type", "principal", "host", "operation")
    return _api.AclBindingFilter(*(getattr(rule, field) for field in fields), rule.permission_type)


def _done(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result()


def port_of(service: ServiceProcess) -> int:
    """Return the admin port of a ready service."""
    return int(next(line["admin_port"] for line in service.log if line["event"] == "ready"))


def wait_for_partitions(service: ServiceProcess, count: int) -> None:
    """Wait until a member has this many; on a busy machine a group settles in more steps than one."""
    while len(service.wait_for("assigned", 60)["partitions"]) != count:
        pass


def logged(service: ServiceProcess, event: str) -> dict[str, Any]:
    """Return the log line with this ``event``, which may have been read already."""
    read = [line for line in service.log if line["event"] == event]
    return read[0] if read else service.wait_for(event)


def until(condition: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Poll a condition ten times a second."""
    end, pause = time.monotonic() + limit_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        pause.wait(0.1)
