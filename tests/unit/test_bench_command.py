"""The figures, the verdict, the text and the picture of ``fivestage bench``."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.cli.bench.figures import Step, is_over, next_rate, percentiles, verdict
from fivestage.cli.bench.picture import draw
from fivestage.cli.bench.view import View
from fivestage.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

BUDGET_MS = 250.0
OTHERS = "10 late, 10 expired (expired)"


def result(status: str = "success", **fields: Any) -> dict[str, Any]:
    """Return the fields of a result that are read."""
    stage = {"stage_type": "processing", "outcome": "success", "duration_ms": 7.0}
    common = {"error_type": None, "node": "word", "metrics": {"total_duration_ms": 8.0}}
    return {"status": status, "stages": [stage]} | common | fields


def step(rate: float, in_time: int, late: int = 0, expired: int = 0, behind_ms: float = 0.0) -> Step:
    """Return a load of one second."""
    found = Step(rate, 1.0, sent=in_time + late + expired, behind_ms=behind_ms)
    for _ in range(in_time):
        found.add(result(), 10.0, BUDGET_MS)
    for _ in range(late):
        found.add(result(), 300.0, BUDGET_MS)
    for _ in range(expired):
        found.add(result("expired", error_type="expired", node=None, stages=[]), 260.0, BUDGET_MS)
    return found


RISING = [step(10, 10), step(20, 20), step(40, 40), step(80, 60, 10, 10), step(104, 58, 20, 26)]


def test_outcomes() -> None:
    """An answer counts as in time only if it came within the budget of the moment it was due."""
    found = step(10, 6, 2, 2)
    assert dict(found.outcomes) == {"in time": 6, "late": 2, "expired": 2}
    assert dict(found.errors) == {"expired": 2}
    assert found.in_time_share == 0.6
    assert found.stages_ms == {"processing": [7.0] * 8}


def test_breaks_where_answers_in_time_do_not_rise() -> None:
    """The break is the lowest load that gives nearly all the answers in time that any load gives."""
    found = verdict(RISING)
    assert (found.best.rate, found.most_per_s, found.broke) == (80, 60.0, True)
    assert found.easy is not None
    assert found.easy.rate == 40
    assert verdict(RISING[:3]).broke is False


@pytest.mark.parametrize(
    ("steps", "over"),
    [
        (RISING[:4], False),
        (RISING, False),
        ([*RISING, step(135, 50, 85)], True),
        ([step(10, 10, behind_ms=80.0)], True),
    ],
)
def test_ends_after_two_loads_beyond(steps: Sequence[Step], over: object) -> None:
    """The load rises until two higher ones gave no more, or until it cannot be offered as planned."""
    assert is_over(steps) is over


def test_rises_slowly_near_the_break() -> None:
    """The load doubles while it is easy; a failed query or half of the budget used make the steps smaller."""
    assert next_rate(step(100, 100), BUDGET_MS) == 200
    assert next_rate(step(100, 90, 10), BUDGET_MS) == 130
    slow = Step(100, 1.0, sent=1)
    slow.add(result(), 200.0, BUDGET_MS)
    assert next_rate(slow, BUDGET_MS) == 130


def test_percentiles() -> None:
    """Percentiles of many, of one and of no values."""
    assert percentiles([float(n) for n in range(100)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([3.0]) == {"p50": 3.0, "p95": 3.0, "p99": 3.0}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


@pytest.mark.parametrize("steps", [RISING, RISING[:1], [step(10, 0, expired=10)]], ids=["all", "one", "none"])
def test_picture(steps: Sequence[Step]) -> None:
    """The picture is well-formed whatever was measured, and names the break."""
    text = draw(steps, budget_ms=BUDGET_MS, title='bench <&"app')
    texts = ["".join(one.itertext()) for one in ET.fromstring(text).iter() if one.tag.endswith("text")]  # noqa: S314
    assert 'bench <&"app' in texts
    assert ("breaks at about 80/s" in texts) is (steps is RISING)
    assert "nan" not in text


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Each load has a line; then come the verdict and the waterfall."""
    view = View(Settings(), as_json=False)
    for one in RISING:
        view.step(one)
    view.summary(RISING)
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("     80"))
    assert line.split() == ["80", "60", "75.0", "%", "#" * 15, "10", "300", "300", *OTHERS.split()]
    assert "Breaks at about 80/s" in text
    assert "Nearly all in time up to 40/s." in text
    assert "At 80/s, answered by word (70):" in text
    assert re.search(r"processing +7 / 7 ", text)
    assert re.search(r"between stages +1 / 1 ", text)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([step(10, 10)], "Did not break up to 10/s"),
        (
            [step(10, 4, 6)],
            "At no load were nearly all in time: at 10/s 40 % are, and 4/s are the most so far",
        ),
        (
            RISING[:4],
            "Nearly all in time up to 40/s: at 80/s 75 % are, and 60/s are the most so far; see --s",
        ),
        ([step(10, 0, expired=10)], "No query was answered in time"),
        ([step(10, 10, behind_ms=70.0)], "70 ms or more later than planned"),
    ],
)
def test_other_verdicts(steps: Sequence[Step], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was not found out is said."""
    View(Settings(), as_json=False).summary(steps)
    assert words in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json each load is an object, and the last line the verdict."""
    view = View(Settings(), as_json=True)
    view.step(RISING[3])
    view.summary(RISING)
    load, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert load["in_time_per_s"] == 60.0
    assert load["latency_ms"]["p50"] == 10.0
    assert last == {
        "best_load_per_s": 80,
        "most_in_time_per_s": 60.0,
        "nearly_all_in_time_up_to_per_s": 40,
        "broke": True,
        "generator_was_late": False,
    }
