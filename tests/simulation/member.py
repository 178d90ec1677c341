"""What the group's coordinator knows of its members."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio

    from .network import Reply


class State(Enum):
    """Of a group."""

    EMPTY = auto()
    PREPARING = auto()
    COMPLETING = auto()
    STABLE = auto()


class Joined(NamedTuple):
    """The answer to a member that joined."""

    member_id: str
    generation: int
    is_leader: bool


class Member:
    """One member, as the coordinator knows it."""

    def __init__(self, member_id: str, session_s: float, rebalance_s: float) -> None:
        self.id = member_id
        self.session_s = session_s
        self.rebalance_s = rebalance_s
        self.expires_at = 0.0
        self.joining: Reply | None = None
        self.syncing: Reply | None = None
        self.synced = False
        self.timer: asyncio.TimerHandle | None = None
