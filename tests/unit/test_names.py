"""Settings, metrics, modules and versions named in documents exist, with the values given there."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from typing import Any

import pytest

from fivestage.observability.build_info import __version__
from fivestage.settings import Settings
from fivestage_schemas import headers
from support.documents import DOCUMENTS, ROOT, text_of
from support.tables import section, table_under

TEXTS = {name: text_of(name) for name in DOCUMENTS}
DEPLOYED = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "deploy").rglob("*"))
    if path.suffix in {".yaml", ".yml", ".json", ".rules", ".sh"}
}
"""Manifests, with rules for alerts and dashboards."""
DEFAULTS: dict[str, Any] = Settings().model_dump(mode="json")
KEY = r"[a-z]+\.[a-z_]+"
SERIES = re.compile(r"\b((?:fivestage|messaging|lukhas_matriz)_[a-z_]+)\b(?:\{([^}]*)\})?")
TARGET = {"job", "instance"}
"""The labels that Prometheus adds."""
NO_METRICS = {"fivestage_schemas"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count", "")}
HEADERS = {value for name, value in vars(headers).items() if name.isupper()}
FEWEST_HEADERS = 5
ELSEWHERE = ("dist/", "apache/kafka")
"""What verbs make, and an image."""
IN_WORDS = {"lanes": "all, equal", "admin.allowed_hosts": "none", "nodes": "none"}
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


def keys_in(cell: str) -> list[str]:
    """The settings that the first cell of a row names."""
    return re.findall(r"`([a-z_.]+)`", cell)


def rows_of(document: str) -> list[list[str]]:
    """The rows of all tables of settings in a document."""
    rows = re.findall(
        r"^\| `[a-z]+(?:\.[a-z_]+)?`(?:, `[a-z._]+`)* \|.*\n", TEXTS[document], flags=re.MULTILINE
    )
    return table_under("||\n||\n" + "".join(rows))


def test_defaults_of_settings() -> None:
    """Each row has the settings' defaults."""
    for names, default, _ in rows_of("docs/settings.md"):
        defaults_in(default, keys_in(names))


def test_every_setting_has_one_row() -> None:
    """Each stands in the table of settings or in that of what is learned, once."""
    rows = [*rows_of("docs/settings.md"), *rows_of("docs/controls.md")]
    listed = [key for row in rows for key in keys_in(row[0])]
    heads = {head: value for head, value in DEFAULTS.items() if isinstance(value, dict) and value}
    sections = {f"{head}.{name}" for head, value in heads.items() for name in value}
    assert sorted(listed) == sorted({*sections, *(set(DEFAULTS) - set(heads))})


def test_settings_of_controls() -> None:
    """Each row has the setting's default and, in figures, its bounds."""
    schema = Settings.model_json_schema()
    for name, default, _, limits in rows_of("docs/controls.md"):
        key = name.strip("`")
        defaults_in(default, [key])
        head, _, entry = key.partition(".")
        field = schema["$defs"][schema["properties"][head]["$ref"].rpartition("/")[2]]["properties"][entry]
        bounds_in(limits, field, key)


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
    no_metrics = NO_METRICS.union(*(labels for _, labels in series.values()))
    for name, labels in SERIES.findall({**TEXTS, **DEPLOYED}[document]):
        if name in no_metrics:
            continue
        assert name in series, name
        given = {re.split(r"[=!~]", label)[0].strip() for label in labels.split(",") if label}
        assert given <= series[name][1] | TARGET, f"{name}{{{labels}}}"


def test_labels_that_controls_names() -> None:
    """The page has all labels of the metric about changes."""
    found = re.findall(r"`(fivestage_\w+)`\n?\(labels ([^)]*)\)", TEXTS["docs/controls.md"])
    assert found
    for name, labels in found:
        assert set(re.findall(r"`(\w+)`", labels)) == metrics()[name][1], name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_named_in_text(document: str) -> None:
    """Files and modules named in a document exist."""
    text = TEXTS[document]
    package = ROOT / "consumer/fivestage"
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", text):
        places = (ROOT / document).parent, ROOT, package, package.parent
        found = any((place / name).exists() or (place / f"{name}.py").exists() for place in places)
        assert found or name.startswith(ELSEWHERE), name
    topics = set(DEFAULTS["topics"].values())
    for name in set(re.findall(r"`((?:fivestage|fivestage_schemas)(?:\.[a-z_-]+)+)`", text)) - topics:
        assert importlib.util.find_spec(name) is not None, name


def test_packages_of_the_architecture() -> None:
    """Its list has all packages, in the order in which imports may point."""
    rows = table_under(section(TEXTS["ARCHITECTURE.md"], "Packages"))
    listed = [name.strip("/") for row in rows for name in re.findall(r"`([a-z_/]+)(?:\.py)?`", row[0])]
    package = ROOT / "consumer/fivestage"
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert packages - set(listed) == set()
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [
        re.split(r" [|:] ", layer.replace("fivestage.", "")) for layer in linter["contracts"][0]["layers"]
    ]
    depth = {name: number for number, layer in enumerate(layers) for name in layer}
    assert [depth[name] for name in listed] == sorted(depth[name] for name in listed)


def test_headers_named_in_text() -> None:
    """Every header of dead letters and CloudEvents that a document names is one of those of the contract."""
    named = {name for text in TEXTS.values() for name in re.findall(r"`((?:ce_|dlq\.)[a-z-]+)`", text)}
    assert len(named) >= FEWEST_HEADERS
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
