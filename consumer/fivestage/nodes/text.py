"""Splits questions and names into comparable words."""

from __future__ import annotations

import re
import unicodedata

_DOTTED = re.compile(r"\b(?:[A-Za-z]\.){2,}")
_US = re.compile(r"\bUS\b")
_POSSESSIVE = re.compile(r"['’]s\b", re.IGNORECASE)  # noqa: RUF001
_WORD = re.compile(r"[^\W_]+")
_INVISIBLE = str.maketrans("", "", "\u02bb\u02bc")  # the okina and the modifier apostrophe
_SYNONYMS = {"st": "saint"}


def words(text: str) -> list[str]:
    """The words of *text* in lower case, without accents, punctuation and possessive endings.

    ``"Côte d'Ivoire's"`` gives ``["cote", "d", "ivoire"]``, ``"U.S."`` and ``"US"`` give ``["usa"]``,
    ``"St. Lucia & Co"`` gives ``["saint", "lucia", "and", "co"]``. Lower-case ``us`` stays the pronoun.
    """
    if "." in text:
        text = _DOTTED.sub(_undotted, text)
    if "US" in text and not text.isupper():
        text = _US.sub("USA", text)
    text = _POSSESSIVE.sub("", text).replace("&", " and ")
    if not text.isascii():
        text = without_accents(text.translate(_INVISIBLE))
    found: list[str] = _WORD.findall(text.casefold())
    return [_SYNONYMS.get(word, word) for word in found]


def word_set(spoken: str) -> frozenset[str]:
    """The words of *spoken*, which spaces separate."""
    return frozenset(spoken.split())


def without_accents(text: str) -> str:
    """*text* with every letter in its plain form, where Unicode defines one."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _undotted(match: re.Match[str]) -> str:
    return match.group().replace(".", "") + " "
