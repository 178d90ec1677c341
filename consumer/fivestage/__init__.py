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
    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.orchestrator import Orchestrator, run_with_timeout
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.resource import Resource

__all__ = [
    "AccessError",
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
    "Pipeline",
    "Plan",
    "PublishError",
    "Query",
    "Resource",
    "ResourceError",
    "StageContext",
    "Unanswerable",
    "run_with_timeout",
]

_PLACES = {
    "Orchestrator": "pipeline.orchestrator",
    "Pipeline": "pipeline.pipeline",
    "Plan": "core.plan",
    "Query": "pipeline.context",
    "Resource": "pipeline.resource",
    "StageContext": "pipeline.context",
    "run_with_timeout": "pipeline.orchestrator",
}
"""The modules of the other names."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
