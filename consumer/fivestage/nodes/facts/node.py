"""The ``facts`` node: answers questions about countries, and from tables that users add.

It tries three ways, the most certain first:

1. The question names one subject and one attribute, and nothing else (a dictionary look-up).
2. The same after undoing one swap of two neighbouring letters in each unknown word ("Frnace"). Other
   misspellings are not corrected: Granada is not Grenada, and Samos is not Samoa.
3. Full-text search by bm25. The question must have all words of one of the subject's names, at least half of
   the attribute's, and no others; and no other hit may be as good as the best.

A question with another unknown word is answered with "I don't know".
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

from fivestage.nodes.facts.loader import ALIAS, UNITS, Fact, read_countries, read_file
from fivestage.nodes.facts.phrases import Reading, content_words, key, phrases_of
from fivestage.nodes.facts.search import SearchIndex
from fivestage.nodes.text import words
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from fivestage.pipeline.context import Query, StageContext

UNKNOWN = "I don't know"
MAX_LENGTH = 500
"""Characters; a longer question is answered with "I don't know"."""
SHORTEST_SWAP, LONGEST_SWAP = 5, 16
"""Letters of a word that may have a swap; too many shorter words are one swap apart."""

NAMED_CONFIDENCE, SWAP_CONFIDENCE, SEARCH_CONFIDENCE = 0.98, 0.8, 0.85
"""By the way that found the answer; less if a search covers only part of the attribute."""


class Facts:
    """Answers questions from facts. Not changed after it is built: any thread and any loop may use it.

    Args:
        facts: A later fact replaces an earlier one of the same subject and attribute.

    Example:
        >>> from fivestage.nodes.facts import Facts
        >>> facts = Facts.from_files("products.csv")  # doctest: +SKIP
        >>> app.node("facts", intents={"factual"}, validate=facts.validate)(facts.lookup)  # doctest: +SKIP
    """

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._names: dict[str, list[str]] = {}
        """All names by subject."""
        self._rows: dict[str, tuple[str, dict[str, Any]]] = {}
        """The rows that the facts were read from, to check answers: subject, and values by attribute."""
        self._by_key: dict[tuple[str, str], Fact] = {}
        """The last fact read, by subject and attribute."""
        for fact in facts:
            self._add(fact)
        self._facts = list(self._by_key.values())
        self._phrases = phrases_of(self._names, self._facts)
        self._words = [self._words_of(fact) for fact in self._facts]
        self._index = SearchIndex(
            (" ".join(sorted(frozenset().union(*names))), " ".join(sorted(attribute)))
            for names, attribute in self._words
        )

    def __repr__(self) -> str:
        return f"<Facts subjects={len(self._names)} facts={len(self._facts)}>"

    @classmethod
    def from_files(cls, *paths: str | PathLike[str], countries: bool = True) -> Facts:
        """Read CSV and JSONL files; see ``read_file`` for their form.

        Args:
            paths: The files. A later fact replaces an earlier one of the same subject and attribute.
            countries: Whether the built-in facts about countries come first.

        Raises:
            ConfigurationError: a file cannot be read or a row is wrong; the text has file and line.
        """
        return cls(itertools.chain(read_countries() if countries else (), *map(read_file, paths)))

    async def lookup(self, query: Query, ctx: StageContext) -> dict[str, Any]:  # noqa: ARG002
        """The node, see ``ask``; a coroutine, since it takes microseconds, less than a hop to a thread."""
        return self.ask(query.user_input)

    def ask(self, question: str) -> dict[str, Any]:
        """Answer *question*.

        Returns:
            ``answer``: the value or, for "which country ...", the subject or a list of subjects;
            ``confidence``: 0..1; ``fact``: subject, attribute, value, and unit if any; ``source``: the
            name to credit, and the rows as ``file:line``. If unknown, only ``answer`` "I don't know" and
            ``confidence`` 0.
        """
        spoken = words(question) if len(question) <= MAX_LENGTH else []
        reading = self._phrases.read(spoken)
        found = self._named(reading)
        confidence = NAMED_CONFIDENCE
        if not found and reading.unknown and (repaired := self._unswapped(spoken)) != spoken:
            reading = self._phrases.read(repaired)
            found, confidence = self._named(reading), SWAP_CONFIDENCE
        if not found:
            found, confidence = self._searched(reading)
        if not found:
            return {"answer": UNKNOWN, "confidence": 0.0}
        return _answer(found, confidence, subject=reading.asks_for_subject)

    async def validate(self, query: Query, ctx: StageContext) -> bool:  # noqa: ARG002
        """Whether the rows that the result names hold the result's fact; "I don't know" is valid."""
        result = ctx.results.get(StageType.PROCESSING)
        if not isinstance(result, dict):
            return False
        fact = result.get("fact")
        if fact is None:
            return result.get("answer") == UNKNOWN and not result.get("confidence")
        rows = [self._rows.get(row) for row in result["source"]["rows"]]
        stated = fact["subject"] if isinstance(fact["subject"], list) else [fact["subject"]]
        if None in rows or stated != [row[0] for row in rows if row]:
            return False
        return result["answer"] in (fact["value"], fact["subject"]) and all(
            fact["attribute"] in row[1] and row[1][fact["attribute"]] == fact["value"] for row in rows if row
        )

    def _named(self, reading: Reading) -> list[Fact]:
        """The facts that the question names by subject and attribute, or by value."""
        if reading.unknown:
            return []
        if reading.asks_for_subject:
            return self._having(reading)
        attribute = reading.attribute
        if attribute is None or len(reading.subjects) != 1:
            return []
        fact = self._by_key.get((next(iter(reading.subjects)), attribute))
        # A value of another attribute makes it another question: "population of Tokyo, Japan".
        named = (
            any(self._facts[at].attribute == attribute or self._is_subject(at, reading) for at in values)
            for values in reading.values
        )
        return [fact] if fact and all(named) else []

    def _is_subject(self, at: int, reading: Reading) -> bool:
        """Whether the value of the fact is also the subject's name, like the capital Singapore."""
        return key(str(self._facts[at].value)) in reading.subjects

    def _having(self, reading: Reading) -> list[Fact]:
        """The facts with the value that the question names: "which country has the capital Nairobi"."""
        if len(reading.values) != 1:
            return []
        found = [self._facts[at] for at in reading.values[0]]
        if reading.attributes:
            found = [fact for fact in found if fact.attribute in reading.attributes]
        asked_with_other_subject = not reading.subjects <= {key(str(fact.value)) for fact in found}
        if asked_with_other_subject or len({(fact.attribute, fact.value) for fact in found}) != 1:
            return []
        return found

    def _unswapped(self, spoken: list[str]) -> list[str]:
        return [word if word in self._index else self._swap_back(word) for word in spoken]

    def _swap_back(self, word: str) -> str:
        if SHORTEST_SWAP <= len(word) <= LONGEST_SWAP:
            swaps = (word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1))
            known = {swap for swap in swaps if swap in self._index}
            if len(known) == 1:
                return known.pop()
        return word

    def _searched(self, reading: Reading) -> tuple[list[Fact], float]:
        """The only fact that fits best by full-text search, and the confidence in it (0..1)."""
        asked = frozenset(reading.content)
        if reading.asks_for_subject or not asked or not all(word in self._index for word in asked):
            return [], 0.0
        scored = [(self._fit(at, asked), at) for at in self._index.find(reading.content)]
        best = max((score for score, _ in scored), default=0.0)
        hits = [at for score, at in scored if score == best]
        if best == 0 or len(hits) > 1:
            return [], 0.0
        return [self._facts[hits[0]]], round(SEARCH_CONFIDENCE * best, 2)

    def _fit(self, at: int, asked: frozenset[str]) -> float:
        """The share of the attribute's words in the question; 0 if below half or about another fact."""
        names, attribute = self._words[at]
        covered = len(attribute & asked) / len(attribute)
        about = any(name <= asked <= name | attribute for name in names)
        return covered if about and covered >= 0.5 else 0.0  # noqa: PLR2004 - at least half

    def _words_of(self, fact: Fact) -> tuple[list[frozenset[str]], frozenset[str]]:
        names = [content_words(words(name)) for name in self._names[key(fact.subject)]]
        return names, content_words(words(fact.attribute))

    def _add(self, fact: Fact) -> None:
        subject = key(fact.subject)
        names = self._names.setdefault(subject, [fact.subject])
        self._rows.setdefault(fact.row, (fact.subject, {}))[1][fact.attribute] = fact.value
        if fact.attribute.casefold() == ALIAS:
            names.append(str(fact.value))
        else:
            self._by_key[subject, fact.attribute] = fact


_lock = threading.Lock()
_builtin: Facts | None = None


def builtin_facts() -> Facts:
    """The facts about countries; the first call in a process reads them."""
    global _builtin  # noqa: PLW0603 - shared by all pipelines of the process; read-only once built
    with _lock:
        if _builtin is None:
            _builtin = Facts.from_files()
        return _builtin


def _answer(found: list[Fact], confidence: float, *, subject: bool) -> dict[str, Any]:
    first = found[0]
    subjects = [fact.subject for fact in found]
    named: str | list[str] = subjects[0] if len(subjects) == 1 else subjects
    fact = {"subject": named, "attribute": first.attribute, "value": first.value}
    if first.attribute in UNITS and first.searchable is False:
        fact["unit"] = UNITS[first.attribute]
    return {
        "answer": named if subject else first.value,
        "confidence": confidence,
        "fact": fact,
        "source": {"name": first.source, "rows": [fact.row for fact in found]},
    }
