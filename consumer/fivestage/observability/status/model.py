"""The document that ``/api/status`` returns: one service as an operator sees it.

Times are ISO 8601 in UTC. Durations end in ``_ms`` or ``_s``, rates are per second, shares from 0 to 1.
None means that there is nothing to tell yet, such as a percentile of no queries. Readers must ignore unknown
keys: keys are added, never removed.
"""

from __future__ import annotations

from typing import Literal, TypedDict

State = Literal["starting", "ready", "unready", "draining"]
Trend = Literal["falling", "steady", "rising"]
Breaker = Literal["closed", "half_open", "open"]


class ServiceInfo(TypedDict):
    """Which process this is, and whether it serves."""

    version: str
    compiled: bool
    state: State
    reason: str
    """Why it is not ready; the text of ``/readyz``."""
    live: bool
    group: str
    topic: str
    """The input topic."""
    uptime_s: float
    executor: str
    workers: int


class Window(TypedDict):
    """How many queries ended in time within the last *window_s*."""

    window_s: float
    ended: int
    in_time: float | None
    """Share of ended queries with a terminal event within their budget; expired and failed ones are not."""
    burn_rate: float | None
    """Share not in time, divided by the share that the objective allows."""


class Rates(TypedDict):
    """Per second, over the last minute."""

    answered: float
    timeouts: float
    errors: float
    expired: float
    rejected: float
    dead_letters: float


class Percentiles(TypedDict):
    """Of durations, over the last five minutes."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Series(TypedDict):
    """Points of equal intervals, the oldest first; only intervals that are over have one."""

    interval_s: float
    started_at: str
    """The begin of the first point."""
    ended: list[int]
    in_time: list[float | None]
    p50_ms: list[float | None]
    p95_ms: list[float | None]
    running: list[int]
    lag: list[int]


class Stage(TypedDict):
    """One of the five stages, over the last five minutes."""

    stage: str
    critical: bool
    limit_ms: float
    """The limit in the settings."""
    learned_ms: float
    """The limit now in force."""
    ended: int
    p50_ms: float | None
    p95_ms: float | None
    time_share: float | None
    """Share of the time of all stages together; None if there were no calls."""
    outcomes: dict[str, float]
    """Share of each outcome: success, timeout, error, skipped."""


class Between(TypedDict):
    """The time of a query in which no stage ran, over the last five minutes.

    It waited for an event loop, such as one that a node blocks, or for a worker process.
    """

    p50_ms: float | None
    p95_ms: float | None
    share: float | None
    """Of the durations of all queries together."""


class Failure(TypedDict):
    """The last failure of a node."""

    at: str
    error_type: str
    where: str | None
    """``file:line`` of the author's code."""


class Node(TypedDict):
    """A node in one lane, over the last five minutes."""

    node: str
    lane: str
    calls_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    failed: float | None
    """Share of its calls."""
    failing_since: str | None
    """Since when more than a quarter of its calls fail, whatever its breaker does; None if they do not."""
    health: float
    breaker: Breaker
    breaker_since: str | None
    """Since when the breaker has not been closed, whatever probes it has let through; None if it is."""
    retry_in_s: float | None
    """When an open breaker lets a call through again."""
    abandoned: int
    """Calls that run on after their end."""
    last_failure: Failure | None
    blocked: int
    """How often its code, in any lane, has blocked an event loop."""
    blocked_at: str | None
    """When it last did."""


class Load(TypedDict):
    """What runs and waits now."""

    running: int
    limit: int
    """Learned."""
    max_in_flight: int
    waiting: int
    oldest_wait_ms: float
    in_flight: int
    """Records taken in and not acknowledged."""
    assigned: int
    """Partitions, also those that are not listed in ``partitions``."""


class Lag(TypedDict):
    """Records that were not taken in yet."""

    records: int
    trend: Trend
    catch_up_s: float | None
    """When the lag will be gone at the present rate; None if it is not falling."""


class Partition(Lag):
    """The lag of an assigned partition."""

    topic: str
    partition: int
    uncommitted: int
    """Offsets between the commit and the newest record taken in."""
    halted: bool


class AbandonedCall(TypedDict):
    """A call that runs on after its end."""

    stage: str
    node: str | None
    for_s: float


class BlockedBy(TypedDict):
    """Code that has blocked event loops within the last five minutes."""

    name: str
    """Of the node or stage; empty for other code."""
    count: int
    at: str
    """When it last did."""
    where: str | None
    """Of the last time: ``file:line function``; None if not known, or if the loop only got no CPU."""


class Workers(TypedDict):
    """The executor."""

    replaced: int
    blocked: int
    """How often an event loop was blocked, since the start."""
    blocked_by: list[BlockedBy]
    """The one that blocks most often first."""
    abandoned: list[AbandonedCall]
    bus_lag_ms: float
    executor_lag_ms: float


class Attempt(TypedDict):
    """A call that was made for a query; times since the query's start."""

    stage: str
    node: str | None
    attempt: int
    kind: str
    """``first``, ``retry`` of the same node, ``failover`` to another, ``hedge`` beside one, ``resumed``
    elsewhere."""
    outcome: str
    start_ms: float | None
    """None if it was not run."""
    waited_ms: float
    """Before the start: for a thread, a slot of the node, or a retry."""
    duration_ms: float
    limit_ms: float
    error_type: str | None


class RecentQuery(TypedDict):
    """A query that was slow, late or failed."""

    at: str
    query_id: str
    lane: str
    status: str
    degraded: bool
    duration_ms: float
    budget_ms: float
    queue_ms: float
    stage: str | None
    """The stage that failed, timed out or took longest."""
    node: str | None
    error_type: str | None
    where: str | None
    """``file:line`` of the author's code that raised."""
    trace_id: str | None
    attempts: list[Attempt]
    why: str
    """The reason in words."""
    text: str | None
    """The user's input; None unless ``admin.show_text``."""


class Event(TypedDict):
    """Something that changed: a log line of the service."""

    at: str
    """When it was last written."""
    times: int
    """How often a line with this text, node, stage and lane was written; the fields are those of the last."""
    level: str
    text: str
    fields: dict[str, object]


class Status(TypedDict):
    """The whole document."""

    schema_version: Literal["1"]
    at: str
    service: ServiceInfo
    objective: float
    """The share of queries that should end in time."""
    budget_ms: float
    windows: list[Window]
    """Five minutes and one hour."""
    rates: Rates
    latency: Percentiles
    series: Series
    stages: list[Stage]
    between: Between
    nodes: list[Node]
    load: Load
    lag: Lag
    partitions: list[Partition]
    workers: Workers
    recent: list[RecentQuery]
    """The newest first."""
    events: list[Event]
    """The newest first."""
