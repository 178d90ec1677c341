"""The trivial app with a node that computes: for worker processes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fivestage import Pipeline, Query, StageContext

STEPS = 500_000
"""About 20 ms: much more than all that broker and service do for a query, who share the cores with it."""

app: Pipeline = import_module("trivial_app").app  # `fivestage run` looks for modules in this folder


@app.node("echo")
async def compute(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Add up."""
    total = 0
    for number in range(STEPS):
        total += number
    return {"answer": total, "confidence": 1.0}
