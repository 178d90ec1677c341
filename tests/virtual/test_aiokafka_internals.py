"""Patches of aiokafka's coordinator, over its own code and without a broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    IllegalGenerationError,
    KafkaError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    UnknownError,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

from fivestage.kafka.aiokafka_internals import (
    FENCED_INSTANCE_ID,
    check_committed_offsets,
    commit_only_as_member,
    when_fenced,
)

PLACE = TopicPartition("queries", 0)


class Coordinator(GroupCoordinator):
    """A member of generation 5; the broker answers after a second."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.group_id, self.generation, self.member_id = "group", 5, "member"
        self.coordinator_id, self._group_instance_id = 1, "instance"
        self._rejoin_needed_fut = asyncio.get_running_loop().create_future()
        self._coordinator_dead_fut = asyncio.get_running_loop().create_future()

    def __del__(self, **_: object) -> None:
        """Do nothing: there is nothing to close."""

    async def _send_req(self, request: object) -> Any:
        await asyncio.sleep(1)
        if isinstance(request, OffsetFetchRequest):  # since version 2 an error of the group has no partitions
            return SimpleNamespace(topics=[], error_code=self.code)
        return SimpleNamespace(topics=[(PLACE.topic, [(PLACE.partition, self.code)])], error_code=self.code)

    @property
    def state(self) -> tuple[int, str, bool]:
        """Return generation, member, and whether it must rejoin."""
        return self.generation, self.member_id, self._rejoin_needed_fut.done()


async def commit(coordinator: Any) -> None:
    """Commit one offset."""
    await coordinator._do_commit_offsets(None, {PLACE: OffsetAndMetadata(7, "")})


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    ("error", "after"),
    [(IllegalGenerationError, (-1, "", True)), (RebalanceInProgressError, (5, "member", True))],
)
async def test_a_late_answer_to_a_commit(error: type[KafkaError], after: tuple[int, str, bool]) -> None:
    """A commit response that arrives in the next generation fails the commit and changes nothing else."""
    coordinator: Any = Coordinator(error.errno)  # type: ignore[attr-defined]
    commit_only_as_member(SimpleNamespace(_coordinator=coordinator))  # type: ignore[arg-type]
    committing = asyncio.ensure_future(commit(coordinator))
    await asyncio.sleep(0.5)
    coordinator.generation, coordinator.member_id = 6, "member"
    with pytest.raises(error):
        await committing
    assert coordinator.state == (6, "member", False)
    coordinator.generation = 5
    with pytest.raises(error):
        await commit(coordinator)
    assert coordinator.state == after


GROUP_ERRORS = [
    GroupLoadInProgressError,
    GroupCoordinatorNotAvailableError,
    NotCoordinatorForGroupError,
    GroupAuthorizationFailedError,
    UnknownError,
]


@pytest.mark.fault(4)
@pytest.mark.parametrize("error", GROUP_ERRORS)
async def test_committed_offsets_that_cannot_be_told(error: type[KafkaError]) -> None:
    """An error in place of all committed offsets is raised; it does not mean that there are none."""
    coordinator: Any = Coordinator(error.errno)  # type: ignore[attr-defined]
    check_committed_offsets(SimpleNamespace(_coordinator=coordinator))  # type: ignore[arg-type]
    with pytest.raises(error):
        await coordinator._do_fetch_commit_offsets([PLACE])
    has_moved = error in {GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError}
    assert (coordinator.coordinator_id is None) == has_moved


async def test_a_group_without_committed_offsets() -> None:
    """An answer without an error and without an offset does mean that there are none."""
    coordinator: Any = Coordinator(0)
    check_committed_offsets(SimpleNamespace(_coordinator=coordinator))  # type: ignore[arg-type]
    assert await coordinator._do_fetch_commit_offsets([PLACE]) == {}


async def test_a_static_member_that_is_not_known_any_more() -> None:
    """A fenced static member rejoins under its old member id, so that the broker reports the conflict."""
    coordinator: Any = Coordinator(FENCED_INSTANCE_ID)
    joins, fenced = [], []

    async def join(_: object) -> bool:
        joins.append(coordinator.member_id)
        await coordinator._send_req(None)
        coordinator.reset_generation()  # as where its session has expired
        return False

    coordinator._do_rejoin_group = join
    when_fenced(SimpleNamespace(_coordinator=coordinator), lambda: fenced.append(True))  # type: ignore[arg-type]
    coordinator.reset_generation()
    assert coordinator.state == (-1, "member", True)
    await coordinator._do_rejoin_group(None)
    assert (joins, fenced) == (["member"], [True])
    assert coordinator.state == (-1, "", True)
