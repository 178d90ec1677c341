"""Runs each query from Kafka through five stages within a hard deadline, and publishes one answer.

>>> from fivestage import Orchestrator, Pipeline
>>> app = Pipeline()
>>> result = await Orchestrator(app).process_query("What is 15 + 7?")  # doctest: +SKIP

Invariant: the names of ``_PLACES`` are imported when they are first used, since every command imports this
package, and should be quick.
"""

import importlib
import typing

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

if typing.TYPE_CHECKING:
    from fivestage.core.plan import Plan
    from fivestage.pipeline.batch import BatchContext, BatchItem
    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.orchestrator import Orchestrator, run_with_timeout
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.resource import Resource
    from fivestage.settings import Settings
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
    "Settings",
    "StageContext",
    "StageResult",
    "StageType",
    "Unanswerable",
    "run_with_timeout",
]

_PLACES = {
    "BatchContext": "fivestage.pipeline.batch",
    "BatchItem": "fivestage.pipeline.batch",
    "Orchestrator": "fivestage.pipeline.orchestrator",
    "Outcome": "fivestage_schemas",
    "Pipeline": "fivestage.pipeline.pipeline",
    "PipelineResult": "fivestage_schemas",
    "PipelineStatus": "fivestage_schemas",
    "Plan": "fivestage.core.plan",
    "Query": "fivestage.pipeline.context",
    "Resource": "fivestage.pipeline.resource",
    "Settings": "fivestage.settings",
    "StageContext": "fivestage.pipeline.context",
    "StageResult": "fivestage_schemas",
    "StageType": "fivestage_schemas",
    "run_with_timeout": "fivestage.pipeline.orchestrator",
}
"""The modules of the other names."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
