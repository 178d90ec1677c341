"""Finds the resources that a function mentions, in its code and that of the functions inside of it."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any

from fivestage.pipeline.resource import Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def resources_in(call: Callable[..., Any]) -> list[Resource[Any]]:
    """The resources that a function mentions: as a global, a variable around it, or an attribute of a module.

    Others cannot be seen, such as those that a function uses which it calls.
    """
    function = _function(call)
    if function is None:
        return []
    values = dict(zip(function.__code__.co_freevars, _cells(function), strict=False))
    found: dict[int, Resource[Any]] = {}
    for code in _codes(function.__code__):
        for name in (*code.co_names, *code.co_freevars):
            value = values.get(name, function.__globals__.get(name))
            inside = [vars(value).get(one) for one in code.co_names] if inspect.ismodule(value) else []
            found |= {id(one): one for one in (value, *inside) if isinstance(one, Resource)}
    return list(found.values())


def is_coroutine_function(call: Callable[..., Any]) -> bool:
    """Whether the function that ``resources_in`` looks into is an ``async def``."""
    return inspect.iscoroutinefunction(_function(call))


def _function(call: Any) -> types.FunctionType | None:
    """The Python function behind a callable; None if there is none."""
    while isinstance(call, types.MethodType) or hasattr(call, "func"):
        call = call.__func__ if isinstance(call, types.MethodType) else call.func  # of a functools.partial
    call = inspect.unwrap(call)
    if not isinstance(call, types.FunctionType):
        call = getattr(type(call), "__call__", None)  # noqa: B004 - of an object that is called
    return call if isinstance(call, types.FunctionType) else None


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it has no value yet
            yield None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
