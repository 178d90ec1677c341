"""Settings of the connection to Kafka and of the topics."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from fivestage.core.records import Output
from fivestage.core.settings import PositiveInt, PositiveMs, Section
from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

PositiveBytes = Annotated[int, Field(gt=0, le=100 * 1024 * 1024)]
"""A number of bytes, at most the brokers' default of ``socket.request.max.bytes``."""

AROUND_DRAIN_MS: Final = 8000
"""Milliseconds of a rebalance in which it does not wait for queries: for a commit that hangs, the last commit
of the partitions, and to join again (``service.drain``)."""
_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


class KafkaSettings(Section):
    """The connection to Kafka: addresses, credentials, timeouts and sizes."""

    bootstrap_servers: str = "localhost:9092"
    """``host:port``, several separated by commas."""
    group_id: str = Field("fivestage", min_length=1)
    group_instance_id: str | None = None
    """A name that stays the same across restarts makes this a static member of the group: a restart within
    session_timeout_ms causes no rebalance."""
    client_id: str = "fivestage"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    allow_plaintext: bool = False
    """Allow PLAINTEXT and SASL_PLAINTEXT to hosts other than this one."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_token_url: str | None = None
    """Where OAUTHBEARER gets its token. ``https://...``: from this issuer, by the OAuth grant
    ``client_credentials`` with sasl_username and sasl_password. ``file:///...``: from this file, which
    another process must keep up to date."""
    sasl_token_scope: str | None = None
    """The scope to request from the issuer."""
    ssl_cafile: Path | None = None
    """Certificate authorities to trust; the system's when absent."""
    ssl_certfile: Path | None = None
    """This client's certificate, if the brokers require one."""
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr | None = None
    client_rack: Annotated[str, Field(min_length=1)] | None = None
    """The rack this client runs in, as named in the brokers' ``broker.rack``. Brokers with a rack-aware
    ``replica.selector.class`` then let it read from a replica in the same rack."""
    auto_offset_reset: Literal["earliest", "latest", "error"] = "earliest"
    """Where to read from in a partition without a committed offset, or whose committed offset is no longer in
    the log. ``error``: the service exits with code 2 instead."""
    session_timeout_ms: PositiveMs = 6000
    """How long after a member was killed its partitions go to another one. The brokers limit it:
    ``group.min.session.timeout.ms`` (6000 by default) and ``group.max.session.timeout.ms``."""
    heartbeat_interval_ms: PositiveMs = 300
    """How often a member asks the group coordinator whether a rebalance is under way. Each join and leave is
    delayed by up to this time."""
    rebalance_timeout_ms: Annotated[int, Field(ge=9000)] = 10000
    """At least 9000, and 8000 more than a query may take: queries in flight are finished and committed while
    the rebalance waits."""
    request_timeout_ms: PositiveMs = 15000
    fetch_max_wait_ms: PositiveMs = 100
    """How long a broker may hold back a fetch that has nothing to bring; up to 500, five times as long two
    seconds after the last record."""
    fetch_linger_ms: Annotated[int, Field(ge=0, le=100)] = 8
    """How long a broker may hold back records for up to three to be there, at rates at which more than one
    comes meanwhile. 0: it answers with the first. At most ``fetch_max_wait_ms`` counts."""
    fetch_max_bytes: PositiveBytes = 8_388_608
    """Approximate maximum size of one fetch from one broker, all its partitions together."""
    max_partition_fetch_bytes: PositiveInt = 262144
    max_batch_bytes: Annotated[int, Field(ge=1_048_576, le=1_073_741_824)] = 8_388_608
    """Maximum decompressed size of a record batch of the input topics; the records of a larger batch become
    dead letters."""
    max_record_bytes: PositiveInt = 1_048_000
    """Maximum size of a published record; at most the output topics' ``max.message.bytes``. A dead letter may
    be as large as its topic accepts."""
    publish_batch_bytes: PositiveBytes = 65_536
    """Events are added to a batch until it has this size; a larger event gets a batch to itself."""
    publish_request_bytes: PositiveBytes = 1_048_576
    """Batches of several partitions are added to a request until it has this size; less than the brokers'
    ``socket.request.max.bytes``."""
    compression: Literal["none", "lz4", "zstd", "gzip", "snappy"] = "none"
    """How published batches are compressed."""
    commit_interval_ms: PositiveMs = 500
    publish_timeout_ms: PositiveMs = 120_000
    """How long an event may stay unacknowledged before the service exits. No query is lost: uncommitted ones
    are read again."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.request_timeout_ms < self.rebalance_timeout_ms + 3000:
            raise ValueError(
                "request_timeout_ms must be at least rebalance_timeout_ms + 3000: a request to join the "
                "group is answered only after the rebalance"
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
        is_unencrypted = url.scheme == "http" and not (
            self.allow_plaintext or is_loopback(url.hostname or "")
        )
        if url.scheme not in {"http", "https", "file"} or url.username is not None or is_unencrypted:
            raise ValueError("sasl_token_url is needed for OAUTHBEARER: https://... or file:///...")

    @property
    def needs_password(self) -> bool:
        """Whether a user name and a password are needed, for the brokers or for the issuer of tokens."""
        has_token_file = self.sasl_mechanism == "OAUTHBEARER" and (self.sasl_token_url or "").startswith(
            "file:"
        )
        return self.sasl_mechanism is not None and not has_token_file

    @property
    def is_local(self) -> bool:
        """Whether every bootstrap server is on this host."""
        return all(is_loopback(_host_of(server.strip())) for server in self.bootstrap_servers.split(","))


class TopicSettings(Section):
    """The names of the topics."""

    queries: str = "fivestage.queries"
    """The input topics: one name, several names (a list, or separated by commas), or a pattern.
    ``^orders\\.`` matches all topics whose names start with ``orders.``, including topics that are created
    later."""
    stage_results: str = "fivestage.stage-results"
    results: str = "fivestage.results"
    timeouts: str = "fivestage.timeouts"
    dead_letters: str = "fivestage.dead-letters"
    create: bool = False
    """Create missing topics at start; meant for development."""

    @field_validator("queries", mode="before")
    @classmethod
    def _joined(cls, given: Any) -> Any:
        if isinstance(given, str) and given.lstrip().startswith("["):  # a list in a variable is JSON
            with contextlib.suppress(ValueError):
                given = json.loads(given)
        return ",".join(given) if _is_list_of_names(given) else given

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
                f"a loop: {', '.join(map(repr, loops))} would be written and read as queries again: give "
                "the output topics other names"
            )
        return self

    @property
    def pattern(self) -> str | None:
        """The regular expression that input topics match; None if ``queries`` holds names."""
        return self.queries if self.queries.startswith("^") else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the input topics; empty with a pattern."""
        names = [] if self.pattern else [name.strip() for name in self.queries.split(",")]
        return tuple(dict.fromkeys(name for name in names if name))

    def is_input(self, name: str) -> bool:
        """Whether queries are read from the topic of this name."""
        return name in self.inputs if self.pattern is None else re.match(self.pattern, name) is not None

    def only_input(self, advice: str = "as in FIVESTAGE_TOPICS__QUERIES=fivestage.queries") -> str:
        """Return the input topic, for commands that write to it; *advice* is how to name one of several.

        Raises:
            ConfigurationError: ``queries`` is a pattern or holds several names.
        """
        if len(self.inputs) != 1:
            raise ConfigurationError(
                f"topics.queries = {self.queries!r} may be several topics: choose the one to write to, "
                f"{advice}"
            )
        return self.inputs[0]

    @property
    def outputs(self) -> dict[Output, str]:
        """The names of the output topics."""
        return {output: getattr(self, output.value) for output in Output}

    @property
    def all(self) -> tuple[str, ...]:
        """All known names: the input topics, unless they are a pattern, and the output topics."""
        return (*self.inputs, *self.outputs.values())


def _host_of(server: str) -> str:
    """The host in ``host:port``, also where the port is missing."""
    host, _, port = server.rpartition(":")
    return (host if port.isdigit() else server).strip("[]")


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this host; other names are not resolved."""
    if host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def invalid_names(names: Iterable[str]) -> list[str]:
    """Return the names that no broker accepts for a topic."""
    return [name for name in names if not _TOPIC_NAME.fullmatch(name) or name in {".", ".."}]
