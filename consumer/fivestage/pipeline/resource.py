"""Resources: what stages and nodes share for longer than a query, such as a client, a pool or a model."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from fivestage.errors import InvalidAppError
from fivestage.pipeline.call_result import kind_of, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

T = TypeVar("T")

CREDENTIALS: Final = re.compile(r"(?<=://)\S*@")
"""User and password in a URL; more than that where they are not escaped."""
MAX_NAME_CHARS: Final = 50
"""Of a text that was passed instead of a resource."""


class StandIn:
    """The value that a test put in place of a resource; compared by identity, whatever the value is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Resource(Generic[T]):
    """A declared resource: ``ctx.use(resource)`` returns its value, of type T.

    Made by the decorator ``Pipeline.resource``; replaced in tests by ``Pipeline.override``.

    Args:
        function: A generator function without arguments that yields the value once.

    Raises:
        InvalidAppError: *function* is something else; the text says what to write.

    Example:
        >>> from fivestage import Pipeline
        >>> app = Pipeline()
        >>> @app.resource
        ... def model():
        ...     yield {"weights": [1, 2]}
        >>> model
        <Resource model, once per process>
    """

    __slots__ = ("function", "is_async", "name", "stand_ins")

    def __init__(self, function: Callable[[], AsyncIterator[T]] | Callable[[], Iterator[T]]) -> None:
        self.is_async = _is_async(function)
        """Whether the value is opened once per event loop (``async def``), or once per process (``def``)."""
        self.function: Callable[[], Any] = function
        """Opens the value before its one ``yield``, closes it after that."""
        self.name = function.__name__
        self.stand_ins: list[StandIn] = []
        """The overrides in force; the last and innermost one counts."""

    def __repr__(self) -> str:
        return f"<Resource {self.name}, once per {'event loop' if self.is_async else 'process'}>"


def no_resource(value: Any, name: str | None = None) -> str:
    """What to do about ``ctx.use(value)`` with something that is no resource.

    Args:
        value: What was passed.
        name: How the code names it; by default its own name.
    """
    if isinstance(value, str):
        named = value[:MAX_NAME_CHARS]
        proposal = f": ctx.use({named})" if named.isidentifier() else ""
        return f"ctx.use({named!r}): a resource is not used by its name; pass the resource itself{proposal}"
    name = name or getattr(value, "__name__", None) or f"an object of class {type(value).__name__}"
    if inspect.isclass(value):
        return (
            f"ctx.use({name}): {name} is a class; declare a function that yields an object of it with "
            "@app.resource, and pass that"
        )
    if inspect.isroutine(value):
        return f"ctx.use({name}): {name} is no resource of this app; decorate it with @app.resource"
    return f"ctx.use({name}): it is no resource; pass what @app.resource has made of a function"


def _is_async(function: Any) -> bool:
    """Whether *function* is an asynchronous generator function.

    Raises:
        InvalidAppError: it is not a generator function, or takes arguments.
    """
    name = getattr(function, "__name__", type(function).__name__)
    is_async = inspect.isasyncgenfunction(function)
    if not inspect.isroutine(function) or not (is_async or inspect.isgeneratorfunction(function)):
        raise InvalidAppError(
            f"resource {name}: expected a generator function, got {_kind(function)}; write "
            f"`async def {name}()` (opened once per event loop) or `def {name}()` (once per process) with "
            "one `yield` of what nodes use, without @contextmanager"
        )
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise InvalidAppError(
            f"resource {name}: it takes {inspect.signature(function)}, but is called without arguments; "
            "read what it needs inside the function"
        ) from None
    return is_async


def _kind(function: Any) -> str:
    if inspect.isclass(function):
        return "a class"
    if inspect.iscoroutinefunction(function):
        return "an `async def` without yield"
    return "a `def` without yield" if inspect.isroutine(function) else f"a {type(function).__name__}"


def log_event(level: str, event: str, **fields: Any) -> None:
    """Write an event to the log of resources; *level* is a method of the logger."""
    import structlog  # noqa: PLC0415 - a command's --help imports this module and should be quick

    getattr(structlog.get_logger("fivestage.resources"), level)(event, **fields)


def error_fields(resource: Resource[Any], error: BaseException) -> dict[str, str]:
    """The fields of a log line about an error, without the message: it may hold text of queries."""
    return {"resource": resource.name, "error_type": type(error).__name__, "where": where(resource, error)}


def error_text(resource: Resource[Any], error: BaseException) -> str:
    """An error of an author's function in two lines: class and message, and where it was raised."""
    return f"  {kind_of(error)}: {message_of(error)}\n  at {where(resource, error)}"


def message_of(error: BaseException) -> str:
    """The message of what an opening raised, without user and password of URLs."""
    return CREDENTIALS.sub("***@", text_of(error))


def where(resource: Resource[Any], error: BaseException | None = None) -> str:
    """``FILE:LINE, in NAME``: the innermost line of the resource's file in the traceback of *error*."""
    code = resource.function.__code__
    line, name = code.co_firstlineno, code.co_name
    at: TracebackType | None = None if error is None else error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == code.co_filename:
            line, name = at.tb_lineno, at.tb_frame.f_code.co_name
        at = at.tb_next
    return f"{code.co_filename}:{line}, in {name}"
