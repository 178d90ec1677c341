from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fivestage.nodes.intent import classify, intent

if TYPE_CHECKING:
    from collections.abc import Callable
reproducible = settings(derandomize=True, deadline=None)

INTENTS = {"mathematical", "factual", "greeting", "general"}

SUMS = [
    "What is 15 + 7?",
    "2+2",
    "12 times 3",
    "the square root of 81",
    "15 % of 80",
    "15 percent of 80",
    "-3 * (2 - 5)",
    "10/4",
    "2 ** 10",
    "2^10",
    "3 x 4",
    "3x4",
    "5 squared",
    "1 + 1 = ?",
    "hi, what is 2+2?",
    "Please calculate 1,234 + 5 for me, thanks!",
    "how much is 7 divided by 2",
    "what is 555-1234?",
    "calculate 24/7",
    "6 \u00d7 7 \u2212 2",
    "What is 50%?",
    "(2+3",
    "9**9**9",
]
OTHERS = [
    ("a well-known fact?", "factual"),
    ("Is it and/or?", "factual"),
    ("24/7 support", "general"),
    ("24/7", "general"),
    ("What is 24/7?", "factual"),
    ("What happened on 9/11?", "factual"),
    ("call 555-123-4567", "general"),
    ("555-123-4567", "general"),
    ("+1-555-123-4567", "general"),
    ("+49 30 1234567", "general"),
    ("(555) 123-4567", "general"),
    ("4111-1111-1111-1111", "general"),
    ("2024-01-15", "general"),
    ("What is 2024-01-15?", "factual"),
    ("12/31/2024", "general"),
    ("What is COVID-19?", "factual"),
    ("version 3.11.2", "general"),
    ("C++ 17", "general"),
    ("I have 2 cats - and 1 dog", "general"),
    ("-5", "general"),
    ("50%", "general"),
    ("0x10", "general"),
    ("\u0662+\u0662", "general"),
    ("What is the capital of France?", "factual"),
    ("population of Japan", "factual"),
    ("Tell me about Kenya", "factual"),
    ("Hi", "greeting"),
    ("Hello there!", "greeting"),
    ("good morning", "greeting"),
    ("Hello, how are you today?", "greeting"),
    ("good grief", "general"),
    ("Hi, what is the capital of France?", "factual"),
    ("Write me a poem.", "general"),
    ("", "general"),
    ("?!", "general"),
    ("\0", "general"),
]


@pytest.mark.parametrize("text", SUMS)
def test_sum(text: str) -> None:
    """Arithmetic in digits, signs and words is mathematical."""
    assert classify(text)[0] == "mathematical"


@pytest.mark.parametrize(("text", "expected"), OTHERS)
def test_other(text: str, expected: str) -> None:
    """Signs inside words, idioms, phone numbers and dates are no sums."""
    assert classify(text)[0] == expected


async def test_stage_shape(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """The stage returns intent, confidence and the rule, as in the contract."""
    assert await intent(ask("2+2"), context()) == {
        "intent": "mathematical",
        "confidence": 0.95,
        "rule": "sum",
    }


@reproducible
@given(st.text(max_size=600))
def test_any_text(text: str) -> None:
    """Every text has one of the four intents and a confidence within 0..1."""
    name, confidence, _ = classify(text)
    assert name in INTENTS
    assert 0 <= confidence <= 1


@pytest.mark.parametrize("text", ["1+" * 50_000, "(" * 100_000, "x" * 100_000, " " * 100_000, "1 " * 50_000])
def test_huge_text(text: str) -> None:
    """A text of 100,000 characters is classified by its beginning."""
    assert classify(text)[0] in INTENTS
