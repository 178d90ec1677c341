from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fivestage.nodes.facts.loader import read_countries
from fivestage.nodes.facts.node import UNKNOWN, Facts, builtin_facts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
reproducible = settings(derandomize=True, deadline=None)

KNOWN: list[tuple[str, Any]] = [
    ("What is the capital of France?", "Paris"),
    ("what's France's capital?", "Paris"),
    ("Tell us the capital city of Australia, please", "Canberra"),
    ("TELL US THE CAPITAL OF FRANCE", "Paris"),
    ("population of Japan", 126529100),
    ("How many people live in C\u00f4te d'Ivoire?", 25069229),
    ("How large is the population of Japan?", 126529100),
    ("currency of Brazil", "Brazilian Real"),
    ("What money is used in India?", "Indian Rupee"),
    ("currency code of Japan", "JPY"),
    ("how big is Russia?", 17100000),
    ("area of the Vatican", 0.49),
    ("On which continent is Egypt located?", "Africa"),
    ("capital of the U.S.", "Washington"),
    ("What is the UK's capital?", "London"),
    ("capital of the Netherlands", "Amsterdam"),
    ("capital of Guinea-Bissau", "Bissau"),
    ("capital of Equatorial Guinea", "Ciudad de la Paz"),
    ("capital of Trinidad Tobago", "Port of Spain"),
    ("capital of St. Lucia", "Castries"),
    ("capital of Kazakhstan", "Astana"),
    ("capital of Singapore", "Singapore"),
    ("Is Berlin the capital of France?", "Paris"),
    ("capital of Frnace", "Paris"),
    ("which country has the capital Nairobi?", "Kenya"),
    ("Nairobi is the capital of which country?", "Kenya"),
    ("Which country uses the yen?", "Japan"),
    ("Which country has the capital Singapore?", "Singapore"),
]


@pytest.mark.parametrize(("question", "answer"), KNOWN)
async def test_known(
    question: str, answer: Any, ask: Callable[..., Any], context: Callable[..., Any]
) -> None:
    """A question about a country gets its answer, with confidence and source, and passes the check."""
    facts = builtin_facts()
    result = await facts.lookup(ask(question), context())
    assert result["answer"] == answer
    assert result["confidence"] >= 0.8
    assert result["source"]["name"] == "GeoNames, CC BY 4.0"
    assert result["source"]["rows"][0].startswith("countries.csv:")
    assert orjson.loads(orjson.dumps(result)) == result
    assert await facts.validate(ask(question), context(result=result)) is True


@pytest.mark.parametrize(
    "question",
    [
        "population of Japan in 1950",
        "population of Tokyo, Japan",
        "population of Mexico City",
        "population of Granada",
        "population of Samos",
        "population of Tobago",
        "population of New Guinea",
        "population of Georgia, US",
        "capital of New Mexico",
        "capital of Nairobi",
        "capital of Korea",
        "capital of Congo",
        "capital of the Virgin Islands",
        "capital of France and Germany",
        "capital and currency of France",
        "capital gains tax in France",
        "Why is Paris the capital of France?",
        "What is not the capital of France?",
        "Who is the president of France?",
        "currency of Atlantis",
        "the largest country",
        "Which country has the largest population?",
        "Which country uses the dollar?",
        "Which country is Berlin, Germany the capital of?",
        "capital of Antarctica",
        "What is Japan?",
        "France",
        "capital",
        "hello",
        "",
        "\0",
        "a" * 100_000,
        "capital of France " * 10_000,
        "\ud800 capital",
        '" OR names:*',
    ],
)
async def test_unknown(question: str, ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """Questions without an answer, or with several, are not guessed, and that is a valid result."""
    facts = builtin_facts()
    result = await facts.lookup(ask(question), context())
    assert result == {"answer": UNKNOWN, "confidence": 0.0}
    assert await facts.validate(ask(question), context(result=result)) is True


def test_several_subjects() -> None:
    """A value of many countries lists them all."""
    result = builtin_facts().ask("Which countries use the euro?")
    assert {"France", "Germany", "Croatia"} <= set(result["answer"])
    assert len(result["answer"]) == len(result["source"]["rows"]) == len(set(result["answer"]))


def test_every_fact_can_be_asked_for() -> None:
    """Each shipped fact is found under its subject's own name."""
    facts = builtin_facts()
    wrong = [
        fact
        for fact in read_countries()
        if fact.attribute != "alias"
        and facts.ask(f"{fact.attribute} of {fact.subject}")["answer"] != fact.value
    ]
    assert wrong == []


def test_aliases_lead_to_the_subject() -> None:
    """Each alias leads to its country, or to nothing where two countries share it."""
    facts = builtin_facts()
    shared = {"Congo", "Korea", "Virgin Islands"}
    for fact in read_countries():
        if fact.attribute == "alias":
            result = facts.ask(f"continent of {fact.value}")
            found = result.get("fact", {}).get("subject")
            assert found == (None if fact.value in shared else fact.subject), fact.value


@reproducible
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    """Every text gets an answer with its source, or none."""
    result = builtin_facts().ask(text)
    assert (result["answer"] == UNKNOWN) == ("source" not in result)


@reproducible
@given(
    st.lists(
        st.sampled_from(["capital", "of", "the", "France", "Guinea", "New", "Papua", "population", "Paris"])
    )
)
def test_words_in_any_order(spoken: list[str]) -> None:
    """A question that names two countries gets no answer, in any word order."""
    result = builtin_facts().ask(" ".join(spoken))
    if {"France", "Guinea"} <= set(spoken):
        assert result["answer"] == UNKNOWN


async def test_check_finds_forgeries(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """An answer that differs from its row, or names a wrong row, is rejected."""
    facts = builtin_facts()
    good = facts.ask("capital of France")
    row = good["source"]["rows"]
    other = facts.ask("capital of Spain")["source"]
    for bad in (
        {**good, "answer": "Lyon"},
        {**good, "fact": {**good["fact"], "value": "Lyon"}, "answer": "Lyon"},
        {**good, "fact": {**good["fact"], "attribute": "mayor"}},
        {**good, "source": other},
        {**good, "source": {"rows": ["countries.csv:9999"]}},
        {**good, "source": {"rows": row * 2}},
        {"answer": "Paris", "confidence": 1.0},
        {"answer": UNKNOWN, "confidence": 0.9},
        "Paris",
    ):
        assert await facts.validate(ask(""), context(result=bad)) is False


def test_many_threads() -> None:
    """One index serves many threads concurrently, also ones that did not build it."""
    facts = builtin_facts()
    start = threading.Barrier(8)

    def work() -> set[Any]:
        start.wait()
        return {facts.ask("capital of Tobago Trinidad")["answer"] for _ in range(200)}

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(work) for _ in range(8)]]
    assert found == [{"Port of Spain"}] * 8


def test_built_once() -> None:
    """Threads that request the built-in facts concurrently get the same object."""
    with ThreadPoolExecutor(4) as pool:
        assert len({id(facts) for facts in pool.map(lambda _: builtin_facts(), range(8))}) == 1


def test_own_facts(tmp_path: Path) -> None:
    """A user's facts are found by name, alias and part, and replace built-in ones."""
    file = tmp_path / "own.csv"
    file.write_text(
        "subject,attribute,value,source\n"
        "Great Wall of China,length in kilometres,21196,survey 2012\n"
        "Great Wall of China,alias,Long Wall,\n"
        'Dune,author,"Herbert, Frank",\n'
        "France,capital,Versailles,old book\n",
        encoding="utf-8",
    )
    facts = Facts.from_files(file)
    assert facts.ask("length in kilometres of the Long Wall")["answer"] == "21196"
    part = facts.ask("length of the Great Wall of China")
    assert (part["answer"], part["confidence"], part["source"]["name"]) == ("21196", 0.42, "survey 2012")
    assert facts.ask("What is the author of Dune?")["answer"] == "Herbert, Frank"
    assert facts.ask("capital of France")["answer"] == "Versailles"
    assert facts.ask("capital of Spain")["answer"] == "Madrid"
    assert Facts.from_files(file, countries=False).ask("capital of Spain")["answer"] == UNKNOWN


async def test_own_facts_are_checked(
    tmp_path: Path, ask: Callable[..., Any], context: Callable[..., Any]
) -> None:
    """JSONL values keep their type, and the check reads the row they came from."""
    file = tmp_path / "own.jsonl"
    file.write_text('{"subject": "Everest", "attribute": "height", "value": 8849}\n\n', encoding="utf-8")
    facts = Facts.from_files(file)
    result = facts.ask("height of Everest")
    assert result["answer"] == 8849
    assert result["source"] == {"name": "own.jsonl", "rows": [f"{file}:1"]}
    assert await facts.validate(ask(""), context(result=result)) is True


def test_equally_good_hits(tmp_path: Path) -> None:
    """If two facts fit equally well, neither is the answer."""
    file = tmp_path / "own.csv"
    file.write_text(
        "subject,attribute,value\nAda,date of birth,1815\nAda,place of birth,London\n", encoding="utf-8"
    )
    facts = Facts.from_files(file)
    assert facts.ask("birth of Ada")["answer"] == UNKNOWN
    assert facts.ask("place of birth of Ada")["answer"] == "London"
