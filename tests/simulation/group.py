"""A consumer group in its coordinator: generations, and rebalances that revoke everything.

As in Kafka's classic protocol, a commit is accepted from every member of the current generation, even for
partitions of others, except while the assignment is being distributed.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.errors import IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from random import Random

    from .loop import SimLoop
    from .network import Reply
    from .trace import Trace

    OnCommit = Callable[[str, bool, int, dict[int, int]], None]

INITIAL_DELAY_S = 0.3
"""How long an empty group waits for more members, at most."""


class State(Enum):
    """The state of a group."""

    EMPTY = auto()
    PREPARING = auto()
    COMPLETING = auto()
    STABLE = auto()


class Joined(NamedTuple):
    """The response to a member that joined."""

    member_id: str
    generation: int
    is_leader: bool


class GroupMember:
    """A member, as the coordinator sees it."""

    def __init__(self, member_id: str, session_s: float, rebalance_s: float) -> None:
        self.id = member_id
        self.session_s = session_s
        self.rebalance_s = rebalance_s
        self.expires_at = 0.0
        self.joining: Reply | None = None
        self.syncing: Reply | None = None
        self.synced = False
        self.timer: asyncio.TimerHandle | None = None


class Group:
    """The only group, for one topic.

    Args:
        partitions: Of the topic.
        random: Assigns partitions.
        on_commit: Called for every accepted commit with the member, whether it owns all of the partitions,
            the generation, and the positions.
    """

    def __init__(
        self, loop: SimLoop, partitions: int, random: Random, trace: Trace, on_commit: OnCommit
    ) -> None:
        self._loop = loop
        self._partitions = partitions
        self._random = random
        self._trace = trace
        self._on_commit = on_commit
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._leader = ""
        self._made = 0
        self._generation_members: frozenset[str] = frozenset()
        self.state = State.EMPTY
        self.generation = 0
        self.members: dict[str, GroupMember] = {}
        self.owners: dict[int, str] = {}
        """By partition, in the current generation."""

    # Requests

    def join(self, reply: Reply, who: str, member_id: str, session_s: float, rebalance_s: float) -> None:
        """JoinGroup."""
        if member_id and member_id not in self.members:
            reply(UnknownMemberIdError)
            return
        if not member_id:
            self._made += 1
            member_id = f"{who}#{self._made}"
            self.members[member_id] = GroupMember(member_id, session_s, rebalance_s)
            self._watch(self.members[member_id])
        member = self.members[member_id]
        self._touch(member)
        is_known = self.state is State.COMPLETING or (
            self.state is State.STABLE and member_id != self._leader
        )
        if is_known and member.id in self._generation_members:
            reply(Joined(member.id, self.generation, member.id == self._leader))
            return
        member.joining = reply
        if self.state is State.PREPARING:
            self._complete_if_all_joined()
        else:
            self.rebalance()

    def sync(self, reply: Reply, member_id: str, generation: int) -> None:
        """SyncGroup; the leader's request distributes the assignment."""
        member = self._checked(reply, member_id, generation)
        if member is None:
            return
        if self.state is State.PREPARING:
            reply(RebalanceInProgressError)
            return
        member.synced = True
        if self.state is State.STABLE:
            reply(self._of(member_id))
            return
        member.syncing = reply
        if member_id == self._leader:
            self._hand_out()

    def heartbeat(self, reply: Reply, member_id: str, generation: int) -> None:
        """Heartbeat."""
        if self._checked(reply, member_id, generation) is not None:
            reply(RebalanceInProgressError if self.state is State.PREPARING else None)

    def commit(self, reply: Reply, member_id: str, generation: int, positions: dict[int, int]) -> None:
        """OffsetCommit; also from outside of the group while it has no members, as from tools."""
        if generation < 0 and not member_id and self.state is State.EMPTY:
            self._on_commit("outsider", False, generation, positions)
            reply(None)
            return
        if self._checked(reply, member_id, generation) is None:
            return
        if self.state is State.COMPLETING:
            reply(RebalanceInProgressError)
            return
        owns = all(self.owners.get(partition) == member_id for partition in positions)
        self._on_commit(member_id, owns, generation, positions)
        reply(None)

    def leave(self, reply: Reply, member_id: str) -> None:
        """LeaveGroup."""
        if member_id in self.members:
            self._remove(self.members[member_id], "left")
        reply(None)

    def _checked(self, reply: Reply, member_id: str, generation: int) -> GroupMember | None:
        member = self.members.get(member_id)
        if member is None:
            reply(UnknownMemberIdError)
        elif generation != self.generation:
            reply(IllegalGenerationError)
        else:
            self._touch(member)
            return member
        return None

    # Rebalances

    def rebalance(self) -> None:
        """Ask all members to rejoin; members that do not in time are expelled."""
        was_empty = self.state is State.EMPTY
        for member in self.members.values():
            if member.syncing is not None:
                reply, member.syncing = member.syncing, None
                reply(RebalanceInProgressError)
        self.state = State.PREPARING
        self._trace.add("group", "rebalance", *sorted(self.members))
        now = self._loop.time()
        self._not_before = now + (self._random.random() * INITIAL_DELAY_S if was_empty else 0.0)
        longest_s = max((member.rebalance_s for member in self.members.values()), default=0.0)
        self._arm(longest_s, self._complete)
        if was_empty:
            self._loop.outside(self._not_before - now, self._complete_if_all_joined)
        self._complete_if_all_joined()

    def poke(self) -> None:
        """Rebalance for an outside reason, such as new partitions of the topic."""
        if self.state is State.STABLE:
            self.rebalance()

    def _complete_if_all_joined(self) -> None:
        if self.state is not State.PREPARING or self._loop.time() < self._not_before:
            return
        if all(member.joining is not None for member in self.members.values()):
            self._complete()

    def _complete(self) -> None:
        """Complete the next generation."""
        for member in [member for member in self.members.values() if member.joining is None]:
            self._trace.add("group", "expelled", member.id)
            self._forget(member)
        self.generation += 1
        self.owners = {}
        self._generation_members = frozenset(self.members)
        if not self.members:
            self.state = State.EMPTY
            self._disarm()
            return
        self.state = State.COMPLETING
        if self._leader not in self.members:
            self._leader = next(iter(self.members))
        self._trace.add("group", "generation", self.generation, *self.members)
        self._arm(max(member.rebalance_s for member in self.members.values()), self._expel_unsynced)
        for member in self.members.values():
            reply, member.joining, member.synced = member.joining, None, False
            self._touch(member)
            if reply is not None:
                reply(Joined(member.id, self.generation, member.id == self._leader))

    def _hand_out(self) -> None:
        names = list(self.members)
        self.owners = {}
        for partition in range(self._partitions):
            self.owners[partition] = self._random.choice(names)
        self.state = State.STABLE
        self._trace.add("group", "assigned", self.owners)
        for member in self.members.values():
            if member.syncing is not None:
                reply, member.syncing = member.syncing, None
                reply(self._of(member.id))

    def _of(self, member_id: str) -> frozenset[int]:
        return frozenset(number for number, owner in self.owners.items() if owner == member_id)

    def _expel_unsynced(self) -> None:
        late = [member for member in self.members.values() if not member.synced]
        for member in late:
            self._forget(member)
        if late:
            self._trace.add("group", "never synced", *(member.id for member in late))
            self.rebalance()

    # Members come and go

    def _remove(self, member: GroupMember, why: str) -> None:
        self._trace.add("group", why, member.id)
        self._forget(member)
        if self.state is State.PREPARING:
            self._complete_if_all_joined()
        else:
            self.rebalance()

    def _forget(self, member: GroupMember) -> None:
        del self.members[member.id]
        if member.timer is not None:
            member.timer.cancel()
        for reply in (member.joining, member.syncing):
            if reply is not None:
                reply(UnknownMemberIdError)

    def _touch(self, member: GroupMember) -> None:
        member.expires_at = self._loop.time() + member.session_s

    def _watch(self, member: GroupMember) -> None:
        """Expel a member without a heartbeat for its session, unless it waits for a response."""
        now = self._loop.time()
        if member.joining is not None or member.syncing is not None:
            self._touch(member)
        if member.timer is not None and now >= member.expires_at:
            self._remove(member, "expired")
        else:
            delay_s = max(member.expires_at - now, 0.0) if member.timer is not None else member.session_s
            member.timer = self._loop.outside(delay_s + 1e-6, self._watch, member)

    def _arm(self, delay_s: float, callback: Callable[[], Any]) -> None:
        self._disarm()
        self._timer = self._loop.outside(delay_s, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
