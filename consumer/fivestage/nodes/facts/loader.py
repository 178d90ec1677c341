"""Facts and the files they come from."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

COUNTRIES = "countries.csv"
COUNTRIES_SOURCE = "GeoNames, CC BY 4.0"
"""The attribution that the licence of the data asks for; data/README.md has the details."""

ALIAS = "alias"
"""The attribute whose value is another name of the subject."""

UNITS = {"area": "km²"}

_COLUMNS = {
    "capital": "capital",
    "population": "population",
    "currency": "currency",
    "currency_code": "currency code",
    "continent": "continent",
    "area_km2": "area",
    "code": "two-letter code",
    "code3": "three-letter code",
}
_NUMBERS = frozenset({"population", "area_km2"})
_UNSEARCHABLE = frozenset({"code", "code3", *_NUMBERS})
"""Iceland's code is IS, India's is IN: as words in a question they mean nothing."""
_REQUIRED = ("subject", "attribute", "value")
_KNOWN = frozenset({*_REQUIRED, "source"})
_LARGEST = 2**63


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement: the *attribute* of *subject* is *value*."""

    subject: str
    attribute: str
    value: Any
    """Text, a number or a bool."""
    source: str
    """Whom to credit."""
    row: str
    """Where it stands: ``file:line``."""
    searchable: bool = True
    """Whether one may ask for the subject by this value ("which country has the capital Nairobi")."""


@dataclass(slots=True)
class Factbook:
    """Facts as read, and the rows they were read from, kept apart for checking answers."""

    facts: list[Fact] = field(default_factory=list)
    rows: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """``file:line`` -> subject, and its values by attribute."""

    def add(self, facts: Iterable[Fact]) -> None:
        """Add *facts*; one that repeats subject and attribute will replace the earlier when asked."""
        for fact in facts:
            self.facts.append(fact)
            self.rows.setdefault(fact.row, (fact.subject, {}))[1][fact.attribute] = fact.value


def read_countries() -> Iterator[Fact]:
    """The facts about countries that ship with fivestage."""
    text = resources.files("fivestage.nodes.facts.data").joinpath(COUNTRIES).read_text(encoding="utf-8")
    for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
        place = f"{COUNTRIES}:{number}"
        for name in row["aliases"].split("|"):
            if name:
                yield Fact(row["name"], ALIAS, name, COUNTRIES_SOURCE, f"{place}:{name}")
        for column, attribute in _COLUMNS.items():
            if row[column]:
                value = _plain(float(row[column])) if column in _NUMBERS else row[column]
                searchable = column not in _UNSEARCHABLE
                yield Fact(row["name"], attribute, value, COUNTRIES_SOURCE, place, searchable=searchable)


def read_file(path: str | PathLike[str]) -> Iterator[Fact]:
    """The facts in a user's file.

    Args:
        path: ``*.csv`` with a header row, or ``*.jsonl`` with one object a line. Columns or keys:
            ``subject``, ``attribute``, ``value`` and, if wanted, ``source``. Values are text in CSV and
            text, numbers or bools in JSONL. The attribute ``alias`` gives the subject another name.

    Raises:
        ConfigurationError: the file cannot be read, or a row is not as described; names file and line.
    """
    file = Path(path)
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    read = readers.get(file.suffix.lower())
    if read is None:
        raise ConfigurationError(f"{path}: facts are read from .csv and .jsonl files; rename or convert it")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror or error}; check the path and its rights"
        ) from error
    for line, row in read(text, str(path)):
        place = f"{path}:{line}"
        _check(row, place)
        source = str(row.get("source") or file.name)
        yield Fact(row["subject"].strip(), row["attribute"].strip(), _value(row["value"]), source, place)


def _csv_rows(text: str, path: str) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        _check_columns(reader.fieldnames or (), path)
        for row in reader:
            line = reader.line_num
            if None in row:
                text = f"{path}:{line}: more fields than the header has; quote fields with commas"
                raise ConfigurationError(text)
            yield line, row
    except csv.Error as error:
        raise ConfigurationError(f"{path}:{reader.line_num or line}: {error}; check the quotes") from error


def _check_columns(columns: Iterable[str], path: str) -> None:
    present = set(columns)
    missing = [name for name in _REQUIRED if name not in present]
    if missing:
        raise ConfigurationError(
            f"{path}:1: the header lacks {', '.join(missing)}; it must be subject,attribute,value or "
            "subject,attribute,value,source"
        )
    if present - _KNOWN:
        unknown = ", ".join(sorted(repr(name[:30]) for name in present - _KNOWN))
        raise ConfigurationError(f"{path}:1: unknown columns {unknown}; remove or rename them")


def _jsonl_rows(text: str, path: str) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path}:{line}: not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise ConfigurationError(f"{path}:{line}: expected an object, got {type(row).__name__}")
        if row.keys() - _KNOWN:
            unknown = ", ".join(sorted(repr(name[:30]) for name in row.keys() - _KNOWN))
            raise ConfigurationError(f"{path}:{line}: unknown keys {unknown}; remove or rename them")
        yield line, row


def _check(row: Mapping[Any, Any], place: str) -> None:
    for name in ("subject", "attribute"):
        found = row.get(name)
        if not isinstance(found, str) or not any(map(str.isalnum, found)):
            raise ConfigurationError(f"{place}: {name} must be text with a letter or digit in it")
    value = row.get("value")
    if isinstance(value, str) and value.strip():
        return
    if isinstance(value, bool) or (isinstance(value, int | float) and -_LARGEST <= value < _LARGEST):
        return
    raise ConfigurationError(
        f"{place}: value must be text that is not blank, a bool, or a number of 64 bits; write others as text"
    )


def _value(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number
