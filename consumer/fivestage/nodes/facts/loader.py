"""Reads facts from the table of countries and from users' files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

COUNTRIES = "countries.csv"
COUNTRIES_SOURCE = "GeoNames, CC BY 4.0"
"""The attribution that the licence of the data demands; see data/README.md."""

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
"""Columns whose values do not name a country in a question; the codes IS and IN are ordinary words."""
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
    """The source to credit."""
    row: str
    """The fact's place in the source: ``file:line``, for an alias of a country ``file:line:alias``."""
    searchable: bool = True
    """Whether a question may name the subject by this value ("which country has the capital Nairobi")."""


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
                value = json.loads(row[column]) if column in _NUMBERS else row[column]
                searchable = column not in _UNSEARCHABLE
                yield Fact(row["name"], attribute, value, COUNTRIES_SOURCE, place, searchable=searchable)


def read_file(path: str | PathLike[str]) -> Iterator[Fact]:
    """The facts in a user's file.

    Args:
        path: ``*.csv`` with a header row, or ``*.jsonl`` with one object per line. Columns or keys:
            ``subject``, ``attribute``, ``value`` and, optionally, ``source``. Values are text in CSV; text,
            numbers or bools in JSONL. The attribute ``alias`` gives the subject another name.

    Raises:
        ConfigurationError: the file cannot be read, or a row is not as described; the text has file and line.
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
        value = row["value"].strip() if isinstance(row["value"], str) else row["value"]
        yield Fact(row["subject"].strip(), row["attribute"].strip(), value, source, place)


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
    _check_known(present, "columns", f"{path}:1")


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
        _check_known(row.keys(), "keys", f"{path}:{line}")
        yield line, row


def _check_known(names: Iterable[str], what: str, place: str) -> None:
    if unknown := ", ".join(sorted(repr(name[:30]) for name in set(names) - _KNOWN)):
        raise ConfigurationError(f"{place}: unknown {what} {unknown}; remove or rename them")


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
