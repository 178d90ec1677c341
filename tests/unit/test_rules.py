"""The rules for Prometheus: they parse, name what exists, fire when they should, and have runbooks."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from fivestage.settings import Settings
from support.documents import ROOT, text_of
from support.programs import program
from support.promql import SERIES, faults_of

FOLDER = ROOT / "deploy/prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: {"job", "topic"} for rule in RULES if "record" in rule}
TESTS = yaml.safe_load((FOLDER / "rules_test.yaml").read_text(encoding="utf-8"))["tests"]


def promtool(*arguments: str) -> str:
    """Run promtool, which must find no fault, and return what it prints."""
    done = subprocess.run(
        [program("promtool", "prometheus"), *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    """Prometheus's own check finds no fault in them."""
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "rules.yaml")


def test_each_alert_fires_and_does_not() -> None:
    """On series that an operator would see, exactly the expected alerts fire."""
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yaml")


def test_each_alert_has_a_test() -> None:
    """Some test expects each alert to fire, and some test has its series and expects it not to."""
    cases = [(one, case["exp_samples"]) for one in TESTS for case in one["promql_expr_test"]]
    firing = {
        name for _, found in cases for sample in found for name in re.findall(r'"(\w+)"', sample["labels"])
    }
    assert firing == set(ALERTS)
    quiet = {
        series["series"].partition("{")[0]
        for one, found in cases
        if not found
        for series in one["input_series"]
    }
    for name, rule in ALERTS.items():
        named = set(re.findall(r"\w+", " ".join([rule["expr"], *recorded_in(rule["expr"])])))
        assert named & quiet & set(SERIES), name


def test_the_runbooks_name_log_lines_that_exist() -> None:
    """What they call a log line is an event of docs/logs.md."""
    events = set(re.findall(r"^\| `([^`]+)` \|", text_of("docs/logs.md"), flags=re.MULTILINE))
    named = re.findall(r"log\s+lines?\s+`([^`]+)`", text_of("docs/runbooks.md"))
    assert len(named) >= 4
    assert set(named) <= events


def recorded_in(expression: str) -> list[str]:
    """Return the expressions of the recorded series that an expression names."""
    return [rule["expr"] for rule in RULES if rule.get("record", "?") in expression]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_what_exists(rule: dict[str, Any]) -> None:
    """Each expression parses, and names only metrics and labels that exist."""
    assert faults_of(rule["expr"], RECORDED) == []
    texts = [str(text) for text in rule.get("annotations", {}).values()]
    for label in re.findall(r"\$labels\.(\w+)", " ".join(texts)):
        assert label == "instance" or label in re.findall(
            r"\w+", " ".join([rule["expr"], *recorded_in(rule["expr"])])
        )


def test_a_wrong_name_is_found() -> None:
    """The check of names is one: it finds a metric and labels that do not exist."""
    wrong = 'sum by (lanes) (rate(fivestage_shed_total{action="x",node="y"}[5m])) / fivestage_gone'
    assert faults_of(wrong, RECORDED) == [
        "fivestage_shed_total has no label node",
        "no metric fivestage_gone",
        "no metric in it has the label lanes",
    ]
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        faults_of("sum(rate(", RECORDED)


def test_the_objective_is_that_of_the_status_page() -> None:
    """The rules burn the budget that the objective leaves, by the factors of the workbook."""
    burns = {name: rule["expr"] for name, rule in ALERTS.items() if "Burn" in name}
    left = {float(left) for expr in burns.values() for left in re.findall(r"\* (0\.\d+)", expr)}
    assert left == {round(1 - Settings().admin.objective, 6)}
    factors = {name: set(re.findall(r"> ([\d.]+) \*", expr)) for name, expr in burns.items()}
    assert factors == {f"FivestageErrorBudgetBurn{n}x": {f} for n, f in ((14, "14.4"), (6, "6"), (1, "1"))}


def test_each_alert_has_a_runbook() -> None:
    """Each alert has an entry, each entry an alert; the alert links to it, and it answers four questions."""
    runbooks = text_of("docs/runbooks.md")
    entries = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbooks, flags=re.DOTALL | re.MULTILINE))
    assert list(entries) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}
        if "the same as" not in entries[name]:
            for part in ("**Means**", "**Look first**", "**Do**", "**Harmless**"):
                assert part in entries[name], f"{name}: {part}"
