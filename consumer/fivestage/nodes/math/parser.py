"""Finds the sum in a question and splits it into tokens.

Used by intent (is the text a sum?) and by the math node (which one?), so that the two agree.

Tokens are strings: numbers (``"12.5"``, without thousands separators), the operators ``+ - * / // % **``,
parentheses, and words: ``sqrt`` (prefix), ``squared``, ``cubed`` and ``percent`` (postfix), ``of`` (after a
percentage).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fivestage.nodes.text import word_set

MAX_LENGTH = 500
"""Characters of a question that are read."""

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?![0-9A-Za-z_:,]|\.[0-9])
    | (?P<sign>\*\*|//|[-+*/%^()\u00d7\u00f7\u2212\u00b7\u00b2\u00b3\u221a=])
    | (?P<word>[A-Za-z]+(?:['\u2019][a-z]+)?)
    | (?P<pause>[,:;?!.])
    )""",
    re.VERBOSE,
)
_BETWEEN_NUMBERS = re.compile(r"(?<=[0-9)])(?<!\b0)\s*x\s*(?=[0-9(])", re.IGNORECASE)

_SYMBOLS = {
    "^": "**",
    "\u00d7": "*",
    "\u00b7": "*",
    "\u00f7": "/",
    "\u2212": "-",
    "\u00b2": "squared",
    "\u00b3": "cubed",
    "\u221a": "sqrt",
}
_WORDS = {
    "plus": "+",
    "minus": "-",
    "negative": "-",
    "times": "*",
    "over": "/",
    "mod": "%",
    "modulo": "%",
    "squared": "squared",
    "cubed": "cubed",
    "sqrt": "sqrt",
    "percent": "percent",
    "of": "of",
}
_DIGITS = frozenset("0123456789")
_PHRASES = (
    (re.compile(r"\bsquare\s+root(?:\s+of)?\b|\bsqrt\s+of\b", re.IGNORECASE), " sqrt "),
    (re.compile(r"\b(?:multiplied|multiply)\s+by\b", re.IGNORECASE), " times "),
    (re.compile(r"\bdivided?\s+by\b", re.IGNORECASE), " over "),
    (re.compile(r"\b(?:raised\s+)?to\s+the\s+power(?:\s+of)?\b", re.IGNORECASE), " ^ "),
    (re.compile(r"\bper\s+cent\b", re.IGNORECASE), " percent "),
)
_HINTS = ("root", "sqrt", "multipl", "divide", "power", "per cent")
_ASKING = word_set(
    "= calculate compute evaluate solve how much what what's whats what\u2019s result value answer equals"
)
_FILLER = _ASKING | word_set(
    "a an and be can could do does equal find for get give hello hey hi i is it know many me may ok okay "
    "out please say so tell thanks thank that the then to us will work would you make makes"
)
_INSIDE = frozenset({"the", "a"})
_POSTFIX = frozenset({")", "squared", "cubed", "percent"})
_OPERATORS = frozenset({"+", "-", "*", "/", "//", "%", "**", "of", "sqrt", "squared", "cubed"})

_DATE = re.compile(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]|[0-9]{1,2}/[0-9]{1,2}/(?:[0-9]{4}|[0-9]{2})|[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}"
)
"""Dates, which are never sums."""
_IDIOMS = frozenset({"24/7", "9/11", "50/50"})
"""Sums only if a word of _ORDERS asks for the result; "what is 24/7" asks for a meaning."""
_ORDERS = ("=", "calc", "compute", "evaluate", "solve")
_PHONE = re.compile(
    r"[0-9]{3}-[0-9]{4}|\+?[0-9]{1,4}(?:-[0-9]{2,})+-[0-9]{2,}|\+[0-9]+[0-9()/ -]+",
)
"""Telephone and card numbers, which are sums only if the question asks for a result."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum in a question."""

    tokens: tuple[str, ...]
    asked: bool
    """Whether words such as "what is" or an equals sign ask for the result."""


def find_sum(text: str) -> Sum | None:
    """The sum that *text* consists of, apart from words that ask for the result; None if there is none.

    A text is a sum if it has a digit and an operator, and every word in it belongs to arithmetic or to a
    polite question. The tokens need not be a well-formed expression.
    """
    text = text[:MAX_LENGTH].strip()
    return None if _DIGITS.isdisjoint(text) else _find_sum(text)  # most questions have no digit


@lru_cache(maxsize=256)  # the math node reads the text that intent has just read
def _find_sum(text: str) -> Sum | None:
    found = _read(_single_words(text))
    if found is None or not _calculates(found) or _is_name(text, asked=found.asked):
        return None
    return found


def _single_words(text: str) -> str:
    """Replace phrases of several words by one."""
    lowered = text.lower()
    if any(hint in lowered for hint in _HINTS):
        for phrase, replacement in _PHRASES:
            text = phrase.sub(replacement, text)
    if "x" in lowered:
        text = _BETWEEN_NUMBERS.sub(" * ", text)
    return text


def _read(text: str) -> Sum | None:
    """Split *text* into tokens; None at the first word or sign that does not belong to a sum."""
    tokens: list[str] = []
    asked = closed = False  # closed: a word after the sum has ended it
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        kind = match.lastgroup or ""
        word = match.group(kind).lower()
        symbol, last = _symbol(kind, word), tokens[-1] if tokens else ""
        if symbol is None:
            if kind == "word" and word not in _FILLER:
                return None
            asked = asked or word in _ASKING
            closed = bool(tokens) and (closed or word not in _INSIDE)
        elif symbol == "of" and last not in {"percent", "%"}:
            if last:  # it may only stand before the sum: "the value of 3 + 4"
                return None
        elif closed or (_is_number(symbol) and (_is_number(last) or last in _POSTFIX)):
            return None
        else:
            tokens.append(symbol)
    return Sum(tuple(tokens), asked)


def _symbol(kind: str, found: str) -> str | None:
    if kind == "number":
        return found.replace(",", "")
    if kind == "sign" and found != "=":
        return _SYMBOLS.get(found, found)
    if kind == "word":
        return _WORDS.get(found)
    return None


def _is_number(symbol: str) -> bool:
    return symbol[-1:].isdigit()


def _calculates(found: Sum) -> bool:
    """Whether there is something to compute: a lone signed number or percentage is only a number."""
    operand = False
    for symbol in found.tokens:
        if _is_number(symbol):
            operand = True
        elif symbol in {"+", "-", "%"}:
            # A leading sign is no operation, and "50%" is one only if the question asks for a result.
            if operand and (symbol != "%" or found.asked or found.tokens[-1] != "%"):
                return True
        elif symbol in _OPERATORS or (symbol == "percent" and found.asked):
            return True
    return False


def _is_name(text: str, *, asked: bool) -> bool:
    """Whether the numbers are a date, an idiom, or a telephone number."""
    if "-" not in text and "/" not in text:
        return False
    bare = text.rstrip(" \t\r\n?.!")
    last = bare.rsplit(" ", 1)[-1]
    if _DATE.fullmatch(last):
        return True
    if last in _IDIOMS:
        return not any(order in text.lower() for order in _ORDERS)
    return not asked and _PHONE.fullmatch(bare) is not None
