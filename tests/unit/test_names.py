"""Settings, metrics, modules and versions named in documents exist, with the values given there."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fivestage.observability.build_info import __version__
from fivestage.settings import Settings
from fivestage_schemas import headers
from support.tables import section, table_under

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
    "deploy/README.md",
    "docs/controls.md",
]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
DEPLOYED = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "deploy").rglob("*"))
    if path.suffix in {".yaml", ".yml", ".json", ".rules", ".sh"}
}
"""Where rules for alerts and dashboards are defined, beside other things."""
DEFAULTS: dict[str, Any] = Settings().model_dump(mode="json")
KEY = r"[a-z]+\.[a-z_]+"
SERIES = re.compile(r"\b((?:fivestage|messaging|lukhas_matriz)_[a-z_]+)\b(?:\{([^}]*)\})?")
NO_METRICS = {"fivestage_schemas"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count", "")}
HEADERS = {value for name, value in vars(headers).items() if name.isupper()}
IN_WORDS = {"lanes": "all, equal"}
"""Defaults that a table describes instead of writing them."""


def default_of(key: str) -> Any:
    """Return the default of a setting by its dotted key, which must exist."""
    head, _, name = key.partition(".")
    assert head in DEFAULTS, f"{key} is no setting"
    if not name:
        return DEFAULTS[head]
    assert name in DEFAULTS[head], f"{key} is no setting"
    return DEFAULTS[head][name]


def shown(value: Any) -> str:
    """Return a default as a table shows it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(map(str, value.values()))
    return "none" if value is None else f"`{value}`" if isinstance(value, str) else str(value)


def defaults_in(cell: str, keys: list[str]) -> None:
    """Compare a cell with the defaults of these settings, in their order."""
    if keys == ["pipeline.critical"]:
        assert set(cell.split(", ")) == set(default_of(keys[0]))
        return
    wanted = [IN_WORDS.get(key, shown(default_of(key))) for key in keys]
    assert cell == ", ".join(wanted), keys


def test_settings_of_the_readme() -> None:
    """Each row has the settings' defaults."""
    rows = table_under(section(TEXTS["README.md"], "Settings"))
    for names, default, _ in rows:
        defaults_in(default, re.findall(r"`([a-z_.]+)`", names))
    assert len(rows) >= 25


def test_settings_of_controls() -> None:
    """Each row has the setting's default and bounds; all learning settings have a row."""
    tables = re.findall(rf"^\| `{KEY}` \|.*\n", TEXTS["docs/controls.md"], flags=re.MULTILINE)
    rows = table_under("||\n||\n" + "".join(tables))
    schema = Settings.model_json_schema()
    for name, default, _, limits in rows:
        key = name.strip("`")
        defaults_in(default, [key])
        head, _, entry = key.partition(".")
        field = schema["$defs"][schema["properties"][head]["$ref"].rpartition("/")[2]]["properties"][entry]
        bounds_in(limits, field, key)
    listed = {row[0].strip("`") for row in rows}
    assert {f"{head}.{name}" for head in ("adaptive", "breaker") for name in DEFAULTS[head]} <= listed


def bounds_in(text: str, field: dict[str, Any], key: str) -> None:
    """Compare the bounds of a row with those of the setting."""
    for pattern, name in (
        (r"more than (\d+)", "exclusiveMinimum"),
        (r"(?:^|, )at most (\d+)", "maximum"),
        (r"^(\d+) to \d+", "minimum"),
        (r"^\d+ to (\d+)", "maximum"),
        (r"^at least (\d+)", "minimum"),
    ):
        found = re.search(pattern, text)
        if found is not None:
            least = field.get("exclusiveMinimum", -1) + 1 if name == "minimum" else None
            assert int(found[1]) == field.get(name, least), f"{key}: {text}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_settings_named_in_text(document: str) -> None:
    """Each named setting exists, and a value in brackets after it is its default."""
    heads = "|".join(head for head, value in DEFAULTS.items() if isinstance(value, dict))
    for key, given in re.findall(rf"`((?:{heads})\.[a-z_]+)`(?: \(([\w.]+(?: s)?)\))?", TEXTS[document]):
        if key in HEADERS or key.endswith((".py", ".toml", ".md")):
            continue
        default = default_of(key)
        seconds = re.fullmatch(r"(\d+) s", given)
        if seconds is not None:
            assert int(seconds[1]) * 1000 == default, key
        elif (given and not given.isalpha()) or given in {"true", "false"}:
            assert given == shown(default).strip("`"), key


def metrics() -> dict[str, tuple[str, set[str]]]:
    """Return the series by name, with type and labels: test_golden_metrics.py has the list."""
    found = {}
    for line in (ROOT / "tests/golden/metrics.txt").read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(\w+): (\w+)\{(.*)\}", line)
        assert match is not None, line
        name, kind, labels = match.groups()
        for suffix in SUFFIXES[kind]:
            found[name + suffix] = (
                kind,
                {*labels.split(", ")} - {""} | ({"le"} if suffix == "_bucket" else set()),
            )
    return found


@pytest.mark.parametrize("document", [*DOCUMENTS, *DEPLOYED])
def test_metrics_named_in_text(document: str) -> None:
    """Each named metric exists, and has the labels named with it."""
    series = metrics()
    for name, labels in SERIES.findall({**TEXTS, **DEPLOYED}[document]):
        if name in NO_METRICS:
            continue
        assert name in series, name
        given = {re.split(r"[=!~]", label)[0].strip() for label in labels.split(",") if label}
        assert given <= series[name][1], f"{name}{{{labels}}}"


def test_labels_that_controls_names() -> None:
    """The page has all labels of the metric about changes."""
    found = re.findall(r"`(fivestage_\w+)`\n?\(labels ([^)]*)\)", TEXTS["docs/controls.md"])
    assert found
    for name, labels in found:
        assert set(re.findall(r"`(\w+)`", labels)) == metrics()[name][1], name


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", ".github/CONTRIBUTING.md", "README.md"])
def test_modules_named_in_text(document: str) -> None:
    """Files and modules named in a document exist."""
    text = TEXTS[document]
    package = ROOT / "consumer/fivestage"
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", text):
        places = (ROOT / name, package / name, package / f"{name}.py")
        assert any(place.exists() for place in places), name
    topics = set(DEFAULTS["topics"].values())
    for name in set(re.findall(r"`((?:fivestage|fivestage_schemas)(?:\.[a-z_-]+)+)`", text)) - topics:
        assert importlib.util.find_spec(name) is not None, name


def test_headers_named_in_text() -> None:
    """Each header of dead letters and CloudEvents in the README is in the contract."""
    named = set(re.findall(r"`((?:ce_|dlq\.)[a-z-]+)`", TEXTS["README.md"]))
    settings = {f"dlq.{name}" for name in DEFAULTS["dlq"]}
    assert {one for one in named if one not in settings} - HEADERS == set()


def test_version() -> None:
    """The package, its metadata and the newest heading of the changelog agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
    newest = re.findall(
        r"^## \[?(\S+?)\]?(?: - \d{4}-\d\d-\d\d)?$", TEXTS["CHANGELOG.md"], flags=re.MULTILINE
    )
    assert newest[0] in {"Unreleased", __version__}
    released = [version for version in newest if version != "Unreleased"]
    assert released[:1] in ([], [__version__])
