"""The part of a Pipeline where authors declare nodes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from fivestage.errors import NoNodeError
from fivestage.pipeline.batch import batch_handler, checked_batch
from fivestage.pipeline.call_rules import CallRules
from fivestage.pipeline.matriz import adapt_matriz_node
from fivestage.pipeline.node import Handler, Node, checked_arguments, names_arguments
from fivestage.pipeline.node_settings import checked_model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from pydantic import BaseModel

    from fivestage.pipeline.batch import BatchContext, BatchItem
    from fivestage.pipeline.context import Query, StageContext

log = logging.getLogger("fivestage.app")
NodeFunction = TypeVar("NodeFunction", bound="Callable[[Query, StageContext[Any]], Any]")
BatchFunction = TypeVar(
    "BatchFunction",
    bound="Callable[[list[BatchItem], BatchContext], Sequence[Any] | Awaitable[Sequence[Any]]]",
)
ExceptionClasses = type[Exception] | tuple[type[Exception], ...]


class NodeDeclarations:
    """The nodes of a Pipeline, which is derived from this."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self.batch_nodes: set[str] = set()
        """The names of those nodes that were declared with ``batch_node``."""

    @names_arguments
    def node(
        self,
        name: str,
        *,
        intents: Iterable[str] = (),
        validate: Callable[[Query, StageContext[Any]], Any] | None = None,
        not_failures: ExceptionClasses = (),
        settings: type[BaseModel] | None = None,
        limit: int | None = None,
        timeout_ms: float | None = None,
        retries: int = 0,
        retry_on: ExceptionClasses = (),
        idempotent: bool = False,
    ) -> Callable[[NodeFunction], NodeFunction]:
        """Declare a node: ``(query, ctx) -> {"answer": ..., "confidence": ...}`` or any JSON value.

        An ``async def`` runs on the executor's event loop and must not block it; a ``def`` runs in one of the
        executor's threads.

        In what any stage returns, Pydantic models, dataclasses, sets, decimals, times, and numpy's scalars
        and arrays are JSON too (a model as ``model_dump(mode="json")``); bytes are not. Later stages see a
        copy of the JSON: a dict instead of a model, a list instead of a tuple or an array.

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
            settings: A model of pydantic. ``[nodes.NAME]`` of the settings must fit it when the app starts,
                and ``ctx.settings`` is an instance of it.
            limit: How many calls may run at a time, in each worker process. A further query waits as long as
                it can still be answered, then another node is called, or the stage ends as ``node_busy``. The
                wait is not part of the call's limit. A call counts until its code has ended.
            timeout_ms: How long a call may take, if the stage does not grant less. Another node is called
                then, while there is time.
            retries: How often the node is called again for the same query after it raised one of *retry_on*:
                after up to 10 ms, if there is time for a usual call, and at most for a fifth of the calls
                plus one a second.
            retry_on: The exceptions. Without *idempotent* only those of connections that were not made.
            idempotent: Several calls for the same query do no harm: slow ones may be hedged, if the setting
                ``hedge.max_extra_load`` permits it.

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
        taken, excused = checked_arguments(name, intents, not_failures)
        rules = CallRules.of(name, excused, limit, timeout_ms, retries, retry_on, idempotent)
        check = Handler.of(f"{name}.validate", validate) if validate else None
        model = checked_model(name, settings)

        def declare(function: NodeFunction) -> NodeFunction:
            handler = Handler.of(name, function)
            self._register(name, Node(handler, taken, check, excused=excused, settings=model, rules=rules))
            return function

        return declare

    @names_arguments
    def batch_node(
        self,
        name: str,
        *,
        intents: Iterable[str] = (),
        max_size: int = 32,
        max_wait_ms: float = 5,
        validate: Callable[..., Any] | None = None,
        not_failures: ExceptionClasses = (),
        settings: type[BaseModel] | None = None,
    ) -> Callable[[BatchFunction], BatchFunction]:
        """Declare a node that answers many queries in one call: ``(items, ctx) -> list``, an answer for each.

        An exception in the place of an answer is the error of that item only. A batch starts when it is full,
        when its oldest item has waited *max_wait_ms*, or when the item with the least time must start.

        Args:
            name: The node's name, as decision returns it.
            intents: The intents that the node takes.
            max_size: The most items of a batch.
            max_wait_ms: Milliseconds that an item waits for others while no batch runs.
            validate: See ``node``; called for each query.
            not_failures: See ``node``; for exceptions in places of answers too.
            settings: See ``node``.

        Raises:
            InvalidAppError: the function, or an argument, is not as described; the text says what to write.

        Example:
            >>> from fivestage import Pipeline
            >>> app = Pipeline()
            >>> @app.batch_node("lengths", intents={"length"})
            ... def lengths(items, ctx):
            ...     return [len(item.query.user_input) for item in items]
        """
        taken, excused = checked_arguments(name, intents, not_failures)
        check = Handler.of(f"{name}.validate", validate) if validate else None
        model = checked_model(name, settings)

        def declare(function: BatchFunction) -> BatchFunction:
            handler = batch_handler(name, function, checked_batch(name, max_size, max_wait_ms))
            self._register(name, Node(handler, taken, check, excused=excused, settings=model))
            return function

        return declare

    @names_arguments
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
        taken, excused = checked_arguments(name, intents, not_failures)
        rules = CallRules.of(name, excused, limit, timeout_ms, retries, retry_on, idempotent)
        call, own_intents, validate = adapt_matriz_node(name, node)
        check = Handler.of(f"{name}.validate", validate) if validate else None
        handler = Handler.of(name, call)
        self._register(name, Node(handler, taken or own_intents, check, excused=excused, rules=rules))

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The registered nodes by name, in the order of registration."""
        return self._nodes

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

    def _register(self, name: str, node: Node) -> None:
        replaced = self._nodes.get(name)
        if replaced is not None and not replaced.is_builtin:
            new, old = node.handler.where, replaced.handler.where
            fields = {"event": "node registered twice", "node": name, "where": new, "replaced": old}
            log.warning("node %r at %s replaces the one at %s", name, new, old, extra=fields)
        self._nodes[name] = node
        self.batch_nodes.discard(name)
        if node.handler.batch is not None:
            self.batch_nodes.add(name)
