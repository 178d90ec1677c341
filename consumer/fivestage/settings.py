"""All settings: one frozen model, read once, units in the names.

The command line wins over the environment (``FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS``), the environment over the
file (``--config fivestage.toml``), the file over the defaults. Each package has the sections that concern it;
this module puts the sections together and reads them. It also holds those of the packages above it, and of
``executors``, whose import would load every executor.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from fivestage.core.deadline import DEADLINE_HEADER
from fivestage.core.settings import (
    AdaptiveSettings,
    AdmissionSettings,
    BreakerSettings,
    DlqSettings,
    HedgeSettings,
    PipelineSettings,
    PositiveMs,
    Section,
)
from fivestage.errors import ConfigurationError
from fivestage.kafka.settings import AROUND_DRAIN_MS, KafkaSettings, TopicSettings, invalid_names
from fivestage.observability.settings import AdminSettings, LoggingSettings, TracingSettings
from fivestage.pipeline.node_settings import NodeSettings
from fivestage.pipeline.settings import NodeTables, unmasked
from fivestage.setting_sources import explained, flattened, read_toml, variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fivestage.pipeline.pipeline import Pipeline

__all__ = [
    "AdaptiveSettings",
    "AdminSettings",
    "AdmissionSettings",
    "BreakerSettings",
    "DlqSettings",
    "ExecutorSettings",
    "HedgeSettings",
    "KafkaSettings",
    "LoggingSettings",
    "OutboundSettings",
    "PipelineSettings",
    "Settings",
    "ShutdownSettings",
    "TopicSettings",
    "TracingSettings",
]

LaneName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,128}$", to_lower=True)]
"""In lower case, as gRPC requires; HTTP sees no difference."""
NO_FILE: Final = " (no settings file was read: --config FILE)"
LaneShare = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ExecutorSettings(Section):
    """Where stages and nodes run."""

    kind: Literal["thread", "process"] = "thread"
    """``thread``: on separate event loops in this process. ``process``: in worker processes, for code that
    uses much CPU or may have to be killed."""
    workers: Annotated[int, Field(gt=0, le=256)] = 1
    """Number of worker processes, with ``kind`` process."""
    threads: Annotated[int, Field(gt=0, le=1000)] = 16
    """How many blocking calls (``def`` stages and nodes, ``asyncio.to_thread``) run at the same time in each
    process, not counting calls that continue after their time limit. A ``def`` stage waits for a free thread
    without occupying a slot; until a thread takes its call, neither its limit nor its query's time runs."""
    stall_ms: Annotated[int, Field(ge=10)] = 30
    """How long a stage may block its event loop before the loop gets no new queries."""
    max_abandoned: Annotated[int, Field(ge=0)] = 64
    """How many calls may continue for more than 10 s after their time limit; with one more, the service exits
    to be restarted. Long before that, a node with ``threads`` / 4 calls that continue for 1 s, or still use
    the CPU, gets no more calls until one returns."""
    start_timeout_ms: PositiveMs = 60_000
    """How long the app's resources may take to open; one that fails to open is retried meanwhile."""
    spares: Annotated[int, Field(ge=0, le=16)] = 1
    """How many event loops or worker processes are kept ready, with their resources open, to replace one that
    is blocked."""

    @field_validator("kind", mode="before")
    @classmethod
    def _not_inline(cls, given: Any) -> Any:
        if given == "inline":
            raise ValueError(
                "'inline' is for tests only, because a node that blocks would delay the deadlines of all "
                "queries: use 'thread', or 'process' for code that computes"
            )
        return given

    @property
    def max_overdue(self) -> int:
        """How many calls of a node may be overdue before the node gets no more."""
        return max(1, self.threads // 4)


class OutboundSettings(Section):
    """What nodes pass on to the services that they call, with ``ctx.headers()``."""

    deadline_header: HeaderName = DEADLINE_HEADER
    """The header with the milliseconds that the service may take; empty = none."""


class ShutdownSettings(Section):
    """How long a shutdown may take."""

    drain_timeout_ms: PositiveMs = 5000
    """Time to finish the queries in flight and to publish their events."""
    total_timeout_ms: PositiveMs = 15000
    """Time for the whole shutdown; after it the process exits in any case."""


class Settings(BaseSettings):
    """All settings of the service."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FIVESTAGE_",
        env_nested_delimiter="__",
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    topics: TopicSettings = Field(default_factory=TopicSettings)
    lane: LaneName = "prod"
    """The lane of queries that do not name one."""
    lanes: dict[LaneName, LaneShare] = Field(default_factory=dict)
    """The accepted lanes, each with its share of the queries that run, relative to the others. A lane gets
    more than its share while other lanes do not use theirs. Empty = every lane is accepted, with equal
    shares."""
    pipeline: PipelineSettings = Field(default_factory=PipelineSettings)
    adaptive: AdaptiveSettings = Field(default_factory=AdaptiveSettings)
    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    dlq: DlqSettings = Field(default_factory=DlqSettings)
    executor: ExecutorSettings = Field(default_factory=ExecutorSettings)
    hedge: HedgeSettings = Field(default_factory=HedgeSettings)
    outbound: OutboundSettings = Field(default_factory=OutboundSettings)
    admin: AdminSettings = Field(default_factory=AdminSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)
    nodes: NodeTables = Field(default_factory=dict)
    """The settings that nodes and resources define, a table for each name; shown masked."""
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    """The file or variable that sets a key of ``nodes``."""
    _hint: str = PrivateAttr(default="")
    """What an error about a missing setting of a node ends with."""

    @field_validator("lanes", mode="before")
    @classmethod
    def _equal_shares(cls, given: Any) -> Any:
        """Give each lane the same share if only names are given."""
        return dict.fromkeys(given, 1.0) if isinstance(given, list | tuple | set | frozenset) else given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lanes and self.lane not in self.lanes:
            raise ValueError(f"lane: queries that name no lane would be rejected, add {self.lane!r} to lanes")
        if names := invalid_names(self.topics.all):
            raise ValueError(
                f"topics: {names[0]!r} is not a valid topic name: Kafka allows 1 to 249 of A-Z a-z 0-9 . _ -"
            )
        return self

    @classmethod
    def load(
        cls,
        config: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        environment: bool = True,
    ) -> Settings:
        """Read the settings.

        Args:
            config: A TOML file with the sections of this class.
            overrides: Nested values, such as those of the command line, that win over all others.
            environment: Whether variables count; not in the test kit.

        Raises:
            ConfigurationError: a value is invalid (the text names its key, not the value), or the file is.
        """
        from_file = read_toml(config) if config else {}
        sources = dict.fromkeys(dict(flattened(from_file)), str(config))
        sources |= variables() if environment else {}

        class _WithFile(cls):  # type: ignore[misc, valid-type] # mypy does not follow a variable base class
            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], **known: PydanticBaseSettingsSource
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                """Return the sources, strongest first: command line, environment, file."""
                file_source = InitSettingsSource(settings_cls, init_kwargs=from_file)
                read = (known["env_settings"], file_source) if environment else (file_source,)
                return known["init_settings"], *read

        try:
            settings = _WithFile(**(overrides or {}))
        except ValidationError as error:
            given = dict(flattened(overrides or {}))
            read = {key: one for key, one in sources.items() if key not in given}
            raise ConfigurationError(explained(error, cls, read)) from None
        except SettingsError as error:  # its text names the field and the source, not the value
            example = 'in the environment, lists and tables are JSON, such as ["prod", "canary"]'
            raise ConfigurationError(f"{error}: {example}") from None
        settings._sources |= {key: one for key, one in sources.items() if key.startswith("nodes.")}  # noqa: SLF001
        settings._hint = "" if config else NO_FILE  # noqa: SLF001
        return settings

    def for_nodes(self, app: Pipeline) -> NodeSettings:
        """Check ``nodes`` against the nodes and resources of *app*.

        Raises:
            ConfigurationError: a name is unknown, or values do not fit the node's model.
        """
        return NodeSettings.of(app, unmasked(self.nodes), self._sources, self._hint)

    def conflicts(self, cores: int | None = None, platform: str = sys.platform) -> Iterator[str]:
        """Describe valid settings that limit or contradict each other, one sentence each.

        Args:
            cores: The number of CPU cores; by default how many this process may use.
            platform: The operating system, as ``sys.platform`` has it.
        """
        total_ms, shutdown = self.pipeline.total_timeout_ms, self.shutdown
        for stage, limit_ms in self.pipeline.stage_timeouts_ms.items():
            if limit_ms > total_ms:
                yield (
                    f"pipeline.stage_timeouts_ms.{stage}: {limit_ms} ms are more than "
                    f"pipeline.total_timeout_ms, {total_ms} ms: the stage never has that long"
                )
        longest_ms = self.kafka.rebalance_timeout_ms - AROUND_DRAIN_MS
        if longest_ms < total_ms:
            yield (
                f"kafka.rebalance_timeout_ms: a rebalance waits {longest_ms} ms for queries in flight, less "
                f"than a query may take, {total_ms} ms: those cut off are read and run again; set it to "
                f"{total_ms + AROUND_DRAIN_MS} or more, and kafka.request_timeout_ms to 3000 more than that"
            )
        if shutdown.drain_timeout_ms < total_ms:
            yield (
                f"shutdown.drain_timeout_ms: {shutdown.drain_timeout_ms} ms are less than a query may take, "
                f"{total_ms} ms: queries in flight may be cut off at shutdown, and read and run again"
            )
        if shutdown.total_timeout_ms < shutdown.drain_timeout_ms:
            yield (
                f"shutdown.drain_timeout_ms: {shutdown.drain_timeout_ms} ms are more than "
                f"shutdown.total_timeout_ms, {shutdown.total_timeout_ms} ms, which ends the shutdown earlier"
            )
        if self.executor.kind == "process" and platform != "linux":
            yield f"executor.kind: worker processes need Linux, and this is {platform}: use thread here"
        cores = cores or _cores()
        if self.executor.kind == "process" and self.executor.workers > cores:
            yield (
                f"executor.workers: {self.executor.workers} processes share {cores} CPU cores: nodes that "
                "compute get less CPU time each and exceed their limits more often"
            )


def _cores() -> int:
    """Return how many CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every platform
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
