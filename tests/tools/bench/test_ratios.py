"""The arithmetic of ``make bench``: what is counted, what is divided by what, which limit applies."""

from __future__ import annotations

import os
import sys
import time

import pytest

pytest.importorskip("matplotlib", reason="the benchmarks' requirements are not installed")

from fivestage.observability.build_info import COMPILED

from .drain import Drained, Sample
from .entries import CONTESTANTS, FIVESTAGE, HANDWRITTEN, QUICK, chosen, compiled
from .parts import Bar, Spread, in_turn, paired
from .rounds import bars, with_table
from .system import cpu_seconds
from .yardstick import yardstick


def sample(at: float, answered: int, cpu_s: float) -> Sample:
    """Build a sample."""
    return Sample(at, answered, cpu_s)


def cost(cpu_us: float) -> Drained:
    """Build a run's measurements."""
    return Drained(1000, cpu_us, per_second=1e6 / cpu_us, cores=1.0, peak_mb=50.0)


def test_a_cost_excludes_the_beginning_and_the_end() -> None:
    """What a contestant does for queries that are not answered yet would make it look cheaper or dearer."""
    samples = [sample(0, 1, 5.0), sample(1, 150, 6.0), sample(2, 850, 6.7), sample(3, 1000, 9.0)]
    found = Drained.of(samples, 1000, peak_mb=50)
    assert (found.queries, round(found.cpu_us), round(found.per_second)) == (700, 1000, 700)
    assert round(found.cores, 3) == 0.7


@pytest.mark.parametrize(
    "samples", [[sample(0, 1, 0.0), sample(1, 1000, 1.0)], [sample(0, 500, 1.0), sample(1, 1000, 2.0)]]
)
def test_too_few_queries_are_not_measured(samples: list[Sample]) -> None:
    """A run that is over between two samples says so instead of a figure."""
    with pytest.raises(SystemExit, match="too few"):
        Drained.of(samples, 1000, peak_mb=50)


def test_ratios_are_of_the_same_round() -> None:
    """A machine that is three times slower in one round does not change a ratio."""
    rounds = [{"one": 100.0, "other": 200.0}, {"one": 300.0, "other": 600.0}, {"one": 90.0}]
    assert paired(rounds, "one", "other") == Spread(0.5, 0.5, 0.5)
    assert paired(rounds, "one", "third") is None


def test_each_round_begins_with_another() -> None:
    """No contestant is always the first on a new broker."""
    assert [in_turn("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_limits_follow_the_build() -> None:
    """A fivestage that is compiled has another limit than one that is not."""
    field = {FIVESTAGE: CONTESTANTS[FIVESTAGE], HANDWRITTEN: CONTESTANTS[HANDWRITTEN]}
    rounds = [{FIVESTAGE: cost(300), HANDWRITTEN: cost(1000)}]
    name = f"{FIVESTAGE}: CPU a query, by that of {HANDWRITTEN}"
    limits = {
        flag: next(bar for bar in bars(rounds, {FIVESTAGE: flag}) if bar.name == name)
        for flag in (True, False)
    }
    assert limits == {
        True: Bar(name, "<= 0.22", "0.3", kept=False),
        False: Bar(name, "<= 0.5", "0.3", kept=True),
    }
    assert compiled(None) is compiled(sys.executable) is COMPILED
    assert set(field) < set(QUICK)


def test_bars_without_a_figure_are_not_kept() -> None:
    """A bar whose contestant did not take part is listed as not measured."""
    found = {bar.name: bar.kept for bar in bars([{FIVESTAGE: cost(300)}], {FIVESTAGE: True})}
    assert found.pop("queries a second and core") is False
    assert len(found) > 5
    assert set(found.values()) == {None}


def test_a_second_environment_runs_each_kind_of_fivestage() -> None:
    """``--with`` adds a contestant for each fivestage of this environment, with the other Python."""
    field = chosen("fivestage,fivestage-rejected,handwritten", "/other/python")
    assert list(field) == [
        "fivestage", "fivestage-rejected", "handwritten", "fivestage-with", "fivestage-with-rejected",
    ]  # fmt: skip
    there = field["fivestage-with-rejected"]
    assert there.python == "/other/python"
    assert there._replace(python=None) == field["fivestage-rejected"]
    assert there.missing() == "there is no /other/python"


def test_environments_are_compared_per_round() -> None:
    """The table of ``--with`` has the other environment's CPU divided by this one's."""
    rounds = [{"fivestage": 200.0, "fivestage-with": 150.0, "handwritten": 500.0}]
    (text,) = with_table(rounds)
    assert text.splitlines()[-1] == "| fivestage-with           | 0.750 (0.750..0.750)    |"
    assert not [*with_table([{"fivestage": 200.0, "handwritten": 500.0}])]


def test_the_cpu_clock_of_a_process() -> None:
    """Another process's user and system time are read to less than a tick."""
    before = time.process_time()
    between = cpu_seconds(os.getpid())
    assert before <= between <= time.process_time()


def test_the_yardstick_measures_both() -> None:
    """Both pieces of work cost something."""
    assert all(figure > 0 for figure in yardstick())
