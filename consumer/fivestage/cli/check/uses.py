"""Finds the resources that a function mentions, in its code and that of the functions inside of it."""

from __future__ import annotations

import dis
import inspect
import types
from typing import TYPE_CHECKING, Any, Final

from fivestage.pipeline.resource import Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

UNNAMED: Final = object()
"""Stands for what an instruction loads that is not known before the code runs."""
_BETWEEN: Final = frozenset({"CACHE", "PUSH_NULL", "PRECALL", "COPY_FREE_VARS"})
"""Instructions that load nothing."""


def resources_in(call: Callable[..., Any]) -> list[Resource[Any]]:
    """The resources that a function mentions: as a global, a variable around it, or an attribute of a module.

    Others cannot be seen, such as those that a function uses which it calls.
    """
    function = _function(call)
    if function is None:
        return []
    values = _closed_over(function)
    found: dict[int, Resource[Any]] = {}
    for code in _codes(function.__code__):
        for name in (*code.co_names, *code.co_freevars):
            value = values.get(name, function.__globals__.get(name))
            inside = [vars(value).get(one) for one in code.co_names] if inspect.ismodule(value) else []
            found |= {id(one): one for one in (value, *inside) if isinstance(one, Resource)}
    return list(found.values())


def wrong_uses(call: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Names and values that a function passes to ``ctx.use`` and that are no resources.

    Only what is there before the function runs can be seen: texts, globals, variables around the function,
    and attributes of modules.
    """
    function, context = _function(call), _context_of(call)
    if function is None or context is None:
        return []
    known = {**function.__globals__, **_closed_over(function)}
    found = {}
    for code in _codes(function.__code__):
        steps = [one for one in dis.get_instructions(code) if one.opname not in _BETWEEN]
        for number in range(len(steps) - 3):
            receiver, method = steps[number : number + 2]
            if method.argval == "use" and receiver.argval == context and receiver.opname.startswith("LOAD_"):
                name, value = _argument(steps[number + 2 :], known)
                if value is not UNNAMED and not isinstance(value, Resource):
                    found[name] = value
    return list(found.items())


def _argument(steps: list[dis.Instruction], known: Mapping[str, Any]) -> tuple[str, Any]:
    """The name and the value of a call's only argument; UNNAMED if it is not one that is known."""
    first, after = steps[0], steps[1]
    name, value = str(first.argval), UNNAMED
    if first.opname == "LOAD_CONST":
        value = first.argval
    elif first.opname in {"LOAD_GLOBAL", "LOAD_DEREF", "LOAD_CLASSDEREF"}:
        value = known.get(name, UNNAMED)
    if after.opname == "LOAD_ATTR" and inspect.ismodule(value):
        name, value = f"{name}.{after.argval}", vars(value).get(str(after.argval), UNNAMED)
        after = steps[2]
    return name, value if after.opname == "CALL" else UNNAMED


def _context_of(call: Callable[..., Any]) -> str | None:
    """The name of a function's second parameter, the context."""
    try:
        names = list(inspect.signature(call).parameters)
    except (TypeError, ValueError):
        return None
    return names[1] if len(names) > 1 else None


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


def _closed_over(function: types.FunctionType) -> dict[str, Any]:
    """The variables around a function, by name."""
    return dict(zip(function.__code__.co_freevars, _cells(function), strict=False))


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it has no value yet
            yield UNNAMED


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
