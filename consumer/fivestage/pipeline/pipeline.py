"""Pipeline: where authors declare stages, nodes and resources.

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
from fivestage.pipeline.call_rules import CallRules
from fivestage.pipeline.matriz import adapt_matriz_node
from fivestage.pipeline.node import Handler, Node, checked_intents, checked_not_failures
from fivestage.pipeline.resource import Resource, StandIn
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

log = logging.getLogger("fivestage.app")
T = TypeVar("T")
StageFunction = TypeVar("StageFunction", bound="Callable[..., Any]")
ExceptionClasses = type[Exception] | tuple[type[Exception], ...]


class Pipeline:
    """Five stages, and the nodes that the processing stage calls.

    A new Pipeline has the built-in stages and nodes (``math``, ``facts``). A later declaration of a stage or
    of a node's name replaces the earlier one.

    Args:
        builtins: Whether the Pipeline starts with the built-in nodes.

    Example:
        >>> from fivestage import Pipeline
        >>> app = Pipeline(builtins=False)
        >>> @app.intent
        ... async def intent(query, ctx):
        ...     return {"intent": "greeting", "confidence": 1.0}
        >>> @app.node("greeter", intents={"greeting"})
        ... async def greet(query, ctx):
        ...     return {"answer": "Hello!", "confidence": 1.0}
        >>> app
        <Pipeline nodes=['greeter']>
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
        """Declare the intent stage: ``(query, ctx) -> {"intent": str, "confidence": float, ...}``.

        The intent decides which nodes may answer. Raises InvalidAppError if *function* cannot be called so,
        as the declarations of the other stages do.
        """
        return self._stage(StageType.INTENT, function)

    def decision(self, function: StageFunction) -> StageFunction:
        """Declare the decision stage: ``(query, ctx) -> str``, the name of the node to call."""
        return self._stage(StageType.DECISION, function)

    def validation(self, function: StageFunction) -> StageFunction:
        """Declare the validation stage: ``(query, ctx) -> bool``, the verdict on ``ctx.answer``."""
        return self._stage(StageType.VALIDATION, function)

    def reflection(self, function: StageFunction) -> StageFunction:
        """Declare the reflection stage: ``(query, ctx) -> dict``, remarks on the answer."""
        return self._stage(StageType.REFLECTION, function)

    def node(
        self,
        name: str,
        *,
        intents: Iterable[str] = (),
        validate: Callable[..., Any] | None = None,
        not_failures: ExceptionClasses = (),
        limit: int | None = None,
        timeout_ms: float | None = None,
        retries: int = 0,
        retry_on: ExceptionClasses = (),
        idempotent: bool = False,
    ) -> Callable[[StageFunction], StageFunction]:
        """Declare a node: ``(query, ctx) -> {"answer": ..., "confidence": ...}`` or any JSON value.

        An ``async def`` runs on the executor's event loop and must not block it; a ``def`` runs in one of the
        executor's threads.

        In what any stage returns, Pydantic models, dataclasses, sets, decimals, times, and numpy's scalars
        and arrays are JSON too (a model as ``model_dump(mode="json")``); bytes are not. Later stages see the
        JSON: a dict instead of a model, a list instead of an array. Only tuples, UUIDs and members of an Enum
        may stay what they are, inside a value that is otherwise JSON.

        A later declaration of the same name replaces the earlier one, with a warning in the log unless that
        was a built-in node.

        Args:
            name: The node's name, as decision returns it.
            intents: The intents that the node takes.
            validate: The node's own check of its answer, ``(query, ctx) -> bool``; called by the built-in
                validation.
            not_failures: Exceptions that say something about the query and not about the node, like
                ``Unanswerable``: the stage ends as an error, no other node is called, and neither the node's
                breaker nor its health count it.
            limit: How many calls may run at a time, in each worker process. A further query waits as long as
                it can still be answered, then another node is called, or the stage ends as ``node_busy``. The
                wait is not part of the call's limit. A call counts until its code has ended.
            timeout_ms: How long a call may take, if the stage does not grant less. Another node is called
                then, while there is time.
            retries: How often the node is called again for the same query after it raised one of *retry_on*:
                after up to 10 ms, if there is time for a usual call, and at most for a fifth of the calls
                plus one a second.
            retry_on: The exceptions. Without *idempotent* only those of connections that were not made.
            idempotent: Several calls for the same query do no harm.

        Raises:
            InvalidAppError: the function, or an argument, is not as described; the text says what to write.

        Example:
            >>> from fivestage import Pipeline, Unanswerable
            >>> app = Pipeline()
            >>> @app.node("prices", intents={"price"}, not_failures=KeyError)
            ... def price(query, ctx):
            ...     if not query.user_input:
            ...         raise Unanswerable("no product was named")
            ...     return {"answer": {"apple": 3}[query.user_input], "confidence": 0.9}
        """
        taken, excused = checked_intents(name, intents), checked_not_failures(name, not_failures)
        rules = CallRules.of(name, excused, limit, timeout_ms, retries, retry_on, idempotent)
        check = Handler.of(f"{name}.validate", validate) if validate else None

        def declare(function: StageFunction) -> StageFunction:
            handler = Handler.of(name, function)
            self._register(name, Node(handler, taken, check, excused=excused, rules=rules))
            return function

        return declare

    def add_node(
        self,
        name: str,
        node: Any,
        *,
        intents: Iterable[str] = (),
        not_failures: ExceptionClasses = (),
        limit: int | None = None,
        timeout_ms: float | None = None,
        retries: int = 0,
        retry_on: ExceptionClasses = (),
        idempotent: bool = False,
    ) -> None:
        """Register a MATRIZ node object without changes to it.

        Args:
            name: The node's name, as decision returns it.
            node: An object with ``process(dict) -> dict`` and, optionally, ``validate_output(dict) -> bool``
                and ``capabilities`` (used as intents if none are given).
            intents: The intents that the node takes.
            not_failures: See ``node``, as for what follows.
            limit: Calls at a time, in each worker process.
            timeout_ms: Milliseconds that a call may take.
            retries: Further calls for the same query after one of *retry_on*.
            retry_on: The exceptions.
            idempotent: Several calls for the same query do no harm.

        Raises:
            InvalidAppError: *node* has no such ``process``, or an argument is not as described.
        """
        taken, excused = checked_intents(name, intents), checked_not_failures(name, not_failures)
        rules = CallRules.of(name, excused, limit, timeout_ms, retries, retry_on, idempotent)
        call, own_intents, validate = adapt_matriz_node(name, node)
        check = Handler.of(f"{name}.validate", validate) if validate else None
        handler = Handler.of(name, call)
        self._register(name, Node(handler, taken or own_intents, check, excused=excused, rules=rules))

    @overload
    def resource(self, function: Callable[[], AsyncIterator[T]]) -> Resource[T]: ...
    @overload
    def resource(self, function: Callable[[], Iterator[T]]) -> Resource[T]: ...
    def resource(self, function: Callable[[], Any]) -> Resource[Any]:
        """Declare what stages and nodes share: a client, a connection pool, a model.

        The function opens the resource, yields it once, and closes it. An ``async def`` resource is opened
        once per event loop, for ``async def`` stages and nodes; a ``def`` resource once per process, for all.

        Resources are opened in the order of their declaration, before the first query and without a stage's
        limit. They are closed in reverse order after the last query, within 2 s in all. A worker that is
        stalled for good or killed closes none.

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
            InvalidAppError: *function* is not a generator function, takes arguments, or its name is taken.
        """
        declared: Resource[Any] = Resource(function)
        if declared.name in self._resources:
            raise InvalidAppError(f"resource {declared.name}: there is one of that name already; rename one")
        self._resources[declared.name] = declared
        return declared

    @contextlib.contextmanager
    def override(self, resource: Resource[Any], fake: Any) -> Iterator[None]:
        """Let ``ctx.use`` return *fake* instead of a resource within a ``with`` block; for tests.

        Works before the app starts and while it runs, on all loops of this process, but not in worker
        processes. A resource that is overridden when the app starts is not opened. Overrides may be nested.

        Raises:
            InvalidAppError: the resource does not belong to this Pipeline.

        Example:
            >>> from fivestage import Pipeline
            >>> app = Pipeline()
            >>> @app.resource
            ... def clock():
            ...     yield "real"
            >>> with app.override(clock, "fake"):
            ...     pass  # queries that run here get "fake" from ctx.use(clock)
        """
        if resource not in self._resources.values():
            raise InvalidAppError(f"override: {resource!r} does not belong to this Pipeline")
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
        """The function of a stage other than processing, and how to call it."""
        return self._stages[stage_type]

    def find_node(self, name: str) -> Node:
        """The node called *name*.

        Raises:
            NoNodeError: no node of that name is registered.
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
            new, old = (":".join(map(str, one.handler.place or ("?",))) for one in (node, replaced))
            fields = {"event": "node registered twice", "node": name, "where": new, "replaced": old}
            log.warning("node %r at %s replaces the one at %s", name, new, old, extra=fields)
        self._nodes[name] = node
