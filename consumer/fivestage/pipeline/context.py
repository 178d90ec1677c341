"""What stages and nodes are called with: the query, and the context of the stage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from typing_extensions import TypeVar

from fivestage.core.deadline import DEADLINE_HEADER
from fivestage.core.offer import Offer
from fivestage.core.routing_snapshot import RoutingSnapshot
from fivestage.errors import InvalidAppError, NodeError, ResourceError
from fivestage.pipeline.answers import offer_of
from fivestage.pipeline.outbound import Outbound
from fivestage.pipeline.resource import Resource, no_resource
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")
S = TypeVar("S", default=Any)
"""The class of a node's settings."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question as stages and nodes get it; read-only.

    Example:
        >>> query = Query("q-1", "What is 15 + 7?", context={"user": "ada"})
        >>> query.user_input, query.lane, query.context["user"]
        ('What is 15 + 7?', 'prod', 'ada')
    """

    query_id: str
    """The producer's id."""
    user_input: str = field(repr=False)
    """The question's text."""
    lane: str = "prod"
    """The lane that it came in on."""
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The JSON object that the producer sent along; empty if it sent none."""


class Threads(Protocol):
    """The part of the thread pool that a context uses."""

    async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
        """Call *function* in a thread; *name* is the node or stage whose code it is."""


class NoThreads:
    """Calls functions at once, on the loop."""

    async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:  # noqa: ARG002
        """See Threads."""
        return function(*args)


class OpenResources(Protocol):
    """The part of the resource manager that a context uses."""

    def find(self, resource: Resource[T]) -> T:
        """What *resource* yielded here, on this loop or in this process; ResourceError if it is not open."""

    def settings_of(self, node: str) -> Any:
        """The settings of a node; see ``StageContext.settings``."""


class NoResources:
    """Has no open resource."""

    def find(self, resource: Resource[T]) -> T:
        """See OpenResources."""
        raise ResourceError(
            f"resource {resource.name!r} is not open: a context made in a test opens none; put the call into "
            f"`with app.override({resource.name}, fake):`"
        )

    def settings_of(self, node: str) -> Any:
        """See OpenResources."""
        raise InvalidAppError(
            f"the settings of node {node!r} are not known: a context made in a test has none; run the node "
            f"with Orchestrator(app, nodes={{{node!r}: ...}}), MemoryBus or run_app"
        )


_NO_RESOURCES: Final = NoResources()


@dataclass(slots=True)
class StageContext(Outbound, Generic[S]):
    """The stage that runs: its time, the results of earlier stages, threads and resources.

    One context belongs to one query. It changes from stage to stage, so it must not be kept.

    Example:
        >>> from fivestage import Pipeline
        >>> app = Pipeline()
        >>> @app.node("search", intents={"page"})
        ... async def search(query, ctx):
        ...     intent = ctx.results["intent"]["intent"]
        ...     timeout_s = ctx.timeout()
        ...     return {"answer": f"{intent}: {query.user_input}", "confidence": 0.5}
    """

    lane: str
    """The query's lane."""
    deadline: float
    """When the query ends (monotonic seconds, the clock of the running event loop)."""
    clock: Callable[[], float]
    """Returns the time now, on the clock of ``deadline``."""
    stage_type: StageType
    """The stage that runs."""
    threads: Threads = field(default_factory=NoThreads, repr=False)
    """Used by ``run_sync``; a context made in a test has no threads, and calls functions at once."""
    routing: RoutingSnapshot = field(default_factory=lambda: RoutingSnapshot(()), repr=False)
    """Used by ``rank_nodes``; in a context made in a test all nodes are healthy."""
    attempt: int = 1
    """Above 1 where the stage is restarted: a query blocked its loop, or this node or another one failed."""
    stage_deadline: float = 0.0
    """When this stage ends (monotonic seconds)."""
    results: dict[str, Any] = field(default_factory=dict, repr=False)
    """What earlier stages returned, as JSON (see ``Pipeline.node``), by StageType or its name; a stage that
    failed has no entry."""
    node: str | None = None
    """The node that decision chose; in processing and after it, the node that was called."""
    answer: Any = field(default=None, repr=False)
    """The answer that processing returned, or the offered one, as JSON; for validation and reflection."""
    confidence: float | None = None
    """The node's confidence, 0..1; None if it gave none."""
    validated: bool | None = None
    """The verdict of validation, for reflection; None if there is none."""
    rejection: str | None = field(default=None, init=False, repr=False)
    """Why the built-in validation rejected the answer; the ``error`` of the stage's result."""
    on_trial: bool = field(default=False, repr=False)
    """The built-in decision chose the node to find out whether it has recovered."""
    resources: OpenResources = field(default=_NO_RESOURCES, repr=False)
    """Used by ``use``; a context made in a test has only what ``app.override`` gives it."""
    partial: bool = False
    """``answer`` is the last one that the node offered, since it did not end in time; for validation and
    reflection."""
    last_offer: Offer | None = field(default=None, repr=False)
    """What this attempt offered last; None if nothing."""
    max_data_bytes: int | None = field(default=None, repr=False)
    """The largest answer that may be offered, as JSON; None = no limit."""
    on_offer: Callable[[StageContext], None] | None = field(default=None, repr=False)
    """Called after each offer; sends it to the main process."""
    deadline_header: str = field(default=DEADLINE_HEADER, repr=False)
    """Used by ``headers``; empty = the deadline is not passed on."""

    def remaining_ms(self) -> float:
        """Milliseconds left for this stage, 0.0 or more."""
        end = min(self.deadline, self.stage_deadline or self.deadline)
        return max(0.0, (end - self.clock()) * 1000)

    async def run_sync(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function in a thread; returns what it returns, raises what it raises.

        If the stage's time runs out, the stage ends and the function runs on in its thread.

        Example: ``rows = await ctx.run_sync(read_rows, "orders.csv")``
        """
        return await self.threads.run(function, *args, name=self.running)

    def offer(self, answer: Any, *, confidence: float | None = None) -> None:
        """Offer an answer that is to be published if this node does not end in time; only in a node.

        The last one counts, also if the node then blocks its event loop or its process is killed. What the
        node returns replaces it; an exception discards it, unless its attribute ``keeps_offer`` is True. The
        query ends as a ``timeout``, or an ``error``, with this answer and ``partial``. If it allows partial
        answers and time is left, it succeeds, degraded.

        Args:
            answer: Whatever a node may return. It is encoded now: later changes of it have no effect.
            confidence: The confidence, 0..1; by default the one in *answer*.

        Example: ``ctx.offer(text, confidence=0.4)``

        Raises:
            NodeError: a stage other than processing calls this.
            TypeError: *answer* has no JSON form, or *confidence* is no number.
            ValueError: *answer* is larger than the data of a stage may be.
        """
        if self.stage_type != "processing":
            raise NodeError(f"only nodes can offer answers: ctx.offer was called in {self.stage_type}")
        self.last_offer = offer_of(answer, confidence, node=self.node, max_bytes=self.max_data_bytes)
        if self.on_offer is not None:
            self.on_offer(self)

    def use(self, resource: Resource[T]) -> T:
        """The value that a resource yielded, for this event loop (``async def``) or this process (``def``).

        Example: ``async with ctx.use(http).get(url) as reply:``; see ``Pipeline.resource``.

        Raises:
            ResourceError: it is no resource, is not open here, or belongs to an event loop and is used in a
                thread: in a ``def`` stage or node, or in a function that ``run_sync`` runs.
        """
        return find_open(resource, self.resources)

    @property
    def settings(self) -> S:
        """The settings of the node, ``[nodes.NAME]``: an instance of the node's model, or a mapping.

        In validation and reflection, those of the node that was called. With ``ctx: StageContext[Model]``
        type checkers know the fields.

        Raises:
            InvalidAppError: no node has been chosen yet. Other stages get settings through a resource.
        """
        if self.node is None:
            raise InvalidAppError(
                f"ctx.settings are those of a node, and none has been chosen in the {self.stage_type} stage; "
                "let a resource yield app.settings(...)"
            )
        settings: S = self.resources.settings_of(self.node)
        return settings

    def rank_nodes(self, names: Iterable[str]) -> list[str]:
        """The nodes among *names* that may be called, the healthiest first; for decision stages.

        A half-open node whose probe is due comes first. A node whose circuit breaker is open is left out, and
        so is one with too many calls that do not come back. The built-in decision also tries a low-ranking
        node now and then, where another of the same intent can answer after it; this method does not.
        """
        return self.routing.rank(names)

    @property
    def running(self) -> str:
        """The name of the code that runs: the node's in processing, else the stage's."""
        return self.node if self.stage_type == "processing" and self.node else str(self.stage_type)


def find_open(resource: Resource[T], resources: OpenResources) -> T:
    """The value of a resource for the running code; an override of a test comes first.

    Raises:
        ResourceError: see ``StageContext.use``.
    """
    untyped: Any = resource
    if not isinstance(untyped, Resource):
        raise ResourceError(no_resource(untyped))
    if resource.is_async and not _on_a_loop():
        raise ResourceError(
            f"resource {resource.name!r} is an `async def`, so it belongs to an event loop; this code "
            "runs in a thread (a `def` stage or node, or a function in run_sync); make the stage or node "
            "an `async def`, or the resource a `def`"
        )
    stand_ins = resource.stand_ins
    return stand_ins[-1].value if stand_ins else resources.find(resource)


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
