"""Adapts MATRIZ node objects, so that they run here without changes.

A MATRIZ node (LukhasAI/Lukhas, ``matriz/core/node_interface.py``) has ``process(dict) -> dict`` and
``validate_output(dict) -> bool``. Its orchestrator passes the question under a key that depends on the node's
name: ``expression`` (math, symbolic), ``question`` (facts) or ``query`` (others). A node may also read
``trace_id`` and ``context``, or other keys of a structured request.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from fivestage.errors import InvalidAppError
from fivestage.pipeline.node import check_function
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.pipeline.context import Query, StageContext

HISTORY = 1000
"""The most entries that ``processing_history`` may have; the MATRIZ base class appends without end."""

_INTENTS_BY_NAME = (
    ("math", frozenset({"mathematical"})),
    ("fact", frozenset({"factual", "question"})),
    ("symbolic", frozenset({"symbolic"})),
)

Adapted = tuple["Callable[..., Any]", frozenset[str], "Callable[..., Any] | None"]


def adapt_matriz_node(name: str, node: Any) -> Adapted:
    """Return what a Pipeline registers for a MATRIZ node object.

    Returns:
        ``call``: ``(query, ctx)``, a coroutine function if ``process`` is one, else a function that runs in a
        thread; several calls may run at a time, as under the MATRIZ orchestrator.
        ``intents``: the node's ``capabilities`` and, as MATRIZ chooses by name, the intent that belongs to a
        name with "math", "fact" or "symbolic" in it.
        ``validate``: calls ``validate_output`` with all that ``process`` returned, as in the event; None
        without that method.

    Raises:
        InvalidAppError: *node* is a class instead of an object, has no ``process``, or a method that takes
            other arguments.
    """
    if inspect.isclass(node):
        raise InvalidAppError(f"node {name!r}: expected an object, got the class; pass {node.__name__}(...)")
    process = getattr(node, "process", None)
    if not callable(process):
        raise InvalidAppError(
            f"node {name!r}: {type(node).__name__} has no method process(dict) -> dict; "
            "for a function use @app.node instead"
        )
    check_function(f"node {name!r}, its process", process, ("request",))
    return _call(node, process), _intents(name, node), _validate(name, node)


def request(query: Query) -> dict[str, Any]:
    """The dict that ``process`` gets: the question under each key that MATRIZ nodes read it from.

    Members of the query's context are at the top level too, where nodes with a structured request look for
    them (``premises``, ``tool_name``); a member replaces the question where the key is the same.
    """
    text = query.user_input
    context = dict(query.context)
    return {
        "query": text,
        "question": text,
        "expression": text,
        **context,
        "trace_id": query.query_id,
        "context": context,
    }


def _call(node: Any, process: Callable[..., Any]) -> Callable[..., Any]:
    async def call_async(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        result = await process(request(query))
        _shorten_history(node)
        return result

    def call(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        result = process(request(query))
        _shorten_history(node)
        return result

    adapter: Callable[..., Any] = call_async if inspect.iscoroutinefunction(process) else call
    return functools.update_wrapper(
        adapter, process, assigned=(), updated=()
    )  # errors name the author's line


def _validate(name: str, node: Any) -> Callable[..., Any] | None:
    check = getattr(node, "validate_output", None)
    if not callable(check):
        return None
    check_function(f"node {name!r}, its validate_output", check, ("output",))

    async def validate_async(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
        return bool(await check(ctx.results.get(StageType.PROCESSING)))

    def validate(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        verdict = check(ctx.results.get(StageType.PROCESSING))
        return _truth(verdict) if inspect.isawaitable(verdict) else bool(verdict)

    return validate_async if inspect.iscoroutinefunction(check) else validate


async def _truth(verdict: Awaitable[Any]) -> bool:
    """What a ``def`` around an ``async def`` says in the end."""
    return bool(await verdict)


def _intents(name: str, node: Any) -> frozenset[str]:
    capabilities = getattr(node, "capabilities", None) or ()
    if isinstance(capabilities, str):
        capabilities = (capabilities,)
    intents = frozenset(str(capability) for capability in capabilities)
    for part, named in _INTENTS_BY_NAME:
        if part in name.lower():
            intents |= named
    return intents


def _shorten_history(node: Any) -> None:
    """Drop the oldest half of a full history: it would grow as long as the service runs."""
    history = getattr(node, "processing_history", None)
    if isinstance(history, list) and len(history) > HISTORY:
        del history[: HISTORY // 2]
