"""The metrics of queries, stages and nodes.

The names ``lukhas_matriz_async_*`` are kept from the system before this one; the ``messaging_*`` names
are OpenTelemetry's, spelled as Prometheus spells them.
"""

from __future__ import annotations

from typing import Final

from fivestage.observability.metric_table.spec import (
    BUCKETS_S,
    CONSUMER_LABELS,
    NODE_BUCKETS_S,
    QUEUE_BUCKETS_S,
    MetricSpec,
)

PIPELINE: Final = MetricSpec(
    "Queries",
    "counter",
    "lukhas_matriz_async_pipeline_total",
    ("lane", "status", "within_budget"),
    "queries",
    "Queries ended.",
    'Always: an answer in time has `status="success"` and `within_budget="true"`; all others use up the '
    "error budget.",
)
PIPELINE_DURATION: Final = MetricSpec(
    "Queries",
    "histogram",
    "lukhas_matriz_async_pipeline_duration_seconds",
    ("lane", "status", "within_budget"),
    "seconds",
    "Time from the start of the first stage to the end of the query.",
    "Its 95th percentile near `fivestage_budget_seconds`: a small delay more makes answers late.",
    BUCKETS_S,
)
BUDGET: Final = MetricSpec(
    "Queries",
    "gauge",
    "fivestage_budget_seconds",
    (),
    "seconds",
    "Time limit of a query (pipeline.total_timeout_ms); its own budget or deadline may be shorter.",
    "As the ruler beside durations.",
)
PROCESS_DURATION: Final = MetricSpec(
    "Queries",
    "histogram",
    "messaging_process_duration_seconds",
    (*CONSUMER_LABELS, "messaging_operation_name", "error_type"),
    "seconds",
    "Time to process one record.",
    "Which `error_type` the failing queries have; it is empty for those that succeed.",
    BUCKETS_S,
)
QUEUE_AGE: Final = MetricSpec(
    "Queries",
    "histogram",
    "fivestage_queue_age_seconds",
    ("lane",),
    "seconds",
    "Age of a query when it was started or rejected, by its record's timestamp.",
    "Rises while queries arrive faster than they are answered.",
    QUEUE_BUCKETS_S,
)
EXPIRED: Final = MetricSpec(
    "Queries",
    "counter",
    "fivestage_expired_total",
    ("lane", "reason"),
    "queries",
    "Queries not started because they would be late.",
    "Rises under overload and after an outage; `would_expire` is the load shedding.",
)
SHED: Final = MetricSpec(
    "Queries",
    "counter",
    "fivestage_shed_total",
    ("lane", "action"),
    "queries",
    "Queries with less time left than an answer takes: rejected, or only counted.",
    'What `admission.shed` would reject, with `action="observed"`, before it is turned on.',
)
LATE_RESULTS: Final = MetricSpec(
    "Queries",
    "counter",
    "fivestage_late_results_total",
    (),
    "queries",
    "Results dropped because their query had ended.",
    "Work done for nothing: nodes that answer just after the deadline.",
)
CLOCK_SKEW: Final = MetricSpec(
    "Queries",
    "counter",
    "fivestage_clock_skew_total",
    (),
    "records",
    "Records with a timestamp in the future.",
    "A clock is wrong, here or at a producer: ages of queries are too small.",
)

STAGE: Final = MetricSpec(
    "Stages",
    "counter",
    "lukhas_matriz_async_stage_total",
    ("lane", "stage", "outcome"),
    "stages",
    "Stages ended, skipped ones included.",
    "Which stage fails or times out.",
)
STAGE_DURATION: Final = MetricSpec(
    "Stages",
    "histogram",
    "lukhas_matriz_async_stage_duration_seconds",
    ("lane", "stage", "outcome"),
    "seconds",
    "Time a stage ran.",
    "Which stage takes the time.",
    BUCKETS_S,
)
STAGE_LIMIT: Final = MetricSpec(
    "Stages",
    "gauge",
    "fivestage_stage_limit_seconds",
    ("lane", "stage"),
    "seconds",
    "The limit of a stage; learned.",
    "Whether a stage is ended by its limit, or by its node.",
)

NODE_CALLS: Final = MetricSpec(
    "Nodes",
    "counter",
    "fivestage_node_calls_total",
    ("lane", "node", "outcome"),
    "calls",
    "Calls of a node, those that another node followed included.",
    "Which node fails, also where another one then answers. `excused`: it raised to say that the query has "
    "no answer, which is no failure. `overtaken`: it was given up, as the call beside it had answered.",
)
NODE_DURATION: Final = MetricSpec(
    "Nodes",
    "histogram",
    "fivestage_node_call_duration_seconds",
    ("lane", "node"),
    "seconds",
    "Time a call of a node took.",
    "Which node is slow.",
    NODE_BUCKETS_S,
)
NODE_HEALTH: Final = MetricSpec(
    "Nodes",
    "gauge",
    "fivestage_node_health",
    ("lane", "node"),
    "1",
    "Health of a node, 0 to 1.",
    "Where nodes can replace each other: the healthier one is called.",
)
BREAKER_STATE: Final = MetricSpec(
    "Nodes",
    "gauge",
    "fivestage_breaker_state",
    ("lane", "node"),
    "1",
    "Breaker of a node: 0 closed, 1 half open, 2 open.",
    "Above 0: the node is not called, apart from trials.",
)
BREAKER_TRANSITIONS: Final = MetricSpec(
    "Nodes",
    "counter",
    "fivestage_breaker_transitions_total",
    ("lane", "node", "state"),
    "changes",
    "Breakers that opened, half-opened or closed.",
    "A node that fails and recovers again and again.",
)
FAILOVERS: Final = MetricSpec(
    "Nodes",
    "counter",
    "fivestage_failovers_total",
    ("lane",),
    "calls",
    "Nodes called after another failed.",
    "Failures that queries did not notice: they cost time and a second call.",
)
RETRIES: Final = MetricSpec(
    "Nodes",
    "counter",
    "fivestage_retries_total",
    ("lane",),
    "calls",
    "Nodes called again after they failed (`retries`).",
    "Failures that queries did not notice; near a fifth of the calls, the node itself is failing.",
)
HEDGES: Final = MetricSpec(
    "Nodes",
    "counter",
    "fivestage_hedges_total",
    ("lane", "outcome"),
    "calls",
    "Nodes called beside another that was slow (`hedge.max_extra_load`).",
    "`success`: slow calls that queries did not notice. `skipped`: the slow node answered first; if that is "
    "most of them, a lower `hedge.max_extra_load` costs fewer calls.",
)
