"""A function of the user's, and a node: what runs in the processing stage."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fivestage.errors import InvalidAppError


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function, and how it must be called."""

    name: str
    call: Callable[..., Any]
    is_async: bool

    @classmethod
    def of(cls, name: str, call: Callable[..., Any]) -> Handler:
        """Inspect *call* once, so that no query pays for it.

        Raises:
            InvalidAppError: it cannot be called.
        """
        if not callable(call):
            raise InvalidAppError(f"{name}: expected a function (query, ctx), got {type(call).__name__}")
        return cls(name, call, is_async=_is_async(call))


@dataclass(frozen=True, slots=True)
class Node:
    """A registered node."""

    handler: Handler
    intents: frozenset[str] = frozenset()
    validate: Handler | None = None
    """The node's own check of its answer, ``(query, ctx) -> bool``; used by the built-in validation."""
    is_builtin: bool = False


def _is_async(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
