"""Settings of the core's decisions: stage limits, learning, breakers, admission, dead letters.

Most sections build a policy or the plan, which the rest of the core uses, and take their defaults from it.
``fivestage.settings`` puts the sections of all packages together.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fivestage.core.adaptive.breaker import BreakerPolicy
from fivestage.core.adaptive.stage_limit import AdaptivePolicy
from fivestage.core.admission.load_shedding import ShedMode, ShedPolicy
from fivestage.core.partition_halt import HaltPolicy
from fivestage.core.plan import DEFAULT_CRITICAL, DEFAULT_STAGE_TIMEOUTS_MS, DEFAULT_TOTAL_TIMEOUT_MS, Plan
from fivestage_schemas import StageType

PositiveInt = Annotated[int, Field(gt=0)]
PositiveMs = PositiveInt
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
"""A share of a whole, above 0 and at most 1."""

_ADAPTIVE: Final = AdaptivePolicy()
_BREAKER: Final = BreakerPolicy()
_HALT: Final = HaltPolicy()
_SHED: Final = ShedPolicy()


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PipelineSettings(Section):
    """Time limits of a query and of its five stages."""

    total_timeout_ms: PositiveMs = int(DEFAULT_TOTAL_TIMEOUT_MS)
    stage_timeouts_ms: dict[StageType, PositiveMs] = Field(
        default_factory=lambda: {stage: int(limit) for stage, limit in DEFAULT_STAGE_TIMEOUTS_MS.items()}
    )
    critical: frozenset[StageType] = DEFAULT_CRITICAL
    """The stages without which a query fails."""
    rejected: Literal["degrade", "error"] = "degrade"
    """How a query ends when validation rejects its answer. ``degrade``: as a success marked as degraded, with
    ``validated`` false. ``error``: as an error of the type ``rejected``; always so if validation is
    critical."""
    allow_partial: bool = False
    """Whether a query may succeed, degraded, with an answer that its node offered before its limit; a query
    decides for itself with ``allow_partial``."""

    @field_validator("stage_timeouts_ms")
    @classmethod
    def _complete(cls, given: dict[StageType, int]) -> dict[StageType, int]:
        """Add the defaults of stages that are not named."""
        return {stage: given.get(stage, int(limit)) for stage, limit in DEFAULT_STAGE_TIMEOUTS_MS.items()}

    def plan(self) -> Plan:
        """Make the plan of a query."""
        return Plan.of(**dict(self))


class AdaptiveSettings(Section):
    """Stage limits that follow how long the stages take, learned separately for each lane."""

    enabled: bool = _ADAPTIVE.enabled
    min_samples: Annotated[int, Field(gt=0, le=_ADAPTIVE.window)] = _ADAPTIVE.min_samples
    """Fewest samples of a stage, of the last 200; with fewer its configured limit applies."""
    floor_ratio: Share = _ADAPTIVE.floor_ratio
    """The lowest learned limit, as a share of the configured limit."""
    ceiling_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = _ADAPTIVE.ceiling_ratio
    """The highest learned limit, as a multiple of the configured limit; the query's deadline still holds."""
    learning_rate: Share = _ADAPTIVE.learning_rate
    """How far a limit moves towards its target with each sample."""

    def policy(self) -> AdaptivePolicy:
        """Make the policy of learned limits."""
        return AdaptivePolicy(**dict(self))


class BreakerSettings(Section):
    """The circuit breaker that each node has in each lane."""

    enabled: bool = _BREAKER.enabled
    """If false, nodes are called however often they fail; their health still decides between them."""
    failure_rate: Share = _BREAKER.failure_rate
    """The breaker opens when significantly more than this share of the calls failed or timed out, for at
    least a second; at 1 it opens when all calls did."""
    slow_call_rate: Share = _BREAKER.slow_call_rate
    """The same for slow calls, which took more than nine tenths of their limit; 1 = they do not count."""
    window: PositiveInt = _BREAKER.window
    """The rates are computed over this many of the last calls, or all of the last second if more."""
    minimum_calls: PositiveInt = _BREAKER.minimum_calls
    """With fewer calls the breaker stays closed."""
    first_open_ms: PositiveMs = int(_BREAKER.first_open_s * 1000)
    """How long a breaker stays open the first time. Doubles with each failed probe call, up to open_ms."""
    open_ms: PositiveMs = int(_BREAKER.open_s * 1000)
    """The longest time a breaker stays open. Up to a fifth is added at random, so that breakers do not all
    probe at the same moment."""
    half_open_calls: PositiveInt = _BREAKER.half_open_calls
    """How many probe calls, one at a time, must succeed before the breaker closes."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.minimum_calls > self.window:
            raise ValueError("minimum_calls must not be more than window: the breaker would never open")
        if "first_open_ms" in self.model_fields_set and self.first_open_ms > self.open_ms:
            raise ValueError("first_open_ms must not be more than open_ms, the longest time it stays open")
        return self

    def policy(self, total_timeout_ms: int) -> BreakerPolicy:
        """Make the policy of breakers; a probe call may take a second more than *total_timeout_ms*."""
        return BreakerPolicy(
            **self.model_dump(exclude={"first_open_ms", "open_ms"}),
            first_open_s=min(self.first_open_ms, self.open_ms) / 1000,
            open_s=self.open_ms / 1000,
            probe_timeout_s=total_timeout_ms / 1000 + 1.0,
        )


class AdmissionSettings(Section):
    """Which queries are accepted, and when they run."""

    max_in_flight: Annotated[int, Field(gt=0, le=100_000)] = 256
    """How many queries run at the same time."""
    adaptive_limit: bool = True
    """Run fewer queries than max_in_flight, at least an eighth, while latency rises with their number or many
    of them time out, provided that a trial showed no fewer answers in time."""
    ordering: Literal["unordered", "key"] = "unordered"
    """``key``: queries with the same key run one after the other, and their results keep that order; but one
    that expires while it waits is answered at its deadline."""
    shed: ShedMode = _SHED.mode
    """Load shedding, for queries with less time left than an answer takes: ``on`` rejects them, ``observe``
    runs them and counts them."""
    shed_max_share: Share = _SHED.max_share
    """The largest share rejected, of the queries of two seconds that have less than the total time left: the
    estimate may be wrong."""
    max_uncommitted_span: PositiveInt = 20_000
    """Largest distance, in offsets, between a partition's committed position and its newest query. A
    partition that reaches it is not read until more is committed."""
    query_ttl_ms: Count = 0
    """How long after its timestamp a query is worth answering; 0 = no limit."""
    max_value_bytes: PositiveInt = 262144
    """Larger records become dead letters and are not parsed."""


class HedgeSettings(Section):
    """When another node is called beside one that is slow."""

    max_extra_load: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The largest share of the calls of an ``idempotent`` node that may be hedged; 0 = none."""


class DlqSettings(Section):
    """When a partition with many unreadable records is halted, instead of making them all dead letters."""

    max_ratio: Annotated[float, Field(ge=0, le=1)] = _HALT.max_ratio
    """The largest share of a partition's latest records that may be unreadable; 0 = no limit."""
    max_consecutive: Count = _HALT.max_consecutive
    """How many unreadable records of a partition may follow each other; 0 = no limit."""
    window: Annotated[int, Field(gt=0, le=1_000_000)] = _HALT.window
    """Number of records that max_ratio is computed over; with fewer it does not apply."""
    pause_ms: Count = int(_HALT.pause_s * 1000)
    """How long a halted partition waits before it is read again. Doubles with each halt in a row, up to 16
    times the first. 0 = until the service is restarted."""

    def policy(self) -> HaltPolicy:
        """Make the policy of halts."""
        return HaltPolicy(**self.model_dump(exclude={"pause_ms"}), pause_s=self.pause_ms / 1000)
