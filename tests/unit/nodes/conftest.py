"""Fixtures of the tests of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fivestage.pipeline.context import Query, StageContext
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def ask() -> Callable[[str], Query]:
    """Return a builder of queries from a text."""
    return lambda text: Query("q-1", text)


@pytest.fixture
def context() -> Callable[..., StageContext]:
    """Return a builder of contexts from fields of StageContext; ``intent`` and ``result`` fill results."""

    def make(*, intent: Any = None, result: Any = None, **fields: Any) -> StageContext:
        fields = {"stage_type": StageType.VALIDATION, **fields}
        ctx = StageContext("prod", 10.0, lambda: 0.0, **fields)
        if intent is not None:
            ctx.results[StageType.INTENT] = intent
        if result is not None:
            ctx.results[StageType.PROCESSING] = result
        return ctx

    return make
