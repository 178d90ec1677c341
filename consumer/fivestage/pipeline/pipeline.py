"""Pipeline: how a user declares stages and nodes.

Example:
    >>> from fivestage import Pipeline
    >>> app = Pipeline()
    >>> @app.node("greeter", intents={"greeting"})
    ... def greet(query, ctx):
    ...     return {"answer": f"Hello to you who said {query.user_input!r}", "confidence": 1.0}
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fivestage.errors import InvalidAppError, NoNodeError
from fivestage.nodes import builtin_nodes, builtin_stages
from fivestage.pipeline.matriz import adapt_matriz_node
from fivestage.pipeline.node import Handler, Node, checked_intents, checked_not_failures
from fivestage.pipeline.resource import Resource, StandIn
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

log = logging.getLogger("fivestage.pipeline.pipeline")
T = TypeVar("T")
StageFunction = TypeVar("StageFunction", bound="Callable[..., Any]")


class Pipeline:
    """Five stages and the nodes that processing chooses from.

    A new Pipeline has the built-in stages and nodes (``math``, ``facts``); each can be replaced
    by declaring another of the same name. ``Pipeline(builtins=False)`` starts without nodes.
    """

    def __init__(self, *, builtins: bool = True) -> None:
        self._stages: dict[StageType, Handler] = {}
        self._nodes: dict[str, Node] = {}
        self._resources: dict[str, Resource[Any]] = {}
        for stage_type, function in builtin_stages(self._nodes).items():
            self._stages[stage_type] = Handler.of(stage_type, function)
        if builtins:
            self._nodes |= builtin_nodes()

    def __repr__(self) -> str:
        return f"<Pipeline nodes={sorted(self._nodes)}>"

    def intent(self, function: StageFunction) -> StageFunction:
        """Declare the intent stage: ``(query, ctx) -> {"intent": str, "confidence": float, ...}``."""
        return self._stage(StageType.INTENT, function)

    def decision(self, function: StageFunction) -> StageFunction:
        """Declare the decision stage: ``(query, ctx) -> str``, a node's name."""
        return self._stage(StageType.DECISION, function)

    def validation(self, function: StageFunction) -> StageFunction:
        """Declare the validation stage: ``(query, ctx) -> bool``, the verdict on ``ctx.answer``."""
        return self._stage(StageType.VALIDATION, function)

    def reflection(self, function: StageFunction) -> StageFunction:
        """Declare the reflection stage: ``(query, ctx) -> dict``; ``ctx.validated`` is the verdict."""
        return self._stage(StageType.REFLECTION, function)

    def node(
        self,
        name: str,
        *,
        intents: Iterable[str] = (),
        validate: Callable[..., Any] | None = None,
        not_failures: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> Callable[[StageFunction], StageFunction]:
        """Declare a node: ``(query, ctx) -> {"answer": ..., "confidence": ...}`` or any JSON value.

        Pydantic models, dataclasses, sets, decimals, times, and numpy's scalars and arrays are JSON too (a
        model as ``model_dump(mode="json")``), in what any stage returns; bytes are not. Later stages see what
        the event says: a dict in the place of a model, a list in that of an array. Only tuples, UUIDs and
        members of an Enum may still be such, inside a value that is JSON otherwise.

        An ``async def`` runs on the executor's event loop and must not block it; a ``def`` runs in
        one of the executor's threads. A later declaration of the same name replaces the earlier, and is
        logged where that is not a built-in node.

        Args:
            name: The node's name, as decision returns it.
            intents: The intents it takes.
            validate: Its own check of its answer, ``(query, ctx) -> bool``; for the built-in validation.
            not_failures: Exceptions that say something about the query and not about the node, as does
                ``Unanswerable``: the stage ends as an error, no other node is asked, and neither the node's
                breaker nor its health count it.

        Raises:
            InvalidAppError: the function, or an argument, is not what it should be; the text says what is.
        """
        _check_name(name)
        taken, excused = checked_intents(name, intents), checked_not_failures(name, not_failures)
        check = Handler.of(f"{name}.validate", validate) if validate else None

        def declare(function: StageFunction) -> StageFunction:
            self._register(name, Node(Handler.of(name, function), taken, check, excused=excused))
            return function

        return declare

    def add_node(
        self,
        name: str,
        node: Any,
        *,
        intents: Iterable[str] = (),
        not_failures: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        """Register a MATRIZ node object as it is.

        Args:
            name: The node's name, as decision returns it.
            node: An object with ``process(dict) -> dict`` and, optionally,
                ``validate_output(dict) -> bool`` and ``capabilities`` (used as intents if none are given).
            intents: The intents it takes.
            not_failures: See ``node``.

        Raises:
            InvalidAppError: *node* has no such ``process``, or another argument is not what it should be.
        """
        _check_name(name)
        taken, excused = checked_intents(name, intents), checked_not_failures(name, not_failures)
        call, own_intents, validate = adapt_matriz_node(name, node)
        check = Handler.of(f"{name}.validate", validate) if validate else None
        self._register(name, Node(Handler.of(name, call), taken or own_intents, check, excused=excused))

    @overload
    def resource(self, function: Callable[[], AsyncIterator[T]]) -> Resource[T]: ...
    @overload
    def resource(self, function: Callable[[], Iterator[T]]) -> Resource[T]: ...
    def resource(self, function: Callable[[], Any]) -> Resource[Any]:
        """Declare what stages and nodes share: a client, a pool of connections, a model.

        The function opens it, yields it once, and closes it. An ``async def`` is opened once per event loop,
        for ``async def`` stages and nodes; a ``def`` once per process, for all. They are opened in the order
        of their declaration before the first query and without a stage's limit, and closed in reverse order
        after the last one, within 2 s in all. On an event loop that is stalled for good and in a worker
        process that is killed nothing is closed.

        Example:
            >>> from fivestage import Pipeline
            >>> app = Pipeline()
            >>> @app.resource
            ... async def http():
            ...     async with aiohttp.ClientSession() as session:
            ...         yield session
            >>> @app.node("pages", intents={"page"})
            ... async def pages(query, ctx):
            ...     async with ctx.use(http).get(query.user_input) as reply:
            ...         return await reply.text()

        Raises:
            InvalidAppError: it is no generator function, takes arguments, or its name is taken.
        """
        declared: Resource[Any] = Resource(function)
        if declared.name in self._resources:
            raise InvalidAppError(f"resource {declared.name}: there is one of that name already; rename one")
        self._resources[declared.name] = declared
        return declared

    @contextlib.contextmanager
    def override(self, resource: Resource[Any], fake: Any) -> Iterator[None]:
        """Have ``ctx.use`` return *fake* instead of a resource, for the length of a ``with``; for tests.

        Works before and while the app runs in this process, on all its loops; worker processes do not see
        it. What is overridden when the app starts is not opened. Overrides may be nested.

        Raises:
            InvalidAppError: the resource is not one of this Pipeline.
        """
        if resource not in self._resources.values():
            raise InvalidAppError(f"override: {resource!r} is no resource of this Pipeline")
        stand_in = StandIn(fake)
        resource.stand_ins.append(stand_in)
        try:
            yield
        finally:
            resource.stand_ins.remove(stand_in)

    @property
    def resources(self) -> Mapping[str, Resource[Any]]:
        """The declared resources by name, in the order of declaration."""
        return self._resources

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The registered nodes by name, in the order of registration."""
        return self._nodes

    def stage(self, stage_type: StageType) -> Handler:
        """The handler of a stage other than processing."""
        return self._stages[stage_type]

    def find_node(self, name: str) -> Node:
        """The node called *name*.

        Raises:
            NoNodeError: there is none.
        """
        node = self._nodes.get(name)
        if node is None:
            known = ", ".join(sorted(self._nodes)) or "none"
            raise NoNodeError(f"decision chose node {name!r}, which is not registered (registered: {known})")
        return node

    def _stage(self, stage_type: StageType, function: StageFunction) -> StageFunction:
        self._stages[stage_type] = Handler.of(stage_type, function)
        return function

    def _register(self, name: str, node: Node) -> None:
        replaced = self._nodes.get(name)
        if replaced is not None and not replaced.is_builtin:
            places = (":".join(map(str, one.handler.place or ("?",))) for one in (node, replaced))
            log.warning("node %r at %s replaces the one at %s", name, *places)
        self._nodes[name] = node


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name:
        return
    if callable(name):
        example = getattr(name, "__name__", "name")
        raise InvalidAppError(f'a node needs a name: write @app.node("{example}") instead of @app.node')
    raise InvalidAppError(f"a node needs a name, a text that is not empty; got {name!r}")
