"""Computes the value of an expression a second way, to check the first.

The module shares no code with the math node: Python's parser reads the expression, and a whitelist decides
what may stand in it. Nothing is executed as code.
"""

from __future__ import annotations

import ast
import operator
from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

MAX_LENGTH = 4000
"""Characters of an expression; the math node writes less for a question of 500 characters."""
MAX_BITS = 5000
MAX_ROOT = 16
"""The highest root that is recognised as exact."""
TOLERANCE = Fraction(1, 10**12)
"""Relative tolerance, unless both values are whole."""


def recompute(expression: str) -> Fraction:
    """The value of an arithmetic *expression* in Python's syntax, with ``sqrt(...)``.

    Raises:
        ValueError: it is too long, malformed, or has anything in it but numbers, ``+ - * / // % **``, signs
            and ``sqrt``.
        ArithmeticError: division by zero, or a value that is too large or not real.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError("the expression is too long")
    try:
        root = ast.parse(expression, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("the expression is malformed") from error
    values: dict[ast.expr, Fraction] = {}
    try:
        for node in reversed(list(ast.walk(root))):  # operands before their operators, without recursion
            if isinstance(node, ast.expr) and not (isinstance(node, ast.Name) and node.id == "sqrt"):
                values[node] = _bounded(_value(node, expression, values))
        return values[root]
    except KeyError:
        raise ValueError("sqrt needs an argument") from None


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


def _value(node: ast.expr, source: str, values: Mapping[ast.expr, Fraction]) -> Fraction:
    """The value of *node*, given the values of its operands."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            # The digits as written: a float would already have lost some.
            return Fraction(source[node.col_offset : node.end_col_offset])
        case ast.UnaryOp(op=ast.USub()):
            return -values[node.operand]
        case ast.UnaryOp(op=ast.UAdd()):
            return values[node.operand]
        case ast.BinOp(op=ast.Pow()):
            return _raise(values[node.left], values[node.right])
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return Fraction(_OPERATORS[type(node.op)](values[node.left], values[node.right]))
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
            return _raise(values[argument], Fraction(1, 2))
    raise ValueError(f"{type(node).__name__} is not arithmetic")


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ArithmeticError("a value is too large")
    return value


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
        return result  # the exact check below would take too long
    near = Fraction(round(result * 10**15), 10**15)  # sqrt(81) is 9, not 9.000...01
    return near if near**exponent.denominator == base**exponent.numerator else result
