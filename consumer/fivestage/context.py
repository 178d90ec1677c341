"""What user code sees: the query, and the stage it is in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fivestage_schemas import StageType


@dataclass(frozen=True, slots=True)
class Query:
    """A question as stages and nodes get it."""

    query_id: str
    user_input: str = field(repr=False)
    lane: str = "prod"
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The producer's own JSON object; empty when it sent none."""


@dataclass(slots=True)
class StageContext:
    """One stage of one query, as the code that runs it sees it.

    A context belongs to its query: it is filled as the stages go by and must not be kept.
    """

    lane: str
    deadline: float
    """When the query ends (monotonic seconds, the clock of the running event loop)."""
    clock: Callable[[], float]
    run_sync: Callable[..., Awaitable[Any]]
    """``await ctx.run_sync(function, *args)`` runs a blocking function in the executor's threads."""
    stage_type: StageType
    attempt: int = 1
    stage_deadline: float = 0.0
    """When this stage ends (monotonic seconds)."""
    results: dict[StageType, Any] = field(default_factory=dict, repr=False)
    """What the finished stages returned; a stage that did not succeed is absent."""
    node: str | None = None
    """The node that decision chose."""
    answer: Any = field(default=None, repr=False)
    """The answer that processing returned (validation and reflection)."""
    confidence: float | None = None
    """The node's confidence, 0..1, where it gave one."""
    validated: bool | None = None
    """The verdict of validation; None while there is none (reflection)."""

    def remaining_ms(self) -> float:
        """Milliseconds left for this stage; never negative."""
        end = min(self.deadline, self.stage_deadline or self.deadline)
        return max(0.0, (end - self.clock()) * 1000)
