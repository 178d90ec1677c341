"""The built-in intent stage: classifies questions by rules, the most certain rule first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestage.nodes.math.parser import find_sum
from fivestage.nodes.text import word_set, words

if TYPE_CHECKING:
    from fivestage.pipeline.context import Query, StageContext

INTENTS = MATHEMATICAL, FACTUAL, GREETING, GENERAL = "mathematical", "factual", "greeting", "general"
"""Those that this stage finds."""

MAX_LENGTH = 500
"""Characters of a question that the rules read."""

_GREETINGS = word_set(
    "hello hi hey hiya howdy greetings morning afternoon evening welcome bye goodbye cheers"
)
_COURTESIES = _GREETINGS | word_set(
    "again all and are bot dear doing everybody everyone folks friend good how is it s team thanks thank "
    "there to today up very well what whats world you"
)
_LONGEST_GREETING = 8

_QUESTION_WORDS = word_set(
    "what whats which who whom whose when where why how is are was were do does did can could will would "
    "has have had should"
)
_REQUESTS = frozenset({"tell", "name", "define", "explain", "list", "find", "show", "give", "describe"})
_ATTRIBUTES = frozenset({"capital", "population", "currency", "continent", "area"})
_OPENERS = _GREETINGS | frozenset(
    {"please", "so", "ok", "okay", "well", "and", "in", "on", "at", "of", "for"}
)


async def intent(query: Query, ctx: StageContext) -> dict[str, Any]:  # noqa: ARG001
    """Classify the question.

    Returns:
        ``intent``: ``mathematical``, ``factual``, ``greeting`` or ``general``; ``confidence``: 0..1;
        ``rule``: the rule that decided.
    """
    name, confidence, rule = classify(query.user_input)
    return {"intent": name, "confidence": confidence, "rule": rule}


def classify(text: str) -> tuple[str, float, str]:
    """The intent of *text*, the confidence in it (0..1), and the rule that decided."""
    text = text[:MAX_LENGTH]
    found = find_sum(text)
    if found is not None:
        return MATHEMATICAL, (0.98 if found.asked else 0.95), "sum"
    spoken = words(text)
    if not spoken:
        return GENERAL, 0.1, "no words"
    if _greets(spoken):
        return GREETING, 0.95, "greeting"
    return _question(text, spoken)


def _greets(spoken: list[str]) -> bool:
    """Whether the text is only a greeting; "hi, what is the capital of France" is not."""
    if len(spoken) > _LONGEST_GREETING:
        return False
    first, *others = spoken
    greets = first in _GREETINGS or (first == "good" and others[:1] and others[0] in _GREETINGS | {"day"})
    return bool(greets) and (_COURTESIES | {"day"}).issuperset(spoken)


def _question(text: str, spoken: list[str]) -> tuple[str, float, str]:
    marked = text.rstrip().endswith("?")
    first = next((word for word in spoken if word not in _OPENERS), spoken[0])
    if first in _QUESTION_WORDS:
        return FACTUAL, (0.9 if marked else 0.8), "question word"
    if not _ATTRIBUTES.isdisjoint(spoken):
        return FACTUAL, 0.85, "attribute"
    if first in _REQUESTS:
        return FACTUAL, 0.7, "request"
    if marked:
        return FACTUAL, 0.7, "question mark"
    return GENERAL, 0.5, "nothing applied"
