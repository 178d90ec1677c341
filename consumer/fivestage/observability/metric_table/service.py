"""The metrics of the service and its parts: load, Kafka, executor, process."""

from __future__ import annotations

from typing import Final

from fivestage.observability.metric_table.spec import BUCKETS_S, CONSUMER_LABELS, MetricSpec

_PARTITION: Final = ("topic", "partition")
_SYSTEM, _TOPIC = "messaging_system", "messaging_destination_name"

IN_FLIGHT: Final = MetricSpec(
    "Load",
    "gauge",
    "fivestage_in_flight",
    (),
    "queries",
    "Queries that run.",
    "At `fivestage_concurrency_limit`: no more are started.",
)
CONCURRENCY_LIMIT: Final = MetricSpec(
    "Load",
    "gauge",
    "fivestage_concurrency_limit",
    (),
    "queries",
    "How many may run; learned.",
    "Falls while more queries at once only make each slower.",
)
WAITING: Final = MetricSpec(
    "Load",
    "gauge",
    "fivestage_waiting",
    (),
    "records",
    "Records taken in that wait for a slot or thread.",
    "Above 0 for long: there is more work than capacity.",
)
UNFINISHED: Final = MetricSpec(
    "Load",
    "gauge",
    "fivestage_unfinished",
    (),
    "records",
    "Records taken in and not acknowledged yet.",
    "High while `fivestage_in_flight` is low: brokers acknowledge slowly.",
)
CONTROL_CHANGES: Final = MetricSpec(
    "Load",
    "counter",
    "fivestage_control_changes_total",
    ("control", "change"),
    "changes",
    "Changes of adaptive controls: breakers, limits, the choice of nodes.",
    "Many a minute: a control does not settle.",
)

CONSUMED: Final = MetricSpec(
    "Records",
    "counter",
    "messaging_client_consumed_messages_total",
    CONSUMER_LABELS,
    "records",
    "Records received.",
    "The load as it arrives.",
)
SENT: Final = MetricSpec(
    "Records",
    "counter",
    "messaging_client_sent_messages_total",
    (_SYSTEM, _TOPIC),
    "records",
    "Records acknowledged by the broker.",
    "Stands still: nothing is answered.",
)
DEAD_LETTERS: Final = MetricSpec(
    "Records",
    "counter",
    "fivestage_dead_letters_total",
    ("reason",),
    "records",
    "Unreadable records.",
    "A producer writes what cannot be read.",
)
SKIPPED: Final = MetricSpec(
    "Records",
    "counter",
    "fivestage_skipped_records_total",
    (),
    "records",
    "Records deleted before they were read.",
    "Queries were lost: the topic's retention is shorter than the lag.",
)
REFUSED_EVENTS: Final = MetricSpec(
    "Records",
    "counter",
    "fivestage_refused_events_total",
    ("error_type",),
    "events",
    "Events published without their data because the broker rejected them.",
    "Answers are too large for the topic, or the broker rejects them for another reason.",
)

LAG: Final = MetricSpec(
    "Kafka",
    "gauge",
    "fivestage_lag",
    _PARTITION,
    "records",
    "Records not handed over yet.",
    "Grows while queries arrive faster than they are taken in.",
)
UNCOMMITTED: Final = MetricSpec(
    "Kafka",
    "gauge",
    "fivestage_uncommitted_span",
    _PARTITION,
    "offsets",
    "Offsets between the commit position and the newest record.",
    "As many records are read again after a crash.",
)
HALTED: Final = MetricSpec(
    "Kafka",
    "gauge",
    "fivestage_partition_halted",
    _PARTITION,
    "1",
    "1 for a partition that is halted because too much of it cannot be read.",
    "At 1 the partition is not consumed.",
)
REBALANCES: Final = MetricSpec(
    "Kafka",
    "counter",
    "fivestage_rebalances_total",
    (),
    "rebalances",
    "Assignments of partitions.",
    "Rises without a deployment: members leave, or are slow to answer the group.",
)
POSITION_RESETS: Final = MetricSpec(
    "Kafka",
    "counter",
    "fivestage_position_resets_total",
    ("reason",),
    "partitions",
    "Partitions read from where `kafka.auto_offset_reset` says: no committed offset, or one out of range.",
    "Rises on a group that has committed before: queries are repeated, or were lost.",
)
COMMIT_FAILURES: Final = MetricSpec(
    "Kafka",
    "counter",
    "fivestage_commit_failures_total",
    ("error_type",),
    "commits",
    "Failed commits.",
    "Rises steadily: a restart would read these records again.",
)
CLIENT_REBUILDS: Final = MetricSpec(
    "Kafka",
    "counter",
    "fivestage_client_rebuilds_total",
    ("client", "reason"),
    "clients",
    "Kafka clients rebuilt because they could not recover.",
    "Explains a pause; again and again it ends the service.",
)
THROTTLED: Final = MetricSpec(
    "Kafka",
    "counter",
    "fivestage_throttled_seconds_total",
    ("client",),
    "seconds",
    "Time a client waited for quotas of the brokers.",
    "A quota limits the throughput, not this service.",
)
OPERATION_DURATION: Final = MetricSpec(
    "Kafka",
    "histogram",
    "messaging_client_operation_duration_seconds",
    (_SYSTEM, "messaging_operation_name", _TOPIC),
    "seconds",
    "Duration of one client operation: sending a batch, or a commit.",
    "How long brokers take to acknowledge.",
    BUCKETS_S,
)

ABANDONED: Final = MetricSpec(
    "Executor",
    "gauge",
    "fivestage_abandoned_tasks",
    (),
    "calls",
    "Stages that run on after their end.",
    "Each holds a thread; beyond `executor.max_abandoned` the service ends.",
)
BLOCKED_LOOPS: Final = MetricSpec(
    "Executor",
    "counter",
    "fivestage_blocked_event_loops_total",
    ("node",),
    "blocks",
    "Event loops that were blocked, by the node or stage that blocked them.",
    "Code of that node blocks or computes where it must await. Without a node it is other code, or no CPU.",
)
REPLACED: Final = MetricSpec(
    "Executor",
    "counter",
    "fivestage_replaced_executors_total",
    ("reason",),
    "workers",
    "Event loops and processes that were replaced.",
    "Code of nodes blocks for long, or ends its worker process.",
)
LOOP_LAG: Final = MetricSpec(
    "Executor",
    "gauge",
    "fivestage_event_loop_lag_seconds",
    ("loop",),
    "seconds",
    "How late a loop came to its last check.",
    "`bus` above a few milliseconds: the machine has too little CPU for this load.",
)

READY: Final = MetricSpec(
    "Process",
    "gauge",
    "fivestage_ready",
    (),
    "1",
    "1 while queries are consumed and can be answered, as /readyz says.",
    "At 0 all of its partitions wait, or one is halted; `/readyz` has the reason.",
)
BUILD_INFO: Final = MetricSpec(
    "Process",
    "gauge",
    "fivestage_build_info",
    ("version",),
    "1",
    "The running version.",
    "Whether a deployment is complete.",
)
