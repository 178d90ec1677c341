from __future__ import annotations

import gc
import sqlite3
from typing import TYPE_CHECKING

import pytest

from fivestage.errors import ConfigurationError
from fivestage.nodes.facts.loader import read_countries, read_file
from fivestage.nodes.facts.search import SearchIndex

if TYPE_CHECKING:
    from pathlib import Path

BAD: list[tuple[str, bytes, str]] = [
    ("a.csv", b"", "a.csv:1: the header lacks subject, attribute, value"),
    ("a.csv", b"subject,value\n", "a.csv:1: the header lacks attribute"),
    ("a.csv", b"subject,attribute,value,sorce\n", "a.csv:1: unknown columns 'sorce'"),
    ("a.csv", b"subject,attribute,value\nA,b\n", "a.csv:2: value must be text"),
    ("a.csv", b"subject,attribute,value\nA,b,c\n,b,c\n", "a.csv:3: subject must be text"),
    ("a.csv", b"subject,attribute,value\nA,?,c\n", "a.csv:2: attribute must be text"),
    ("a.csv", b"subject,attribute,value\nA,b,c,d\n", "a.csv:2: more fields than the header has"),
    ("a.csv", b'subject,attribute,value\nA,b,"c\n', "check the quotes"),
    ("a.csv", b"subject,attribute,value\nA,b,\xff\n", "not UTF-8 at byte 28"),
    ("a.jsonl", b"{", "a.jsonl:1: not JSON"),
    ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON"),
    ("a.jsonl", b"\n[1]", "a.jsonl:2: expected an object, got list"),
    ("a.jsonl", b'{"subject": "A", "attribute": "b", "valeu": 1}', "a.jsonl:1: unknown keys 'valeu'"),
    ("a.jsonl", b'{"subject": 1, "attribute": "b", "value": 1}', "a.jsonl:1: subject must be text"),
    ("a.jsonl", b'{"subject": "A", "attribute": "b", "value": null}', "a.jsonl:1: value must be text"),
    ("a.jsonl", b'{"subject": "A", "attribute": "b", "value": NaN}', "a.jsonl:1: value must be text"),
    ("a.jsonl", b'{"subject": "A", "attribute": "b", "value": 9223372036854775808}', "a number of 64 bits"),
    ("a.txt", b"", "read from .csv and .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_file(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """An invalid file is rejected with its name, the line and the fault."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        list(read_file(file))
    assert message in str(raised.value)
    assert str(file) in str(raised.value)
    assert len(str(raised.value)) < len(str(file)) + 200


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is named, with the reason."""
    with pytest.raises(ConfigurationError, match=r"gone\.csv: No such file"):
        list(read_file(tmp_path / "gone.csv"))


def test_csv_lines(tmp_path: Path) -> None:
    """Byte order mark, quoted line breaks and blank lines are read, and lines are counted as editors do."""
    file = tmp_path / "a.csv"
    file.write_bytes(b'\xef\xbb\xbfsubject,attribute,value\r\nA,b,"c\nd"\n\nE,f,g\xe2\x80\xa8h\n')
    facts = list(read_file(file))
    assert [(fact.subject, fact.value, fact.row) for fact in facts] == [
        ("A", "c\nd", f"{file}:3"),
        ("E", "g\u2028h", f"{file}:5"),
    ]


def test_countries() -> None:
    """The shipped data has 250 countries, each with a continent and codes, and plausible figures."""
    facts = list(read_countries())
    subjects = {fact.subject for fact in facts}
    by_attribute = {
        attribute: {fact.subject: fact.value for fact in facts if fact.attribute == attribute}
        for attribute in {fact.attribute for fact in facts}
    }
    assert len(subjects) == 250
    assert set(by_attribute["continent"]) == set(by_attribute["two-letter code"]) == subjects
    assert all(
        isinstance(people, int) and 0 < people < 2 * 10**9 for people in by_attribute["population"].values()
    )
    assert 7 * 10**9 < sum(by_attribute["population"].values()) < 9 * 10**9
    assert len(by_attribute["capital"]) > 240
    assert all(len(code) == 3 for code in by_attribute["currency code"].values())


def test_search_ranks_rare_words_first() -> None:
    """A hit for the rare word comes before hits for the common one, and ties keep their order."""
    index = SearchIndex([("red house", "size"), ("red barn", "size"), ("blue house", "size")])
    assert index.find(["blue", "red"])[0] == 2
    assert index.find(["red"]) == [0, 1]
    assert index.find(["green"]) == []
    assert index.find([]) == []


def test_a_dropped_index_closes_its_connection() -> None:
    """A dropped index closes its connection without a warning."""
    index = SearchIndex([("red house", "size")])
    connection = index._connection
    del index
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
