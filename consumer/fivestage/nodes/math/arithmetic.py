"""Exact arithmetic on ``int`` and ``Fraction``, bounded so that no operation can run long.

A ``Fraction`` never has the denominator 1 here: whole values are ``int``, which is faster and prints better.
"""

from __future__ import annotations

import math
import operator
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fivestage.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Callable

Exact = int | Fraction

MAX_BITS = 4096
"""Bits of the largest numerator or denominator, also of intermediate values (about 1,233 decimal digits)."""
DIGITS = 50
"""Significant digits of irrational values while computing."""

_NOISE = Fraction(1, 10 ** (DIGITS - 20))  # an approximation of zero is below this
_HALF = Fraction(1, 2)
_DIVISIONS: dict[str, Callable[[Any, Any], Exact]] = {
    "/": Fraction,
    "//": operator.floordiv,
    "%": operator.mod,
}
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, **_DIVISIONS}


class MathError(NodeError):
    """A sum cannot be computed. The text says why; it repeats at most one token of the input."""


class NotAnExpressionError(MathError):
    """The text is not arithmetic, or is malformed."""


class DivisionByZeroError(MathError):
    """Something is divided by zero."""


class NumberTooLargeError(MathError):
    """A value, intermediate or final, or the expression itself is larger than this node computes."""


def binary(symbol: str, left: Exact, right: Exact) -> Exact:
    """One of ``+ - * / // %``; the remainder has the sign of *right*."""
    if right == 0 and symbol in _DIVISIONS:
        raise DivisionByZeroError("division by zero")
    return _bounded(_OPERATORS[symbol](left, right))


def power(base: Exact, exponent: Exact) -> tuple[Exact, bool]:
    """*base* to the *exponent*, and whether the result is exact rather than an approximation.

    The size of the result is estimated first: 9 ** 9 ** 9 raises NumberTooLargeError at once.
    """
    if base == 0 and exponent < 0:
        raise DivisionByZeroError("zero to a negative power divides by zero")
    if base in {0, 1} or exponent in {0, 1}:
        return (1 if exponent == 0 else base), True
    if base == -1 and isinstance(exponent, int):
        return (-1 if exponent % 2 else 1), True
    if _bits(base) * abs(Fraction(exponent)) > MAX_BITS:
        raise NumberTooLargeError(f"a power has more than {MAX_BITS} bits")
    if isinstance(exponent, int):
        return _bounded(Fraction(base) ** exponent), True
    if base < 0:
        raise MathError("a fractional power of a negative number is not real")
    if exponent.denominator == _HALF.denominator:
        return square_root(_bounded(Fraction(base) ** exponent.numerator))
    return _approximate(base, exponent), False


def square_root(value: Exact) -> tuple[Exact, bool]:
    """The square root of *value*, and whether the result is exact rather than an approximation."""
    if value < 0:
        raise MathError("the square root of a negative number is not real")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        return _bounded(Fraction(top, bottom)), True
    return _approximate(value, _HALF), False


def number(digits: str) -> Exact:
    """The value of ASCII *digits* with at most one point among them."""
    whole, _, decimals = digits.partition(".")
    value = int(whole + decimals)
    return _bounded(Fraction(value, 10 ** len(decimals)) if decimals else value)


def rounded(value: Exact) -> Exact:
    """Drop the digits that approximation may have got wrong, so that sqrt(2) ** 2 is 2."""
    if abs(Fraction(value)) < _NOISE:
        return 0
    return _bounded(Fraction(decimal(value, DIGITS - 10)))


def decimal(value: Exact, digits: int) -> Decimal:
    """*value* rounded to *digits* significant digits."""
    return Context(prec=digits).divide(Decimal(value.numerator), Decimal(value.denominator))


def _approximate(base: Exact, exponent: Fraction) -> Exact:
    with localcontext(Context(prec=DIGITS)) as context:
        return _bounded(Fraction(context.power(decimal(base, DIGITS), decimal(exponent, DIGITS))))


def _bits(value: Exact) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Exact) -> Exact:
    if _bits(value) > MAX_BITS:
        raise NumberTooLargeError(f"a number has more than {MAX_BITS} bits")
    return value.numerator if value.denominator == 1 else value
