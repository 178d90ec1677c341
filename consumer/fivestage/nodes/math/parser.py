"""Arithmetic as people write it: from a question to the tokens of an expression.

Intent asks whether a text *is* a sum, the math node asks *which*; both read it here, so they agree.

Tokens are plain strings: numbers (``"12.5"``, without thousands separators), the operators ``+ - * /
// % **``, parentheses, and four that only people write: ``sqrt`` (prefix), ``squared`` and ``cubed``
(postfix), ``of`` (after a percentage).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fivestage.nodes.text import word_set

MAX_LENGTH = 500
"""Characters of a question that are looked at; longer ones are sums only in jest."""

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
"""A date is never a sum."""
_IDIOMS = frozenset({"24/7", "9/11", "50/50"})
"""Sums only when someone orders the result; "what is 24/7" asks for a meaning."""
_ORDERS = ("=", "calc", "compute", "evaluate", "solve")
_PHONE = re.compile(
    r"[0-9]{3}-[0-9]{4}|\+?[0-9]{1,4}(?:-[0-9]{2,})+-[0-9]{2,}|\+[0-9]+[0-9()/ -]+",
)
"""A telephone or card number is a sum only when someone asks for the result."""


@dataclass(frozen=True, slots=True)
class Sum:
    """What was found in a question."""

    tokens: tuple[str, ...]
    asked: bool
    """Whether words such as "what is" or an equals sign ask for the result."""


def find_sum(text: str) -> Sum | None:
    """The sum that *text* consists of, apart from words of asking; None if it is anything else.

    Only the look counts: the tokens need not be a well-formed expression. A text is a sum when it has a
    digit and an operator and every word in it belongs to arithmetic or to asking politely.
    """
    text = text[:MAX_LENGTH].strip()
    return _find_sum(text) if _may_be_sum(text) else None


@lru_cache(maxsize=256)
def _find_sum(text: str) -> Sum | None:
    # Remembered, for the math node asks again what intent asked a moment ago.
    read = _read(_spelled(text))
    if read is None:
        return None
    if not _calculates(read.tokens, asked=read.asked) or _is_name_of_something(text, asked=read.asked):
        return None
    return Sum(tuple(read.tokens), read.asked)


def _may_be_sum(text: str) -> bool:
    # Cheap, since most questions are none: a digit must be there.
    return any(digit in text for digit in "0123456789")


def _spelled(text: str) -> str:
    """Turn phrases of several words into one."""
    lowered = text.lower()
    if any(hint in lowered for hint in _HINTS):
        for phrase, replacement in _PHRASES:
            text = phrase.sub(replacement, text)
    if "x" in lowered:
        text = _BETWEEN_NUMBERS.sub(" * ", text)
    return text


def _read(text: str) -> _Reader | None:
    """Read all of *text*; None at the first thing that is foreign to a sum."""
    reader = _Reader()
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        kind = match.lastgroup or ""
        found = match.group(kind)
        symbol = _symbol(kind, found)
        if not (reader.skip(kind, found) if symbol is None else reader.take(symbol)):
            return None
    return reader


class _Reader:
    """Collects tokens and refuses what cannot be part of a sum."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.asked = False
        self._closed = False  # words after the sum end it

    def take(self, symbol: str) -> bool:
        last = self.tokens[-1] if self.tokens else ""
        if symbol == "of" and last not in {"percent", "%"}:
            return not last  # "the value of 3 + 4"
        adjacent = _is_number(symbol) and (_is_number(last) or last in _POSTFIX)
        if self._closed or adjacent:
            return False
        self.tokens.append(symbol)
        return True

    def skip(self, kind: str, found: str) -> bool:
        word = found.lower()
        if kind == "word" and word not in _FILLER:
            return False
        self.asked = self.asked or word in _ASKING
        self._closed = bool(self.tokens) and (self._closed or word not in _INSIDE)
        return True


def _symbol(kind: str, found: str) -> str | None:
    if kind == "number":
        return found.replace(",", "")
    if kind == "sign" and found != "=":
        return _SYMBOLS.get(found, found)
    if kind == "word":
        return _WORDS.get(found.lower())
    return None


def _is_number(symbol: str) -> bool:
    return symbol[-1:].isdigit()


def _calculates(tokens: list[str], *, asked: bool) -> bool:
    """Whether there is something to work out: a lone signed number or percentage is only a number."""
    operand = False
    for symbol in tokens:
        if _is_number(symbol):
            operand = True
        elif symbol in {"+", "-", "%"}:
            # A sign in front of everything is no operation, and "50%" is one only if someone asks.
            if operand and (symbol != "%" or asked or tokens[-1] != "%"):
                return True
        elif symbol in _OPERATORS or (symbol == "percent" and asked):
            return True
    return False


def _is_name_of_something(text: str, *, asked: bool) -> bool:
    if "-" not in text and "/" not in text:
        return False
    bare = text.rstrip(" \t\r\n?.!")
    last = bare.rsplit(" ", 1)[-1]
    if _DATE.fullmatch(last):
        return True
    if last in _IDIOMS:
        return not any(order in text.lower() for order in _ORDERS)
    return not asked and _PHONE.fullmatch(bare) is not None
