"""Names the call that code belongs to: its query, stage and node, for log lines and abandoned calls."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.context import Query, StageContext


class RunningCall(NamedTuple):
    """A call of a stage's code."""

    query_id: str
    lane: str
    stage: str
    node: str | None
    """Only in processing."""

    @property
    def name(self) -> str:
        """The node in processing, else the stage."""
        return self.node or self.stage


_current: Final[contextvars.ContextVar[Callable[[], RunningCall]]] = contextvars.ContextVar("fivestage_call")
"""Set once for each query: a call is only named when something asks."""


def name_calls(query: Query, ctx: StageContext) -> None:
    """From now on calls in this context are of *query*, in the stage that *ctx* is in.

    Tasks that they start get a copy of the context, and so do threads of the pool. A task that outlives its
    stage is named after the query's present one.
    """
    _current.set(lambda: _call_of(query, ctx))


def running_call() -> RunningCall | None:
    """The call that runs in this context; None outside of calls."""
    current = _current.get(None)
    return None if current is None else current()


def context_of(call: RunningCall | None) -> contextvars.Context:
    """A copy of this context for a thread, in which *call* is the running one even after its stage."""
    context = contextvars.copy_context()
    if call is not None:
        context.run(_current.set, lambda: call)
    return context


def _call_of(query: Query, ctx: StageContext) -> RunningCall:
    node = ctx.node if ctx.stage_type == "processing" else None
    return RunningCall(query.query_id, query.lane, str(ctx.stage_type), node)
