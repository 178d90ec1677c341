"""The plan of a pipeline: five stages in order, their time limits, and which must succeed (critical)."""

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
    """The configuration of one stage."""

    stage_type: StageType
    sequence: int
    limit_s: float
    critical: bool
    fair_share_s: float
    """The time that a stage has even if earlier ones use up their limits: its limit, or less. A timeout after
    a smaller grant does not count against the stage."""
    rejects: bool = False
    """For validation: a rejected answer is an error, not a degraded success."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The five stages and the total limit in seconds."""

    stages: tuple[StageSpec, ...]
    total_s: float
    allow_partial: bool = False
    """Whether validation and reflection may run on an offered answer, for queries that do not say."""

    def __post_init__(self) -> None:
        if tuple(spec.stage_type for spec in self.stages) != tuple(StageType):
            raise ValueError("a plan has the five stages, in their order")
        if self.total_s <= 0 or any(spec.limit_s <= 0 for spec in self.stages):
            raise ValueError("limits must be more than 0 ms")

    @classmethod
    def of(
        cls,
        *,
        total_timeout_ms: float = DEFAULT_TOTAL_TIMEOUT_MS,
        stage_timeouts_ms: Mapping[StageType, float] | None = None,
        critical: Iterable[StageType] = DEFAULT_CRITICAL,
        rejected: Literal["degrade", "error"] = "degrade",
        allow_partial: bool = False,
    ) -> Plan:
        """Build a plan from limits in milliseconds; a stage without a given limit keeps its default.

        Args:
            total_timeout_ms: The limit of a query.
            stage_timeouts_ms: The limits of its stages.
            critical: The stages that must succeed for the query to succeed.
            rejected: How a query ends if validation rejects its answer: as a degraded success or as an error.
                Always an error if validation is critical.
            allow_partial: Whether a query may succeed with an answer that its node offered before its limit,
                if the query does not say.

        Raises:
            ValueError: a limit is not more than 0, or there is no such stage.
        """
        limits = {**DEFAULT_STAGE_TIMEOUTS_MS, **(stage_timeouts_ms or {})}
        chosen = frozenset(critical)
        _check_stages("stage_timeouts_ms", limits)
        _check_stages("critical", chosen)
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
        return cls(tuple(stages), total_timeout_ms / 1000, allow_partial)


def _check_stages(argument: str, names: Iterable[str]) -> None:
    """Raise ValueError if there is no stage of one of the names: it would be ignored."""
    if unknown := set(names).difference(StageType):
        raise ValueError(
            f"unknown stage in {argument}: {', '.join(sorted(map(repr, unknown)))}; "
            f"the stages are {', '.join(StageType)}"
        )
