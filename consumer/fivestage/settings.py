"""All settings: one frozen model, read once, units in the names.

The command line wins over the environment (``FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS``), the environment over
the file (``--config fivestage.toml``), the file over the defaults.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
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

from fivestage.contradictions import invalid_names
from fivestage.core.adaptive.breaker import BreakerPolicy
from fivestage.core.adaptive.stage_limit import AdaptivePolicy
from fivestage.core.admission.load_shedding import ShedMode
from fivestage.core.partition_halt import HaltPolicy
from fivestage.core.plan import DEFAULT_CRITICAL, DEFAULT_STAGE_TIMEOUTS_MS, DEFAULT_TOTAL_TIMEOUT_MS, Plan
from fivestage.core.records import Output
from fivestage.errors import ConfigurationError
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Mapping

PositiveMs = Annotated[int, Field(gt=0)]
PositiveBytes = Annotated[int, Field(gt=0, le=100 * 1024 * 1024)]
"""The upper end is the brokers' default of ``socket.request.max.bytes``."""
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LaneName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(_Section):
    """How to reach Kafka, and how patient to be with it."""

    bootstrap_servers: str = "localhost:9092"
    """``host:port``, several separated by commas."""
    group_id: str = Field("fivestage", min_length=1)
    group_instance_id: str | None = None
    """A name that survives restarts makes this a static member: no rebalance when it restarts quickly."""
    client_id: str = "fivestage"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    allow_plaintext: bool = False
    """Permit PLAINTEXT and SASL_PLAINTEXT to hosts other than this one."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_token_url: str | None = None
    """For OAUTHBEARER: ``https://...`` of an issuer that is asked with sasl_username and sasl_password (the
    OAuth grant ``client_credentials``), or ``file:///...``, a token that somebody else keeps fresh."""
    sasl_token_scope: str | None = None
    """The scope to ask the issuer for."""
    ssl_cafile: Path | None = None
    """Authorities to trust; the system's when absent."""
    ssl_certfile: Path | None = None
    """This client's certificate, where the brokers ask for one."""
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr | None = None
    client_rack: Annotated[str, Field(min_length=1)] | None = None
    """Where this client runs, as the brokers' ``broker.rack`` names it: records are then read from a replica
    of the same place, where the brokers choose so (``replica.selector.class``)."""
    auto_offset_reset: Literal["earliest", "latest", "error"] = "earliest"
    """Where reading starts in a partition without a committed position, and where it goes on when the log
    does not hold the position; ``error`` ends the service with exit code 2 instead."""
    session_timeout_ms: PositiveMs = 6000
    """How long the partitions of a killed member wait. The brokers bound it
    (``group.min.session.timeout.ms``, 6000, and ``group.max.session.timeout.ms``)."""
    heartbeat_interval_ms: PositiveMs = 300
    """How often a member asks whether the group is being rebalanced: every join and leave waits so long."""
    rebalance_timeout_ms: Annotated[int, Field(ge=9000)] = 10000
    """At least 9000: what is in flight is finished and committed while a rebalance waits."""
    request_timeout_ms: PositiveMs = 15000
    fetch_max_wait_ms: PositiveMs = 100
    fetch_max_bytes: PositiveBytes = 8_388_608
    """About the most that a fetch from one broker brings, all its partitions together."""
    max_partition_fetch_bytes: PositiveMs = 262144
    max_batch_bytes: Annotated[int, Field(ge=1_048_576, le=1_073_741_824)] = 8_388_608
    """The largest that a compressed batch of the input topic may become; the records of a larger one are dead
    letters."""
    max_record_bytes: PositiveMs = 1_048_000
    """The largest record to publish; at most the output topics' ``max.message.bytes``."""
    publish_batch_bytes: PositiveBytes = 65_536
    """A batch of events takes more until it is this large; a larger event gets a batch to itself."""
    publish_request_bytes: PositiveBytes = 1_048_576
    """A request takes the batches of several partitions until it is this large; below the brokers'
    ``socket.request.max.bytes``."""
    compression: Literal["none", "lz4", "zstd", "gzip", "snappy"] = "none"
    """Of the batches that are published."""
    commit_interval_ms: PositiveMs = 500
    publish_timeout_ms: PositiveMs = 120_000
    """How long an event may go unacknowledged before the service ends; nothing is lost then."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.request_timeout_ms < self.rebalance_timeout_ms + 3000:
            raise ValueError(
                "request_timeout_ms must be at least rebalance_timeout_ms + 3000: joining the group waits "
                "for a whole rebalance"
            )
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            raise ValueError("session_timeout_ms must be at least three times heartbeat_interval_ms")
        return self

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        if self.security_protocol.startswith("SASL") and not self.sasl_mechanism:
            raise ValueError("sasl_mechanism is needed: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER")
        if self.sasl_mechanism == "OAUTHBEARER":
            self._check_token_url()
        if self.needs_password and not (self.sasl_username and self.sasl_password):
            raise ValueError(f"sasl_username and sasl_password are needed for {self.sasl_mechanism}")
        if self.security_protocol.endswith("PLAINTEXT") and not (self.allow_plaintext or self.is_local):
            raise ValueError(
                f"{self.security_protocol} to {self.bootstrap_servers} would send queries unencrypted: set "
                "security_protocol to SSL or SASL_SSL, or allow_plaintext = true inside a trusted network"
            )
        return self

    def _check_token_url(self) -> None:
        url = urlsplit(self.sasl_token_url or "")
        in_the_clear = url.scheme == "http" and not (self.allow_plaintext or is_loopback(url.hostname or ""))
        if url.scheme not in {"http", "https", "file"} or url.username is not None or in_the_clear:
            raise ValueError("sasl_token_url is needed for OAUTHBEARER: https://... or file:///...")

    @property
    def needs_password(self) -> bool:
        """A name and a password are sent: to the brokers, or to the issuer of tokens."""
        by_file = self.sasl_mechanism == "OAUTHBEARER" and (self.sasl_token_url or "").startswith("file:")
        return self.sasl_mechanism is not None and not by_file

    @property
    def is_local(self) -> bool:
        """Every bootstrap server is on this host."""
        hosts = [
            server.strip().rpartition(":")[0].strip("[]") for server in self.bootstrap_servers.split(",")
        ]
        return all(is_loopback(host) for host in hosts)


class TopicSettings(_Section):
    """The topics' names."""

    queries: str = "fivestage.queries"
    """One name, several (a list, or separated by commas), or a pattern: ``^orders\\.`` stands for all topics
    whose names begin so, those that are created later too."""
    stage_results: str = "fivestage.stage-results"
    results: str = "fivestage.results"
    timeouts: str = "fivestage.timeouts"
    dead_letters: str = "fivestage.dead-letters"
    create: bool = False
    """Create missing topics at start; meant for trying things out."""

    @field_validator("queries", mode="before")
    @classmethod
    def _joined(cls, given: Any) -> Any:
        return ",".join(given) if isinstance(given, list | tuple) and all(map(_is_text, given)) else given

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            loops = [name for name in self.outputs.values() if self.is_input(name)]
        except re.error as error:
            raise ValueError(f"queries is no valid pattern: {error}") from None
        if not self.inputs and self.pattern is None:
            raise ValueError("queries names no topic")
        if loops:
            raise ValueError(
                f"a loop: {', '.join(map(repr, loops))} would be written and read as queries again"
            )
        return self

    @property
    def pattern(self) -> str | None:
        """What the names of input topics match at their beginning; None where ``queries`` names them."""
        return self.queries if self.queries.startswith("^") else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input topics by name; none with a pattern."""
        names = [] if self.pattern else [name.strip() for name in self.queries.split(",")]
        return tuple(dict.fromkeys(name for name in names if name))

    def is_input(self, name: str) -> bool:
        """Whether queries are read from a topic of this name."""
        return name in self.inputs if self.pattern is None else re.match(self.pattern, name) is not None

    def only_input(self) -> str:
        """The input topic, for commands that write there.

        Raises:
            ConfigurationError: there may be several.
        """
        if len(self.inputs) != 1:
            raise ConfigurationError(
                f"topics.queries = {self.queries!r} may be several topics: set "
                "FIVESTAGE_TOPICS__QUERIES to the one to write to"
            )
        return self.inputs[0]

    @property
    def outputs(self) -> dict[Output, str]:
        """The output topics' names."""
        return {output: getattr(self, output.value) for output in Output}

    @property
    def all(self) -> tuple[str, ...]:
        """All that have a name: inputs, unless they are given as a pattern, and outputs."""
        return (*self.inputs, *self.outputs.values())


class PipelineSettings(_Section):
    """Limits of the five stages."""

    total_timeout_ms: PositiveMs = int(DEFAULT_TOTAL_TIMEOUT_MS)
    stage_timeouts_ms: dict[StageType, PositiveMs] = Field(
        default_factory=lambda: {stage: int(limit) for stage, limit in DEFAULT_STAGE_TIMEOUTS_MS.items()}
    )
    critical: frozenset[StageType] = DEFAULT_CRITICAL
    """The stages without which a query fails."""
    rejected: Literal["degrade", "error"] = "degrade"
    """What a query ends as whose answer validation rejects: ``degrade``, a success marked as degraded, with
    ``validated`` false; ``error``, an error of the type ``rejected``, as wherever validation is critical."""

    @field_validator("stage_timeouts_ms")
    @classmethod
    def _complete(cls, given: dict[StageType, int]) -> dict[StageType, int]:
        """A stage that is not named keeps its default."""
        return {stage: given.get(stage, int(limit)) for stage, limit in DEFAULT_STAGE_TIMEOUTS_MS.items()}

    def plan(self) -> Plan:
        """The plan these settings describe."""
        return Plan.of(
            total_timeout_ms=self.total_timeout_ms,
            stage_timeouts_ms=dict(self.stage_timeouts_ms),
            critical=self.critical,
            rejected=self.rejected,
        )


class AdaptiveSettings(_Section):
    """Stage limits that follow what the stages take, lane by lane."""

    enabled: bool = True
    min_samples: Annotated[int, Field(gt=0, le=200)] = 50
    """With fewer of the last 200 samples the configured limits hold."""
    floor_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The lowest a limit may become, as a share of the configured one."""
    ceiling_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0
    """The highest; never more than what remains of the query's budget."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """How much of the way to its target a limit moves with each sample."""

    def policy(self) -> AdaptivePolicy:
        """The policy these settings describe."""
        return AdaptivePolicy(**self.model_dump())


class BreakerSettings(_Section):
    """The breaker that each node has in each lane."""

    enabled: bool = True
    """Off: nodes are called however often they fail; their health still decides between them."""
    failure_rate: Annotated[float, Field(gt=0, le=1)] = 0.3
    """It opens when more than this share of the calls failed or timed out, beyond doubt and for a second; at
    1 when all did."""
    slow_call_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The same for calls that took more than nine tenths of their limit; 1 = they do not matter."""
    window: Annotated[int, Field(gt=0)] = 100
    """How many calls are judged, and those of the last second where there are more."""
    minimum_calls: Annotated[int, Field(gt=0)] = 20
    """With fewer it stays closed."""
    first_open_ms: PositiveMs = 1_000
    """How long it opens first; twice as long after each probe that fails. No more than open_ms."""
    open_ms: PositiveMs = 30_000
    """How long it stays open at most, and a fifth more: not all breakers try again at the same moment."""
    half_open_calls: Annotated[int, Field(gt=0)] = 1
    """How many calls, one at a time, must succeed before it closes."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.minimum_calls > self.window:
            raise ValueError("minimum_calls must not be more than window: the breaker would never open")
        if "first_open_ms" in self.model_fields_set and self.first_open_ms > self.open_ms:
            raise ValueError("first_open_ms must not be more than open_ms, its ceiling")
        return self

    def policy(self, total_timeout_ms: int) -> BreakerPolicy:
        """The policy these settings describe."""
        values = self.model_dump(exclude={"first_open_ms", "open_ms"})
        return BreakerPolicy(
            **values,
            first_open_s=min(self.first_open_ms, self.open_ms) / 1000,
            open_s=self.open_ms / 1000,
            probe_timeout_s=total_timeout_ms / 1000 + 1.0,
        )


class AdmissionSettings(_Section):
    """What is taken in, and when it runs."""

    max_in_flight: Annotated[int, Field(gt=0, le=100_000)] = 256
    """Queries that run at a time."""
    adaptive_limit: bool = True
    """Let fewer run, down to an eighth of max_in_flight, while latency rises with their number or many time
    out, and a trial showed that as many are answered in time. Never more than max_in_flight."""
    ordering: Literal["unordered", "key"] = "unordered"
    """``key``: queries of equal keys run one after the other, and their results keep that order."""
    shed: ShedMode = ShedMode.ON
    """What becomes of queries that have less time left than an answer takes: ``on`` refuses them, ``observe``
    only counts them."""
    shed_max_share: Annotated[float, Field(gt=0, le=1)] = 0.95
    """The largest share of the queries of two seconds that is refused so, in case the estimate is wrong."""
    max_uncommitted_span: Annotated[int, Field(gt=0)] = 20_000
    """Offsets between a partition's commit position and its newest query; beyond it the partition waits."""
    query_ttl_ms: Annotated[int, Field(ge=0)] = 0
    """How long after its timestamp a query is worth answering; 0 = for ever."""
    max_value_bytes: Annotated[int, Field(gt=0)] = 262144
    """Larger records are dead letters, unparsed."""


class DlqSettings(_Section):
    """When so much is unreadable that a partition is halted, rather than made a heap of dead letters."""

    max_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The largest share of a partition's last records that may be unreadable; 0 = any."""
    max_consecutive: Annotated[int, Field(ge=0)] = 1000
    """How many unreadable records of a partition may follow each other; 0 = any number."""
    window: Annotated[int, Field(gt=0, le=1_000_000)] = 1000
    """How many records max_ratio is taken of."""
    pause_ms: Annotated[int, Field(ge=0)] = 60_000
    """How long a halted partition waits before it is tried again; each time in a row twice as long, up to
    16 times. 0 = until the service is started again."""

    def policy(self) -> HaltPolicy:
        """The policy these settings describe."""
        values = self.model_dump(exclude={"pause_ms"})
        return HaltPolicy(**values, pause_s=self.pause_ms / 1000)


class ExecutorSettings(_Section):
    """Where user code runs."""

    kind: Literal["thread", "process"] = "thread"
    """``thread``: an event loop in a thread of the service; ``process``: worker processes, for code that
    computes or must be killed."""
    workers: Annotated[int, Field(gt=0, le=256)] = 1
    """Worker processes, with ``kind`` process."""
    threads: Annotated[int, Field(gt=0, le=1000)] = 16
    """Blocking calls (``def`` stages and nodes, ``asyncio.to_thread``) that may run at once in each process;
    not counting those that run on after their end. A ``def`` stage for which no thread is free waits without
    a slot, and starts, with all of its limit and its query's time, when a thread takes its call."""
    stall_ms: Annotated[int, Field(ge=10)] = 30
    """How long a stage may keep its event loop from turning before the loop gets no new queries."""
    max_abandoned: Annotated[int, Field(ge=0)] = 64
    """Calls that may run on for 10 s after their end; with more the service exits, to be started again.
    Before that, a node with a quarter of ``threads`` calls that run on for 1 s, or that compute on, gets no
    more until one returns."""
    start_timeout_ms: PositiveMs = 60_000
    """How long the app's resources may take to open; one that fails is tried again until then."""
    spares: Annotated[int, Field(ge=0, le=16)] = 1
    """Event loops, or worker processes, kept ready to take over from one that is blocked, with their
    resources open."""

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
        """How many calls of a node may be overdue before it gets no more."""
        return max(1, self.threads // 4)


class AdminSettings(_Section):
    """The HTTP endpoints."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes any free port; the ``ready`` log line names it."""


class LoggingSettings(_Section):
    """The log."""

    show_text: bool = False
    """Write what nodes raise with its message, which may hold query text."""


class TracingSettings(_Section):
    """OpenTelemetry. The SDK's own OTEL_* variables work beside these."""

    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the queries without a sampling decision that are recorded (OTEL_TRACES_SAMPLER wins)."""


class ShutdownSettings(_Section):
    """How long ending may take."""

    drain_timeout_ms: PositiveMs = 5000
    """For queries in flight and their events."""
    total_timeout_ms: PositiveMs = 15000
    """For everything; then the process ends regardless."""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FIVESTAGE_",
        env_nested_delimiter="__",
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    topics: TopicSettings = Field(default_factory=TopicSettings)
    lane: LaneName = "prod"
    """The lane of queries that name none."""
    lanes: dict[LaneName, Share] = Field(default_factory=dict)
    """The lanes accepted, and their shares of what may run, relative to each other: a lane gets its share
    when others want more than theirs, and more while they do not. Empty = all lanes, with equal shares."""
    pipeline: PipelineSettings = Field(default_factory=PipelineSettings)
    adaptive: AdaptiveSettings = Field(default_factory=AdaptiveSettings)
    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    dlq: DlqSettings = Field(default_factory=DlqSettings)
    executor: ExecutorSettings = Field(default_factory=ExecutorSettings)
    admin: AdminSettings = Field(default_factory=AdminSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings)

    @field_validator("lanes", mode="before")
    @classmethod
    def _equal_shares(cls, given: Any) -> Any:
        """A list of names gives each lane the same share."""
        return dict.fromkeys(given, 1.0) if isinstance(given, list | tuple | set | frozenset) else given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lanes and self.lane not in self.lanes:
            raise ValueError(f"lane: queries that name no lane would be refused, add {self.lane!r} to lanes")
        if names := invalid_names(self.topics.all):
            raise ValueError(
                f"topics: {names[0]!r} is no topic's name: Kafka takes 1 to 249 of A-Z a-z 0-9 . _ -"
            )
        return self

    @classmethod
    def load(cls, config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings.

        Args:
            config: A TOML file with the sections of this class.
            overrides: Nested values that win over everything, as the command line gives them.

        Raises:
            ConfigurationError: a value is wrong; the text names the key, not the value.
        """
        from_file = read_toml(config) if config else {}

        class _WithFile(cls):  # type: ignore[misc, valid-type] # mypy does not follow a variable base class
            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                """Command line, environment, file: the first to name a key wins."""
                file_source = InitSettingsSource(settings_cls, init_kwargs=from_file)
                return sources["init_settings"], sources["env_settings"], file_source

        try:
            return _WithFile(**(overrides or {}))
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from None
        except SettingsError as error:  # names the field and the source, not the value
            example = 'the environment takes JSON for lists and tables, such as ["prod", "canary"]'
            raise ConfigurationError(f"{error}: {example}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a configuration file.

    Raises:
        ConfigurationError: it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def _explain(error: ValidationError) -> str:
    findings = []
    for finding in error.errors(include_input=False, include_url=False, include_context=False):
        key = ".".join(str(part) for part in finding["loc"])
        hint = "no such setting" if finding["type"] == "extra_forbidden" else finding["msg"]
        findings.append(f"{key}: {hint.removeprefix('Value error, ')}")
    return "; ".join(findings) + ' ("fivestage config show" lists all settings)'


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host stays on this one, as far as its name tells."""
    if host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
