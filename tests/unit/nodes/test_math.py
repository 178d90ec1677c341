from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fivestage.errors import NodeError
from fivestage.nodes.math import node as math
from fivestage.nodes.math.arithmetic import (
    DivisionByZeroError,
    MathError,
    NotAnExpressionError,
    NumberTooLargeError,
)
from fivestage.nodes.math.node import evaluate, present
from fivestage.nodes.math.recheck import agrees, recompute

if TYPE_CHECKING:
    from collections.abc import Callable
reproducible = settings(derandomize=True, deadline=None)

ANSWERS: list[tuple[str, int | float | str]] = [
    ("What is 15 + 7?", 22),
    ("2+2", 4),
    ("12 times 3", 36),
    ("the square root of 81", 9),
    ("square root of 81 plus 19", 28),
    ("15 % of 80", 12),
    ("15 percent of 80 plus 20", 32),
    ("-3 * (2 - 5)", 9),
    ("10/4", 2.5),
    ("7/2*2", 7),
    ("0.1+0.2", 0.3),
    (".5 + .25", 0.75),
    ("1,234,567 + 1", 1234568),
    ("-2**2", -4),
    ("(-2)**2", 4),
    ("2**3**2", 512),
    ("2^-1", 0.5),
    ("10 % 3", 1),
    ("-7 % 3", 2),
    ("-7 // 2", -4),
    ("50% + 10", 10.5),
    ("(2 + 3)% + 0", 0.05),
    ("3 squared plus 4 cubed", 73),
    ("-3 squared", -9),
    ("5\u00b2", 25),
    ("\u221a16 + 1", 5),
    ("sqrt(9) * 2", 6),
    ("square root of 3 squared", 3),
    ("sqrt(2) ** 2", 2),
    ("3 ** sqrt 2", 4.728804387837415),
    ("8 ** (1/3)", 2),
    ("2 ** 0.5", 1.4142135623730951),
    ("sqrt(0.25)", 0.5),
    ("1/3", 0.3333333333333333),
    ("007 + 1", 8),
    ("minus 5 plus 3", -2),
    ("1 ** 99999999999", 1),
    ("(-1) ** 99999999999", -1),
    ("3 ** 1.5 * 3 ** 1.5", 27),
    ("sqrt(2) * sqrt(2) - 2 + 0", 0),
    ("0 ** 0", 1),
    ("2**53", 2**53),
    ("2**53 + 1", "9007199254740993"),
    ("-2**64", "-18446744073709551616"),
    ("2**60 + 0.5", "1.1529215046068470E+18"),
    ("1 / 10**400", "1E-400"),
]


@pytest.mark.parametrize(("text", "expected"), ANSWERS)
async def test_answer(
    text: str, expected: float | str, ask: Callable[..., Any], context: Callable[..., Any]
) -> None:
    """The answer has the right value and type, is valid JSON, and passes the node's own check."""
    result = await math.solve(ask(text), context())
    assert result["answer"] == expected
    assert type(result["answer"]) is type(expected)
    assert json.loads(orjson.dumps(result)) == result
    assert await math.validate(ask(text), context(result=result)) is True


ERRORS: list[tuple[str, type[MathError], str]] = [
    ("1/0", DivisionByZeroError, "division by zero"),
    ("1 // (2 - 2)", DivisionByZeroError, "division by zero"),
    ("5 % 0", DivisionByZeroError, "division by zero"),
    ("0 ** -1", DivisionByZeroError, "divides by zero"),
    ("9**9**9", NumberTooLargeError, "more than 4096 bits"),
    ("2**5000", NumberTooLargeError, "more than 4096 bits"),
    ("9**(0.5+10**50)", NumberTooLargeError, "more than 4096 bits"),
    ("1+" * 50_000 + "1", NumberTooLargeError, "longer than 500 characters"),
    ("(" * 100 + "1+1" + ")" * 100, NumberTooLargeError, "nests deeper than 64"),
    ("1+" + "-" * 100 + "1", NumberTooLargeError, "nests deeper than 64"),
    ("2" + "**2" * 100, NumberTooLargeError, "nests deeper than 64"),
    ("(" * 100_000, NumberTooLargeError, "longer than 500 characters"),
    ("5" + "%" * 400 + " + 1", NumberTooLargeError, "more than 64 percentages"),
    ("(2 + 3", NotAnExpressionError, "closing parenthesis is missing"),
    ("2 + ", NotAnExpressionError, "expected a number at the end"),
    ("2 + * 3", NotAnExpressionError, "expected a number before '*'"),
    ("2 (3) + 1", NotAnExpressionError, "expected an operator before '('"),
    ("2 + 3)", NotAnExpressionError, "expected an operator before ')'"),
    ("hello", NotAnExpressionError, "no arithmetic expression"),
    ("", NotAnExpressionError, "no arithmetic expression"),
    ("2\0+2", NotAnExpressionError, "no arithmetic expression"),
    ("\u0662 + \u0662", NotAnExpressionError, "no arithmetic expression"),
    ("__import__('os').system('true') + 1", NotAnExpressionError, "no arithmetic expression"),
    ("sqrt(-1) + 0", MathError, "not real"),
    ("(-8) ** (1/3)", MathError, "not real"),
]


@pytest.mark.parametrize(("text", "error", "message"), ERRORS)
async def test_refused(
    text: str, error: type[MathError], message: str, ask: Callable[..., Any], context: Callable[..., Any]
) -> None:
    """An expression that cannot be computed raises a short NodeError without the input."""
    with pytest.raises(error) as raised:
        await math.solve(ask(text), context())
    assert message in str(raised.value)
    assert isinstance(raised.value, NodeError)
    assert len(str(raised.value)) < 100


numbers = st.one_of(
    st.integers(0, 10**6).map(str),
    st.decimals(0, 1000, places=3).map(lambda number: f"{number:f}"),
)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        inner.map(lambda text: f"(-{text})"),
        st.tuples(inner, st.integers(0, 4)).map(lambda t: f"({t[0]} ** {t[1]})"),
    ),
    max_leaves=8,
)


@reproducible
@given(expressions)
def test_two_ways(expression: str) -> None:
    """The parser and the independent evaluator agree on every well-formed expression."""
    try:
        value, normalised, _ = evaluate(f"{expression} + 0")
    except (NumberTooLargeError, DivisionByZeroError):
        return
    assert recompute(normalised) == value
    assert agrees(present(value)[0], recompute(normalised))


@reproducible
@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_are_exact(left: int, right: int) -> None:
    """Integers of any size are exact."""
    value, _, rational = evaluate(f"({left}) * ({right})")
    answer, exact = present(value, rational=rational)
    assert int(answer) == left * right
    assert exact is True
    assert isinstance(answer, int) == (abs(left * right) <= 2**53)


@reproducible
@given(st.text(alphabet="0123456789+-*/%^().,x squaredof\u00b2\u221a=\0", max_size=80))
def test_any_text(text: str) -> None:
    """A text of arithmetic parts is computed and checked, or raises MathError."""
    try:
        value, normalised, rational = evaluate(text)
    except MathError:
        return
    assert agrees(present(value, rational=rational)[0], recompute(normalised))


async def test_wrong_answer(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """The check rejects an answer off by one, of another type, or without an expression."""
    query = ask("2+2")
    for result in (
        {"answer": 5, "expression": "2 + 2"},
        {"answer": True, "expression": "1"},
        {"answer": None, "expression": "2 + 2"},
        {"answer": "four", "expression": "2 + 2"},
        {"answer": 4},
        {"answer": 4, "expression": "1 / 0"},
        {"answer": "18446744073709551617", "expression": "2 ** 64"},
        4,
    ):
        assert await math.validate(query, context(result=result)) is False


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "abs(1)",
        "sqrt(1, 2)",
        "sqrt(x=1)",
        "True + 1",
        "1 if 1 else 2",
        "1 << 2",
        "~1",
        "'a' * 3",
        "1j",
        "x",
        "",
        "1 +",
        "1\0",
        "(" * 300,
        "1" * 5000,
    ],
)
def test_recompute_refuses(expression: str) -> None:
    """The second evaluator takes arithmetic only, and raises ValueError for the rest."""
    with pytest.raises(ValueError, match=r".+"):
        recompute(expression)


@pytest.mark.parametrize("expression", ["9 ** 9 ** 9", "1 / 0", "0 ** -1", "(-1) ** 0.5", "sqrt(-1)"])
def test_recompute_is_bounded(expression: str) -> None:
    """The second evaluator rejects a huge power before computing it, like the first."""
    with pytest.raises(ArithmeticError):
        recompute(expression)


def test_recompute_long_chain() -> None:
    """A chain of hundreds of operators needs no recursion."""
    assert recompute("+".join(["1"] * 900)) == Fraction(900)
