"""The ``math`` node: exact arithmetic on sums as people write them.

The parser is a precedence climber (Pratt, "Top Down Operator Precedence", 1973) that computes while it reads,
so a long chain of operators needs no deep recursion. Values are ``int`` and ``Fraction``: 0.1 + 0.2 is 0.3,
and 7 / 2 * 2 is 7. Only irrational roots and powers are approximated, to 50 digits.

Nothing here can run long: the length of the text, the depth of nesting and the bits of every intermediate
value are bounded, and a power that is too large is rejected before it is computed.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fivestage.nodes.math.arithmetic import (
    Exact,
    NotAnExpressionError,
    NumberTooLargeError,
    binary,
    decimal,
    number,
    power,
    rounded,
    square_root,
)
from fivestage.nodes.math.parser import MAX_LENGTH, find_sum
from fivestage.nodes.math.recheck import agrees, recompute
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.pipeline.context import Query, StageContext

MAX_DEPTH = 64
"""Most nested levels of an expression; also most percentages, squares and cubes in it."""
SAFE_INTEGER = 2**53
"""Above this, JSON readers that use doubles lose digits; larger results are strings."""

_SMALLEST = Fraction(1, 10**300)  # doubles below lose digits
_SIGN = 30
_BINDING = dict.fromkeys(("+", "-"), 10) | dict.fromkeys(("*", "/", "//", "%", "of"), 20)
"""How tightly binary operators bind; ``**`` and signs bind tighter."""
_POSTFIX = frozenset({"%", "percent", "squared", "cubed"})


async def solve(query: Query, ctx: StageContext) -> dict[str, Any]:  # noqa: ARG001
    """Compute the sum in the question; a coroutine, since it takes less than a hop to a thread.

    Returns:
        ``answer``: an int, a float, or a string where a JSON number would lose digits or overflow;
        ``confidence``: 1.0 if the answer is exact, else 0.99; ``expression``: as it was understood;
        ``exact``: whether the answer is the value itself, not rounded to a double.

    Raises:
        MathError: there is no sum, or it cannot be computed; the subclass says why.
    """
    value, expression, rational = evaluate(query.user_input)
    answer, exact = present(value, rational=rational)
    return {"answer": answer, "confidence": 1.0 if exact else 0.99, "expression": expression, "exact": exact}


async def validate(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
    """Whether a second evaluator gets the same answer from the expression that the node stated."""
    result = ctx.results.get(StageType.PROCESSING)
    if not isinstance(result, dict) or not isinstance(result.get("expression"), str):
        return False
    try:
        return agrees(result.get("answer"), recompute(result["expression"]))
    except (ArithmeticError, ValueError):
        return False


def evaluate(text: str) -> tuple[Exact, str, bool]:
    """The value of the sum in *text*, its normalised expression, and whether no part was approximated."""
    if len(text) > MAX_LENGTH:
        raise NumberTooLargeError(f"the expression is longer than {MAX_LENGTH} characters")
    found = find_sum(text)
    if found is None:
        raise NotAnExpressionError("no arithmetic expression was found; write it like 2 * (3 + 4)")
    parser = _Parser(found.tokens)
    value, expression = parser.expression(0, 0)
    if parser.peek():
        raise NotAnExpressionError(f"expected an operator before {parser.peek()[:20]!r}")
    return value, expression, parser.rational


def present(value: Exact, *, rational: bool = True) -> tuple[int | float | str, bool]:
    """*value* as a JSON value, and whether the JSON value is exact."""
    if not rational:
        value = rounded(value)
    if isinstance(value, int):
        return (value if abs(value) <= SAFE_INTEGER else str(value)), rational
    if SAFE_INTEGER > abs(Fraction(value)) > _SMALLEST:
        double = float(value)
        return double, rational and Fraction(repr(double)) == value
    return str(decimal(value, 17)), False


class _Parser:
    """Reads tokens once, from left to right, and computes as it goes."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._postfixes = 0
        self.rational = True
        """Whether no value so far had to be approximated."""

    def peek(self, ahead: int = 0) -> str:
        position = self._next + ahead
        return self._tokens[position] if position < len(self._tokens) else ""

    def expression(self, binding: int, depth: int) -> tuple[Exact, str]:
        """Read all that binds tighter than *binding*; return its value and its normalised text."""
        if depth > MAX_DEPTH:
            raise NumberTooLargeError(f"the expression nests deeper than {MAX_DEPTH} levels")
        value, text = self._prefix(depth)
        while symbol := self.peek():
            if symbol in _POSTFIX and not self._is_modulo():
                self._next += 1
                value, text = self._postfix(symbol, value, text)
            elif symbol == "**":  # binds tightest, right-associative, its right side may be signed
                self._next += 1
                right, right_text = self.expression(_SIGN, depth + 1)
                value, text = self._exactly(power(value, right)), f"{text} ** {right_text}"
            elif _BINDING.get(symbol, 0) > binding:
                self._next += 1
                right, right_text = self.expression(_BINDING[symbol], depth + 1)
                sign = "*" if symbol == "of" else symbol
                value, text = binary(sign, value, right), f"{text} {sign} {right_text}"
            else:
                break
        return value, text

    def _prefix(self, depth: int) -> tuple[Exact, str]:
        symbol = self.peek()
        self._next += 1
        if symbol[-1:].isdigit():
            return number(symbol), _digits(symbol)
        if symbol in {"-", "+"}:
            value, text = self.expression(_SIGN, depth + 1)
            return (-value, f"-{text}") if symbol == "-" else (value, text)
        if symbol == "sqrt":
            return self._root(depth)
        if symbol == "(":
            value, text = self.expression(0, depth + 1)
            if self.peek() != ")":
                raise NotAnExpressionError("a closing parenthesis is missing")
            self._next += 1
            return value, f"({text})"
        wrong = f"before {symbol!r}" if symbol else "at the end"
        raise NotAnExpressionError(f"expected a number {wrong}")

    def _root(self, depth: int) -> tuple[Exact, str]:
        # "sqrt(9) * 2" reads like a function, "square root of 3 squared" like a sign.
        if self.peek() == "(":
            value, text = self._prefix(depth + 1)
            return self._exactly(square_root(value)), f"sqrt{text}"
        value, text = self.expression(_SIGN, depth + 1)
        return self._exactly(square_root(value)), f"sqrt({text})"

    def _is_modulo(self) -> bool:
        # "10 % 3" is a remainder; "50% + 1", "15% of 80" and "(2 + 3)%" are percentages.
        following = self.peek(1)
        return self.peek() == "%" and (following[-1:].isdigit() or following in {"(", "sqrt"})

    def _postfix(self, symbol: str, value: Exact, text: str) -> tuple[Exact, str]:
        self._postfixes += 1
        if self._postfixes > MAX_DEPTH:
            raise NumberTooLargeError(f"the expression has more than {MAX_DEPTH} percentages and squares")
        if symbol in {"%", "percent"}:
            return binary("/", value, 100), f"({text} / 100)"
        exponent = 2 if symbol == "squared" else 3
        return self._exactly(power(value, exponent)), f"({text} ** {exponent})"

    def _exactly(self, computed: tuple[Exact, bool]) -> Exact:
        value, exact = computed
        self.rational = self.rational and exact
        return value


def _digits(symbol: str) -> str:
    """A number the way Python reads it: ``7`` for ``007``, ``0.5`` for ``.5``."""
    whole, point, decimals = symbol.partition(".")
    return f"{whole.lstrip('0') or '0'}{point}{decimals}"
