"""What a batch node is called with: its items, and the context of the batch. Checks its declaration."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fivestage.core.deadline import DEADLINE_HEADER
from fivestage.errors import InvalidAppError
from fivestage.pipeline.call_rules import is_count, is_number
from fivestage.pipeline.context import NoResources, NoThreads, OpenResources, Query, Threads, find_open
from fivestage.pipeline.node import Batch, Handler, check_function, is_coroutine_function
from fivestage.pipeline.outbound import Outbound

if TYPE_CHECKING:
    from fivestage.pipeline.resource import Resource

T = TypeVar("T")

PARAMETERS: Final = ("items", "ctx")
"""The names of the arguments of a batch node."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One query of a batch.

    Example:
        >>> item = BatchItem(Query("q-1", "hello"))
        >>> item.query.user_input, item.remaining_ms()
        ('hello', inf)
    """

    query: Query
    """The query."""
    results: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What its earlier stages returned, as ``StageContext.results``."""
    deadline: float = inf
    """When its stage ends (monotonic seconds)."""
    attempt: int = 1
    """See ``StageContext.attempt``."""
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    """Returns the time now, on the clock of ``deadline``."""

    def remaining_ms(self) -> float:
        """Milliseconds left for this item, 0.0 or more; its query does not wait for the batch any longer."""
        return max(0.0, (self.deadline - self.clock()) * 1000)


@dataclass(frozen=True, slots=True)
class BatchContext(Outbound):
    """What the items of a batch share: time, threads and resources. A test makes one: ``BatchContext()``."""

    deadline: float = inf
    """When the stage of its last item ends (monotonic seconds): later there is no use for its answers."""
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    """Returns the time now, on the clock of ``deadline``."""
    node: str = ""
    """The node's name."""
    threads: Threads = field(default_factory=NoThreads, repr=False)
    """Used by ``run_sync``."""
    resources: OpenResources = field(default_factory=NoResources, repr=False)
    """Used by ``use``."""
    deadline_header: str = field(default=DEADLINE_HEADER, repr=False)
    """Used by ``headers``; empty = the deadline is not passed on."""

    def remaining_ms(self) -> float:
        """Milliseconds left for the item that has most time, 0.0 or more."""
        return max(0.0, (self.deadline - self.clock()) * 1000)

    @property
    def settings(self) -> Any:
        """The settings of the node, ``[nodes.NAME]``: an instance of the node's model, or a mapping.

        Raises:
            InvalidAppError: a test made this context, which knows no settings.
        """
        return self.resources.settings_of(self.node)

    async def run_sync(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function in a thread; see ``StageContext.run_sync``.

        Example: ``return await ctx.run_sync(ctx.use(model).encode, texts)``
        """
        return await self.threads.run(function, *args, name=self.node)

    def use(self, resource: Resource[T]) -> T:
        """The value that a resource yielded; see ``StageContext.use``.

        Raises:
            ResourceError: it is no resource, is not open here, or belongs to an event loop and this code runs
                in a thread.
        """
        return find_open(resource, self.resources)


def checked_batch(name: str, max_size: Any, max_wait_ms: Any) -> Batch:
    """Check the arguments of the batch node called *name*.

    Raises:
        InvalidAppError: *max_size* is not a whole number above 0, or *max_wait_ms* not a number from 0.
    """
    if not is_count(max_size, least=1):
        raise InvalidAppError(
            f"batch node {name!r}: max_size must be a whole number of items, 1 or more; got {max_size!r}"
        )
    if not (is_number(max_wait_ms) and max_wait_ms >= 0):
        raise InvalidAppError(
            f"batch node {name!r}: max_wait_ms must be milliseconds, 0 or more; got {max_wait_ms!r}"
        )
    return Batch(max_size, max_wait_ms / 1000)


def batch_handler(name: str, call: Any, batch: Batch) -> Handler:
    """Inspect the function of a batch node once, when it is declared.

    Raises:
        InvalidAppError: it cannot be called with ``(items, ctx)``, is declared like an ordinary node, or
            yields.
    """
    check_function(name, call, PARAMETERS)
    if _first_parameter(call) == "query":
        title = getattr(call, "__name__", type(call).__name__)
        raise InvalidAppError(
            f"batch node {name!r}: {title} takes a query, but gets the items of a batch; declare it as "
            f"{title}(items, ctx), read item.query of each, and return a list with one answer for each"
        )
    batch.is_async = is_coroutine_function(call)
    return Handler.inspect(name, call, batch)


def _first_parameter(call: Any) -> str | None:
    try:
        return next(iter(inspect.signature(call, follow_wrapped=False).parameters), None)
    except (ValueError, TypeError):  # some functions written in C have no signature
        return None
