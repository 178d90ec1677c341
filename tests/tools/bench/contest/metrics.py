"""The metrics of each contestant, with prometheus-client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram, start_http_server

if TYPE_CHECKING:
    from fivestage_schemas import PipelineResult


class Metrics:
    """A counter and a histogram for queries, and the same for stages, served for Prometheus."""

    def __init__(self) -> None:
        labels, stage_labels = ["lane", "status"], ["lane", "stage", "outcome"]
        self._total = Counter("bench_pipeline", "Queries answered", labels)
        self._seconds = Histogram("bench_pipeline_seconds", "What a query took", labels)
        self._stage_total = Counter("bench_stage", "Stages run", stage_labels)
        self._stage_seconds = Histogram("bench_stage_seconds", "What a stage took", stage_labels)
        start_http_server(0, addr="127.0.0.1")

    def observe(self, result: PipelineResult) -> None:
        """Count one query."""
        self._total.labels(result.lane, result.status).inc()
        self._seconds.labels(result.lane, result.status).observe(result.metrics.total_duration_ms / 1000)
        for stage in result.stages:
            self._stage_total.labels(stage.lane, stage.stage_type, stage.outcome).inc()
            seconds = stage.duration_ms / 1000
            self._stage_seconds.labels(stage.lane, stage.stage_type, stage.outcome).observe(seconds)
