"""The plan of a pipeline: five stages in order, each with its limit and whether it is critical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_STAGE_TIMEOUTS_MS: Final[Mapping[StageType, float]] = {
    StageType.INTENT: 50.0,
    StageType.DECISION: 100.0,
    StageType.PROCESSING: 120.0,
    StageType.VALIDATION: 40.0,
    StageType.REFLECTION: 30.0,
}
DEFAULT_TOTAL_TIMEOUT_MS: Final = 250.0
DEFAULT_CRITICAL: Final = frozenset({StageType.INTENT, StageType.DECISION, StageType.PROCESSING})


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage: its place, its limit in seconds, whether the query fails with it."""

    stage_type: StageType
    sequence: int
    limit_s: float
    critical: bool
    fair_share_s: float
    """What it is left even if the stages before it use up their limits: a stage that was granted this much
    and was not in time has itself to blame, one that was granted less may not."""
    rejects: bool = False
    """Validation: a verdict of false ends the query as an error, rather than as degraded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The five stages and the total limit in seconds."""

    stages: tuple[StageSpec, ...]
    total_s: float

    def __post_init__(self) -> None:
        if tuple(spec.stage_type for spec in self.stages) != tuple(StageType):
            raise ValueError("a plan has the five stages, in their order")
        if self.total_s <= 0 or any(spec.limit_s <= 0 for spec in self.stages):
            raise ValueError("limits are more than 0 ms")

    @classmethod
    def of(
        cls,
        *,
        total_timeout_ms: float = DEFAULT_TOTAL_TIMEOUT_MS,
        stage_timeouts_ms: Mapping[StageType, float] | None = None,
        critical: Iterable[StageType] = DEFAULT_CRITICAL,
        rejected: Literal["degrade", "error"] = "degrade",
    ) -> Plan:
        """Build a plan from limits in milliseconds; a stage that is not named keeps its default.

        Args:
            total_timeout_ms: The limit of a query.
            stage_timeouts_ms: Those of its stages.
            critical: The stages without which a query fails.
            rejected: What a query ends as whose answer validation rejects: a degraded success or an error. It
                is an error wherever validation is critical.
        """
        limits = {**DEFAULT_STAGE_TIMEOUTS_MS, **(stage_timeouts_ms or {})}
        chosen = frozenset(critical)
        stages, left_ms = [], total_timeout_ms
        for sequence, stage_type in enumerate(StageType):
            limit_ms = limits[stage_type]
            fair_ms = min(limit_ms, max(left_ms, total_timeout_ms / len(StageType)))
            is_critical = stage_type in chosen
            rejects = stage_type is StageType.VALIDATION and (is_critical or rejected == "error")
            stages.append(
                StageSpec(stage_type, sequence, limit_ms / 1000, is_critical, fair_ms / 1000, rejects)
            )
            left_ms -= limit_ms
        return cls(tuple(stages), total_timeout_ms / 1000)
