"""Finds which subject and which attribute a question names.

At each place the longest known phrase counts ("equatorial guinea" before "guinea", "currency code" before
"currency"). Unknown words are collected too: a question with one is not understood. So "the population of
Japan in 1950" does not get today's figure.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fivestage.nodes.text import word_set, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fivestage.nodes.facts.loader import Fact

MAX_VALUE_WORDS = 8
"""Words; a longer value is prose, by which a question cannot name a subject."""

ATTRIBUTE_PHRASES: dict[str, tuple[str, ...]] = {
    "capital": ("capital", "capitals", "capital city", "capital cities"),
    "population": (
        "population", "total population", "inhabitants", "number of inhabitants", "number of people",
        "how many inhabitants", "how many people", "how many people live", "how many people are there",
        "how many people live there", "how populous",
    ),
    "currency": ("currency", "currencies", "legal tender", "official currency", "national currency"),
    "currency code": ("currency code", "iso currency code", "code of the currency"),
    "continent": ("continent", "continents"),
    "area": ("area", "surface area", "total area", "square kilometres", "square kilometers"),
    "two-letter code": ("two letter code", "alpha 2 code", "iso code"),
    "three-letter code": ("three letter code", "alpha 3 code"),
}  # fmt: skip
"""How people ask for the attributes of countries."""

VAGUE_PHRASES = {"area": ("how big", "how large", "size"), "currency": ("money",)}
"""Phrases that count only if nothing clearer names an attribute: "how large is the population"."""

_NOUNS = word_set("country countries nation nations state states territory territories")
_ASKS_FOR_SUBJECT = ("whose", *(f"{word} {noun}" for word in ("which", "what") for noun in _NOUNS))

_MEANINGLESS = word_set(
    "a an and are as at belong belongs by called can could countries country current currently d do does "
    "exactly for from give goodbye has have hello hey hi i in is it its know lie lies located me my named "
    "nation now of official ok okay on please s situated so tell thank thanks that the there to today us use "
    "used uses what whats which will with would you your"
)
_MEANINGLESS_PHRASES = ("name of", "like to know", "want to know", "name the", "what about", "how about")


@dataclass(slots=True)
class Meaning:
    """What a phrase may mean."""

    subjects: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    vague: list[str] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    """Positions of the facts with this value."""
    asks_for_subject: bool = False


@dataclass(slots=True)
class Reading:
    """What a question names."""

    subjects: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    vague: set[str] = field(default_factory=set)
    values: list[list[int]] = field(default_factory=list)
    asks_for_subject: bool = False
    content: list[str] = field(default_factory=list)
    """All words that are not meaningless."""
    unknown: list[str] = field(default_factory=list)
    """The words of ``content`` that are in no phrase."""

    @property
    def attribute(self) -> str | None:
        """The attribute asked for; None if the question names none or several."""
        named = self.attributes or self.vague
        return next(iter(named)) if len(named) == 1 else None


class Phrases:
    """All known phrases. Not changed once built, so any thread may read."""

    def __init__(self) -> None:
        self._meanings: dict[str, Meaning] = {}
        self._longest: dict[str, int] = {}
        for phrase in _MEANINGLESS_PHRASES:
            self.meaning(phrase.split())
        for phrase in _ASKS_FOR_SUBJECT:
            self.meaning(phrase.split()).asks_for_subject = True

    def meaning(self, phrase: Sequence[str]) -> Meaning:
        """The meaning of the words of *phrase*; the caller adds to it."""
        first = phrase[0]
        self._longest[first] = max(self._longest.get(first, 1), len(phrase))
        return self._meanings.setdefault(" ".join(phrase), Meaning())

    def read(self, spoken: Sequence[str]) -> Reading:
        """Read the words of a question from left to right."""
        reading = Reading()
        position = 0
        while position < len(spoken):
            size, meaning = self._match(spoken, position)
            if meaning is not None:
                _note(reading, meaning, spoken[position : position + size])
            elif spoken[position] not in _MEANINGLESS:
                reading.unknown.append(spoken[position])
                reading.content.append(spoken[position])
            position += size
        return reading

    def _match(self, spoken: Sequence[str], position: int) -> tuple[int, Meaning | None]:
        longest = min(self._longest.get(spoken[position], 0), len(spoken) - position)
        for size in range(longest, 0, -1):
            found = self._meanings.get(" ".join(spoken[position : position + size]))
            if found is not None:
                return size, found
        return 1, None


def content_words(phrase: Iterable[str]) -> frozenset[str]:
    """The words of a name or attribute that have a meaning; all of them if none has."""
    spoken = frozenset(phrase)
    return (spoken - _MEANINGLESS) or spoken


def _note(reading: Reading, meaning: Meaning, phrase: Sequence[str]) -> None:
    reading.subjects.update(meaning.subjects)
    reading.attributes.update(meaning.attributes)
    reading.vague.update(meaning.vague)
    if meaning.values:
        reading.values.append(meaning.values)
    if meaning.asks_for_subject:
        reading.asks_for_subject = True
    if meaning.subjects or meaning.attributes or meaning.vague or meaning.values:
        reading.content += [word for word in phrase if word not in _MEANINGLESS]


def key(name: str) -> str:
    """*name* in comparable form, without a leading article."""
    spoken = words(name)
    return " ".join(spoken[1:] if spoken[:1] == ["the"] and len(spoken) > 1 else spoken)


def phrases_of(names: Mapping[str, Iterable[str]], facts: Sequence[Fact]) -> Phrases:
    """The phrases for subjects by their *names*, and for the attributes and values of *facts*."""
    phrases = Phrases()
    for subject, known in names.items():
        for phrase in {key(name) for name in known}:
            if phrase:
                phrases.meaning(phrase.split()).subjects.append(subject)
    for attribute in {fact.attribute for fact in facts}:
        for phrase in {" ".join(words(attribute)), *ATTRIBUTE_PHRASES.get(attribute, ())}:
            phrases.meaning(phrase.split()).attributes.append(attribute)
        for phrase in VAGUE_PHRASES.get(attribute, ()):
            phrases.meaning(phrase.split()).vague.append(attribute)
    for phrase, positions in _values(facts).items():
        phrases.meaning(phrase.split()).values += positions
    return phrases


def _values(facts: Sequence[Fact]) -> dict[str, list[int]]:
    """Positions of facts by value; a currency also by its last word, if that is unique ("yen")."""
    found: dict[str, list[int]] = defaultdict(list)
    currencies: dict[str, set[str]] = defaultdict(set)
    for at, fact in enumerate(facts):
        name = key(fact.value) if isinstance(fact.value, str) and fact.searchable else ""
        if len(name.split()) <= MAX_VALUE_WORDS and not _MEANINGLESS.issuperset(name.split()):
            found[name].append(at)
            if fact.attribute == "currency":
                currencies[name.split()[-1]].add(name)
    for short, keys in currencies.items():
        if len(keys) == 1 and short not in found:
            found[short] = found[keys.pop()]
    return found
