"""Functions of authors, checked when they are declared, and nodes, which the processing stage calls."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from fivestage.errors import InvalidAppError, Unanswerable
from fivestage.pipeline.call_rules import CallRules, checked_exceptions
from fivestage.pipeline.setting_errors import closest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from fivestage.pipeline.batch_runner import BatchRunner

Declaration = TypeVar("Declaration", bound=Callable[..., Any])

PARAMETERS = ("query", "ctx")
"""The names of the arguments of stages and nodes."""


class Batch:
    """How a batch node collects its items. One for each declaration, shared by its event loops.

    Args:
        max_size: The most items of a batch.
        max_wait_s: How long an item waits for others, in seconds.
    """

    __slots__ = ("is_async", "max_size", "max_wait_s", "runners")

    def __init__(self, max_size: int, max_wait_s: float) -> None:
        self.is_async = False
        """The node's function is an ``async def``; else it runs in a thread."""
        self.max_size = max_size
        self.max_wait_s = max_wait_s
        self.runners: WeakKeyDictionary[asyncio.AbstractEventLoop, BatchRunner] = WeakKeyDictionary()
        """The queue on each event loop. Several threads share the dict, so each change is one operation."""

    def without_runners(self) -> Batch:
        """A copy for another handler: a runner keeps the handler that it was made with."""
        batch = Batch(self.max_size, self.max_wait_s)
        batch.is_async = self.is_async
        return batch

    def __repr__(self) -> str:
        return f"<Batch of at most {self.max_size} after {self.max_wait_s * 1000:g} ms>"


@dataclass(frozen=True, slots=True)
class Handler:
    """An author's function, and how to call it."""

    name: str
    call: Callable[..., Any]
    is_async: bool
    """It is an ``async def`` that answers one query, so that the query awaits it."""
    place: tuple[str, int] | None = None
    """File and line of the function; None if it is not written in Python."""
    batch: Batch | None = None
    """How queries are collected for a function that answers many at a time; None if it answers one."""

    @classmethod
    def of(cls, name: str, call: Callable[..., Any]) -> Handler:
        """Inspect *call* once, when it is declared.

        Raises:
            InvalidAppError: it cannot be called with ``(query, ctx)``, or it yields.
        """
        check_function(name, call)
        return cls.inspect(name, call)

    @classmethod
    def inspect(cls, name: str, call: Callable[..., Any], batch: Batch | None = None) -> Handler:
        """Inspect a function that was checked already."""
        is_async = batch is None and is_coroutine_function(call)
        return cls(name, call, is_async=is_async, place=_place(call), batch=batch)

    @property
    def where(self) -> str:
        """``file:line`` of the function, ``?`` if unknown."""
        return ":".join(map(str, self.place or ("?",)))

    @property
    def needs_thread(self) -> bool:
        """Whether a query waits for a thread before its stage starts. A batch waits for one as a whole."""
        return not self.is_async and self.batch is None


@dataclass(frozen=True, slots=True)
class Node:
    """A registered node: its function, its own check, and the intents it takes."""

    handler: Handler
    intents: frozenset[str] = frozenset()
    validate: Handler | None = None
    """The node's check of its answer, ``(query, ctx) -> bool``; called by the built-in validation."""
    is_builtin: bool = False
    excused: tuple[type[BaseException], ...] = (Unanswerable,)
    """Exceptions that are not failures of the node."""
    settings: type[BaseModel] | None = None
    """What checks the node's settings; None if it takes any."""
    rules: CallRules | None = None
    """How the node may be called; None if nothing was declared."""


def check_function(name: str, call: Any, parameters: Sequence[str] = PARAMETERS) -> None:
    """Check a function when it is declared, so that it does not fail at the first query.

    Args:
        name: What the function is, for the text of the error.
        call: A function, or an object that can be called like one.
        parameters: Names of the positional arguments that it is called with.

    Raises:
        InvalidAppError: it is not a function, takes other parameters, or yields instead of returning.
    """
    expected = f"expected a function ({', '.join(parameters)})"
    if inspect.isclass(call):
        title = call.__name__
        raise InvalidAppError(f"{name}: {expected}, got the class {title}; pass an object: {title}(...)")
    if not callable(call):
        raise InvalidAppError(f"{name}: {expected}, got {type(call).__name__}")
    title = getattr(call, "__name__", type(call).__name__)
    if _is_one(call, inspect.isasyncgenfunction) or _is_one(call, inspect.isgeneratorfunction):
        raise InvalidAppError(f"{name}: {title} is a generator; return the result instead of yielding it")
    try:
        # Not of the function that a decorator wraps: the decorator may add or remove arguments.
        signature = inspect.signature(call, follow_wrapped=False)
    except (ValueError, TypeError):  # some functions written in C have no signature
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        define = "async def" if is_coroutine_function(call) else "def"
        raise InvalidAppError(
            f"{name}: {title}{signature} cannot be called with ({', '.join(parameters)}), {error}; "
            f"declare it as {define} {title}({', '.join(parameters)})"
        ) from None


def names_arguments(declare: Declaration) -> Declaration:
    """Let the declaration of a node say which arguments there are, when it is called with an unknown one.

    Type checkers see the declaration itself.
    """
    known = [name for name in inspect.signature(declare).parameters if name != "self"]

    @functools.wraps(declare)
    def checked(*args: Any, **options: Any) -> Any:
        for option in options:
            if option not in known:
                title = f"node {args[1]!r}" if len(args) > 1 else "a node"
                said = f"app.{declare.__name__} has no argument {option!r}{closest(option, known)}"
                raise InvalidAppError(f"{title}: {said}; it has {', '.join(known)}")
        return declare(*args, **options)

    return checked  # type: ignore[return-value] # the wrapper takes and returns the same


def checked_arguments(
    name: Any, intents: Any, not_failures: Any
) -> tuple[frozenset[str], tuple[type[BaseException], ...]]:
    """Check a node's arguments; return its intents, and its exceptions that are not failures.

    Raises:
        InvalidAppError: one of them is not as described in ``Pipeline.node``.
    """
    if callable(name):
        example = getattr(name, "__name__", "name")
        raise InvalidAppError(f'a node needs a name: write @app.node("{example}") instead of @app.node')
    if not (isinstance(name, str) and name):
        raise InvalidAppError(f"a node needs a name, a text that is not empty; got {name!r}")
    found = _checked_intents(name, intents)
    return found, (Unanswerable, *checked_exceptions(name, "not_failures", not_failures))


def _checked_intents(name: str, intents: Any) -> frozenset[str]:
    if isinstance(intents, str):
        raise InvalidAppError(
            f"node {name!r}: intents is the text {intents!r}, not a set; write intents={{{intents!r}}}"
        )
    try:
        found = frozenset(intents)
    except TypeError:
        found = frozenset([None])
    if not all(isinstance(intent, str) for intent in found):
        raise InvalidAppError(f'node {name!r}: intents must be a set of texts such as {{"greeting"}}')
    return found


def _place(call: Callable[..., Any]) -> tuple[str, int] | None:
    function = inspect.unwrap(call)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    method = getattr(type(function), "__call__", None)  # noqa: B004 - of an object that is called
    code = getattr(function, "__code__", None) or getattr(method, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if inspect.iscode(code) else None


def is_coroutine_function(call: Callable[..., Any]) -> bool:
    """Whether *call* is an ``async def``, or an object whose ``__call__`` is one."""
    return _is_one(call, inspect.iscoroutinefunction)


def _is_one(call: Callable[..., Any], kind: Callable[[Any], bool]) -> bool:
    """Whether *call*, or its ``__call__``, is a function of that kind."""
    return kind(call) or kind(getattr(call, "__call__", None))  # noqa: B004
