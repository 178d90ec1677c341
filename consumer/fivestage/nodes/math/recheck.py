"""A second way to the value of an expression, for checking the first.

It shares no code with the math node: Python's own parser reads the expression, a whitelist decides what
may stand in it, and an explicit stack takes the place of recursion. Nothing is ever executed as code.
"""

from __future__ import annotations

import ast
import operator
from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

_Step: TypeAlias = ast.expr | ast.operator | ast.unaryop | str

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

MAX_LENGTH = 4000
"""Characters of an expression; the math node's normal form of 500 characters stays below it."""
MAX_BITS = 5000
MAX_ROOT = 16
"""Roots up to this one are recognised when they are exact."""
TOLERANCE = Fraction(1, 10**12)
"""Relative; only for values that are not exact."""


def recompute(expression: str) -> Fraction:
    """The value of a Python-like arithmetic *expression* with ``sqrt(...)``.

    Raises:
        ValueError: it is too long, malformed, or has anything in it but numbers, ``+ - * / // % **``,
            signs and ``sqrt``.
        ArithmeticError: division by zero, or a value grows too large.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError("the expression is too long")
    try:
        root = ast.parse(expression, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("the expression is malformed") from error
    todo: list[_Step] = [root]
    values: list[Fraction] = []
    while todo:
        step = todo.pop()
        if isinstance(step, ast.expr):
            _unfold(step, expression, todo, values)
        else:
            _apply(step, values)
    return values.pop()


def agrees(answer: Any, value: Fraction) -> bool:
    """Whether *answer*, an int, float or decimal string, states *value*: exactly if both are whole."""
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        return False
    try:
        stated = Fraction(answer)
    except (ValueError, OverflowError, ZeroDivisionError):
        return False
    if value.denominator == 1 and stated.denominator == 1 and "E" not in str(answer).upper():
        return stated == value
    difference = abs(stated - value)
    return difference <= TOLERANCE * max(abs(stated), abs(value)) or difference < TOLERANCE**2


def _unfold(node: ast.expr, source: str, todo: list[_Step], values: list[Fraction]) -> None:
    """Push what has to be done for *node*; the last pushed is done first."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            # The digits as written: a float would already have lost some.
            values.append(Fraction(source[node.col_offset : node.end_col_offset]))
        case ast.BinOp():
            todo += (node.op, node.right, node.left)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            todo += (node.op, node.operand)
        case ast.Call(func=ast.Name(id="sqrt"), args=[ast.expr() as argument], keywords=[]):
            todo += ("sqrt", argument)
        case _:
            raise ValueError(f"{type(node).__name__} is not arithmetic")


def _apply(step: ast.operator | ast.unaryop | str, values: list[Fraction]) -> None:
    right = values.pop()
    if step == "sqrt":
        result = _raise(right, Fraction(1, 2))
    elif isinstance(step, ast.USub):
        result = -right
    elif isinstance(step, ast.UAdd):
        result = right
    elif isinstance(step, ast.operator):
        result = _binary(step, values.pop(), right)
    else:
        raise ValueError("not arithmetic")
    if max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
        raise ArithmeticError("a value is too large")
    values.append(result)


def _binary(step: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    if isinstance(step, ast.Pow):
        return _raise(left, right)
    function = _OPERATORS.get(type(step))
    if function is None:
        raise ValueError(f"{type(step).__name__} is not arithmetic")
    return Fraction(function(left, right))


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    if base in {0, 1, -1} and exponent.denominator == 1:
        return base ** (int(exponent) % 2) if exponent > 0 and base else base ** int(exponent)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise ArithmeticError("a power is too large")
    if exponent.denominator == 1:
        return base ** int(exponent)
    if base < 0:
        raise ArithmeticError("the power is not real")
    context = Context(prec=40)
    number = context.divide(Decimal(base.numerator), Decimal(base.denominator))
    power = context.divide(Decimal(exponent.numerator), Decimal(exponent.denominator))
    result = Fraction(context.power(number, power))
    if exponent.denominator > MAX_ROOT:
        return result  # an exponent that is irrational itself: trying it out would take for ever
    near = Fraction(round(result * 10**15), 10**15)  # sqrt(81) is 9, not 9.000...01
    return near if near**exponent.denominator == base**exponent.numerator else result
