"""What user code sees: the query, and the stage it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from fivestage.core.routing_snapshot import RoutingSnapshot
from fivestage.errors import ResourceError
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fivestage.pipeline.resource import Resource

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query:
    """A question as stages and nodes get it."""

    query_id: str
    user_input: str = field(repr=False)
    lane: str = "prod"
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The producer's own JSON object; empty when it sent none."""


class Threads(Protocol):
    """What a context needs of the pool of threads."""

    async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
        """Call *function* in a thread; *name* tells whose code it is."""


class NoThreads:
    """Calls functions at once, where they are handed in."""

    async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:  # noqa: ARG002
        """See Threads."""
        return function(*args)


class OpenResources(Protocol):
    """What a context needs of the resources."""

    def find(self, resource: Resource[T]) -> T:
        """What *resource* yielded where this is called; raises ResourceError when it is not open there."""


class NoResources:
    """Has nothing open."""

    def find(self, resource: Resource[T]) -> T:
        """See OpenResources."""
        raise ResourceError(
            f"resource {resource.name!r} is not open: a context made by hand opens none; put the call into "
            f"`with app.override({resource.name}, fake):`"
        )


_NO_RESOURCES: Final = NoResources()


@dataclass(slots=True)
class StageContext:
    """One stage of one query, as the code that runs it sees it.

    A context belongs to its query: it is filled as the stages go by and must not be kept.
    """

    lane: str
    deadline: float
    """When the query ends (monotonic seconds, the clock of the running event loop)."""
    clock: Callable[[], float]
    stage_type: StageType
    threads: Threads = field(default_factory=NoThreads, repr=False)
    """For ``run_sync``; a context made by hand, in a test of a node, has none and calls at once."""
    routing: RoutingSnapshot = field(default_factory=lambda: RoutingSnapshot(()), repr=False)
    """For ``rank_nodes``; in a context made by hand all nodes are well."""
    attempt: int = 1
    """Above 1 where the stage is begun anew: another query blocked its loop, or another node failed."""
    stage_deadline: float = 0.0
    """When this stage ends (monotonic seconds)."""
    results: dict[StageType, Any] = field(default_factory=dict, repr=False)
    """What finished stages returned, as JSON (see ``Pipeline.node``); one that did not succeed is absent."""
    node: str | None = None
    """The node that decision chose; in processing and after it, the one that was called."""
    answer: Any = field(default=None, repr=False)
    """The answer that processing returned, as JSON (validation and reflection)."""
    confidence: float | None = None
    """The node's confidence, 0..1, where it gave one."""
    validated: bool | None = None
    """The verdict of validation; None while there is none (reflection)."""
    on_trial: bool = field(default=False, repr=False)
    """The built-in decision chose a node to find out whether it has recovered."""
    resources: OpenResources = field(default=_NO_RESOURCES, repr=False)
    """For ``use``; a context made by hand has none, only what ``app.override`` puts in their places."""

    def remaining_ms(self) -> float:
        """Milliseconds left for this stage; never negative."""
        end = min(self.deadline, self.stage_deadline or self.deadline)
        return max(0.0, (end - self.clock()) * 1000)

    async def run_sync(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function in the executor's threads and wait for what it returns or raises."""
        return await self.threads.run(function, *args, name=self.running)

    def use(self, resource: Resource[T]) -> T:
        """What a resource yielded: on this event loop (``async def``), or in this process (``def``).

        Raises:
            ResourceError: it is not open here, or belongs to an event loop and is used outside of that: in a
                ``def`` stage or node, or in a function that ``run_sync`` runs.
        """
        if resource.is_async and not _on_a_loop():
            raise ResourceError(
                f"resource {resource.name!r} is an `async def`, so it belongs to an event loop; this code "
                "runs in a thread (a `def` stage or node, or a function in run_sync); make the stage or node "
                "an `async def`, or the resource a `def`"
            )
        stand_ins = resource.stand_ins
        return stand_ins[-1].value if stand_ins else self.resources.find(resource)

    def rank_nodes(self, names: Iterable[str]) -> list[str]:
        """Those of *names* whose breaker lets them be called, the healthiest first; for decision stages.

        A half-open node that is to be probed comes first. Now and then the built-in decision also tries nodes
        that rank low, where another of the same intent can answer after them; this does not.
        """
        return self.routing.rank(names)

    @property
    def running(self) -> str:
        """Whose code this is: the node in processing, else the stage."""
        return self.node if self.stage_type == "processing" and self.node else str(self.stage_type)


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
