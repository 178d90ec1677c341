"""Runs each query from Kafka through five stages within a hard deadline, and publishes one answer.

>>> from fivestage import Orchestrator, Pipeline
>>> app = Pipeline()
>>> result = await Orchestrator(app).process_query("What is 15 + 7?")  # doctest: +SKIP
"""

from fivestage.core.plan import Plan
from fivestage.errors import (
    AccessError,
    BrokerError,
    ConfigurationError,
    DrainTimeoutError,
    ExecutorError,
    FencedError,
    FivestageError,
    InvalidAppError,
    NodeError,
    NoNodeError,
    PublishError,
    ResourceError,
    Unanswerable,
)
from fivestage.pipeline.batch import BatchContext, BatchItem
from fivestage.pipeline.context import Query, StageContext
from fivestage.pipeline.orchestrator import Orchestrator, run_with_timeout
from fivestage.pipeline.pipeline import Pipeline
from fivestage.pipeline.resource import Resource
from fivestage_schemas import Outcome, PipelineResult, PipelineStatus, StageResult, StageType

__all__ = [
    "AccessError",
    "BatchContext",
    "BatchItem",
    "BrokerError",
    "ConfigurationError",
    "DrainTimeoutError",
    "ExecutorError",
    "FencedError",
    "FivestageError",
    "InvalidAppError",
    "NoNodeError",
    "NodeError",
    "Orchestrator",
    "Outcome",
    "Pipeline",
    "PipelineResult",
    "PipelineStatus",
    "Plan",
    "PublishError",
    "Query",
    "Resource",
    "ResourceError",
    "StageContext",
    "StageResult",
    "StageType",
    "Unanswerable",
    "run_with_timeout",
]
