"""Reads every commit of a group from Kafka's own offsets topic.

Occasional looks at the positions miss faults between two looks. Here each commit is a record of
its own, with the time at which the group's coordinator accepted it, until the topic is compacted, which a
test's broker does not live to see.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .reading import committed, make_consumer, partitions_of, read_all

TOPIC = "__consumer_offsets"
_POSITION_KEYS = (0, 1)
"""Key versions of offset commits; other versions are about members."""
_TIGHT_VERSION = 4
"""From this version on texts in the value have a length of variable size."""


class Commit(NamedTuple):
    """One commit of one partition."""

    partition: int
    position: int | None
    """None: it was deleted."""
    at_ms: int
    """When the coordinator accepted it, by its clock; 0 for a deletion."""


def read_commits(bootstrap: str, group_id: str, topic: str) -> list[Commit]:
    """Read all commits of a group for a topic, in order; none where brokers have no such topic (mocks).

    Raises:
        AssertionError: the last of them differ from the group's positions, so that they cannot be all.
    """
    consumer = make_consumer(bootstrap)
    try:
        partitions = partitions_of(consumer, TOPIC)
    finally:
        consumer.close()
    if not partitions:
        return []
    found = []
    for message in read_all(bootstrap, TOPIC, only=partition_of(group_id, len(partitions))):
        key, value = message.key(), message.value()
        assert isinstance(key, bytes)
        commit = commit_of(key, value if isinstance(value, bytes) else None, group_id, topic)
        if commit is not None:
            found.append(commit)
    last = {commit.partition: commit.position for commit in found}
    last = {partition: position for partition, position in last.items() if position is not None}
    stands = committed(bootstrap, group_id, topic)
    assert last == stands, f"the commits of {group_id} end with {last}, and it stands at {stands}"
    return found


def partition_of(group_id: str, partitions: int) -> int:
    """Return the offsets partition of a group: by Java's hash of its name."""
    hashed = 0
    for letter in group_id:
        hashed = (31 * hashed + ord(letter)) & 0xFFFFFFFF
    return min(hashed, 2**32 - hashed) % partitions  # without its sign


def commit_of(key: bytes, value: bytes | None, group_id: str, topic: str) -> Commit | None:
    """Parse one record; None where it is about something else."""
    if struct.unpack_from(">h", key)[0] not in _POSITION_KEYS:
        return None
    group, at = _text(key, 2)
    name, at = _text(key, at)
    if (group, name) != (group_id, topic):
        return None
    (partition,) = struct.unpack_from(">i", key, at)
    if value is None:
        return Commit(partition, None, 0)
    version, position = struct.unpack_from(">hq", value)
    at = 10 + (4 if version >= 3 else 0)  # the leader's epoch
    if version >= _TIGHT_VERSION:
        at += max(1, value[at])  # metadata, which is short: its length and one more in a byte
    else:
        _, at = _text(value, at)
    return Commit(partition, position, struct.unpack_from(">q", value, at)[0])


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    end = at + 2 + max(0, size)
    return data[at + 2 : end].decode(), end
