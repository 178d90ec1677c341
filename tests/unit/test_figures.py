"""The figures in documents are the measured ones: each page is compared with the JSON it was made from."""

from __future__ import annotations

import json
import re
import statistics
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from support.documents import ROOT, text_of
from support.tables import section, table_under, tables_in
from tools.bench import controls_tables, hostile, hostile_run, ordinary
from tools.bench.controls_cells import Cell, Figures
from tools.bench.entries import CONTESTANTS as CONTEST
from tools.bench.parts import Spread, paired

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

BENCH = ROOT / "docs/bench"
README, BENCHMARKS = text_of("README.md"), text_of("docs/benchmarks.md")
CONTESTANTS = {
    "fivestage, compiled": "fivestage",
    "fivestage, not compiled": "fivestage-interpreted",
    "Quix Streams": "quix",
    "FastStream in batches": "faststream-batch",
    "Arroyo": "arroyo",
    "Faust": "faust",
    "FastStream": "faststream",
    "no work at all: a record read, six written with aiokafka's `send()`": "raw-aiokafka",
}
HOSTILE = {
    "swallows its cancellation": "deaf",
    "`while True: pass` in an `async def`": "spin-async",
    "`while True: pass` in a `def`": "spin-def",
    "`time.sleep(5)` in an `async def`": "block-async",
    "a `def` that never ends": "never",
    "raises a `BaseException`": "base-exception",
    "raises `SystemExit`": "system-exit",
    "returns a value that is not JSON": "no-json",
    "returns 50 MB": "large",
    "forks, and both processes continue": "fork",
    "leaves 100 tasks behind": "leak",
    "a C call that keeps the interpreter lock": "hold-gil",
    "imports a module that takes 0.6 s, on first use": "lazy-import",
    "creates a client on first use in each loop, in 50 ms": "client-per-loop",
    "a pooled connection, one reply in 50 takes 400 ms": "pooled",
    "logs through a handler that takes 0.5 s now and then": "slow-log",
    "`asyncio.to_thread`": "to-thread",
}


def measured(name: str) -> Any:
    """Return the figures of one measurement."""
    return json.loads((BENCH / f"{name}.json").read_text(encoding="utf-8"))["figures"]


def page(name: str) -> str:
    """Return a page of docs/bench."""
    return (BENCH / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], list[str]]:
    """Collect the pages that a benchmark writes in a list."""

    def catch(module: ModuleType) -> list[str]:
        pages: list[str] = []
        monkeypatch.setattr(module, "write", lambda _name, text: pages.append(text))
        monkeypatch.setattr(module, "save", lambda *_: None)
        return pages

    return catch


@pytest.mark.parametrize("name", ["contest", "contest-kafka"])
def test_contest(name: str) -> None:
    """Medians of all rounds, and per-round ratios to the hand-written consumer of that row."""
    rounds = measured(name)
    cpu = [{one: figures["cpu_us"] for one, figures in each.items()} for each in rounds]
    text = section(page(name.replace("contest", "bench")), "Contest")
    for row in table_under(text):
        mine = [each[row[0]] for each in rounds if row[0] in each]
        ratio = paired(cpu, row[0], CONTEST[row[0]].beside)
        assert row[1:] == [
            Spread.of([one["cpu_us"] for one in mine]).text(),
            ratio.text(2) if ratio else "-",
            Spread.of([one["per_second"] for one in mine]).text(),
            f"{statistics.median(one['cores'] for one in mine):.2f}",
            str(round(statistics.median(1e6 / one["cpu_us"] for one in mine))),
            str(round(max(one["peak_mb"] for one in mine))),
        ], row[0]
    assert {row[0] for row in table_under(text)} == {one for each in rounds for one in each}


@pytest.mark.parametrize("name", ["latency", "latency-kafka"])
def test_latency(name: str) -> None:
    """Each load's percentiles."""
    text = section(page(name.replace("latency", "bench")), "Latency")
    assert table_under(text) == [
        [
            f"{one['share']:.0%}",
            str(round(one["rate"])),
            *(f"{one[figure]:.1f}" for figure in ("p50_ms", "p99_ms", "max_ms")),
            str(one["failed"]),
            f"{one['generator_late_p99_ms']:.1f}",
        ]
        for one in measured(name)["latencies"]
    ]


def test_memory_idle_and_workers() -> None:
    """The smaller tables of the benchmark."""
    text, memory, workers = page("bench"), measured("memory"), measured("workers")
    figures = [row[1] for row in table_under(section(text, "Memory"))]
    assert figures == [f"{memory['rest_mb']:.1f}", f"{memory['highest_mb']:.1f}"]
    idle = {name: f"{share:.2f}" for name, share in measured("idle").items()}
    assert dict(table_under(section(text, "Idle"))) == idle
    ratio = paired(workers, "2", "1")
    assert ratio is not None
    assert [row[1] for row in table_under(section(text, "Worker processes"))] == [
        Spread.of([one["1"] for one in workers]).text(),
        Spread.of([one["2"] for one in workers]).text(),
        ratio.text(2),
    ]


def test_soak() -> None:
    """The medians of the second and the last quarter."""
    samples = measured("soak")
    quarter = len(samples) // 4
    for name, second, last, *_ in table_under(page("soak")):
        values = [float(sample[name]) for sample in samples]
        medians = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
        assert (second, last) == tuple(f"{one:.1f}" for one in medians), name
    assert f"{samples[-1]['at_s'] / 3600:.1f} h" in page("soak")


def test_hostile_page(written: Callable[[ModuleType], list[str]]) -> None:
    """The page equals the one rendered from its figures."""
    pages = written(hostile)
    stored = json.loads((BENCH / "hostile.json").read_text(encoding="utf-8"))
    for row in stored["figures"]:
        row.pop("failed_bars")
    rows = [hostile_run.Row(**row) for row in stored["figures"]]
    hostile.publish(rows, hostile_run.Options(**stored["options"]))
    assert pages == [page("hostile")]


def test_ordinary_page(written: Callable[[ModuleType], list[str]]) -> None:
    """The page equals the one rendered from its figures."""
    pages = written(ordinary)
    stored = json.loads((BENCH / "ordinary.json").read_text(encoding="utf-8"))
    for row in stored["figures"]:
        row.pop("failed_bars")
    ordinary.publish([ordinary.Row(**row) for row in stored["figures"]], stored["options"])
    assert pages == [page("ordinary")]


def test_gallery_page() -> None:
    """The page equals the one rendered from its figures."""
    stored = json.loads((BENCH / "controls.json").read_text(encoding="utf-8"))
    found = [Figures(**one) for one in stored["figures"]]
    cells = [
        Cell(*place, {one.column: one for one in group})
        for place, group in groupby(found, lambda one: (one.shape, one.load))
    ]
    assert controls_tables.describe(cells, stored["options"]["seeds"]) == page("controls")


def cost(name: str) -> str:
    """The CPU of a query by that of the hand-written consumer, as the contest found it."""
    cpu = [{one: figures["cpu_us"] for one, figures in each.items()} for each in measured("contest")]
    ratio = paired(cpu, name, "handwritten")
    assert ratio is not None
    return f"{ratio.median:.{1 if ratio.median > 2 else 2}f}"


def test_costs() -> None:
    """CPU of every contestant by that of the hand-written one."""
    rows = dict(table_under(section(BENCHMARKS, "What a query costs")))
    assert rows == {label: cost(name) for label, name in CONTESTANTS.items()}


def test_costs_beside_the_alternatives() -> None:
    """The README's row about CPU has the same figures, in the order of its columns."""
    *_, (label, *figures) = table_under(section(README, "Beside the alternatives"))
    assert label.startswith("CPU per query")
    assert figures == [*map(cost, ("fivestage", "faststream", "arroyo", "faust")), "not measured"]


def test_versions_of_the_alternatives() -> None:
    """The README's columns name the versions that the benchmark pins."""
    pins = "".join((ROOT / f"requirements/{name}.txt").read_text() for name in ("bench", "bench-faust"))
    title = next(line for line in README.splitlines() if line.startswith("| | fivestage |"))
    packages = {"FastStream": "faststream", "Arroyo": "sentry-arroyo", "faust-streaming": "faust-streaming"}
    for name, version in re.findall(r"\| ([\w-]+) ([\d.]+) ", title):
        assert re.search(rf"^{packages.pop(name)}=={re.escape(version)}\.", pins, re.MULTILINE), name
    assert not packages


def test_hostile_nodes() -> None:
    """The README's lateness and neighbour figures are those of the embedded broker."""
    rows = [row for row in measured("hostile") if row["broker"] == "embedded"]
    found = {(row["kind"], row["executor"]): row for row in rows}

    def cell(kind: str, executor: str) -> str:
        row = found.get((kind, executor))
        if row is None:
            return "-"
        late, latest = row["record_late_p99_ms"], row["record_late_max_ms"]
        return f"{late:.0f} / {latest:.0f}, {row['normal_success'] * 100:.1f}"

    table = table_under(section(BENCHMARKS, "Hostile nodes"))
    assert {label: (threads, processes) for label, threads, processes in table} == {
        label: (cell(kind, "thread"), cell(kind, "process")) for label, kind in HOSTILE.items()
    }


def test_a_model_that_fails() -> None:
    """The language model's tables have what was measured, in virtual time and with a real server."""
    tables = tables_in(section(BENCHMARKS, "A language model that stalls, fails and refuses"))
    for table, found in zip(tables, measured("llm").values(), strict=True):
        shares = [[one[kind] / one["queries"] for kind in ("in_time", "partial")] for one in found]
        assert [row[1:5] for row in table] == [
            [percent(in_time), percent(partial), str(one["timeouts"]), str(one["errors"])]
            for one, (in_time, partial) in zip(found, shares, strict=True)
        ]
    assert [row[5:] for row in table] == [
        [f"{one['latest_ms']:.1f} ms", f"{one['cpu_ms']:.1f} ms"] for one in found
    ]


def percent(share: float) -> str:
    """Write a share as the tables do; none at all is a dash."""
    return f"{share * 100:.1f} %" if share else "-"


def test_overload() -> None:
    """The README's goodput beyond capacity and recovery after a restart are as measured."""
    ours = [one for one in measured("overload") if one["contestant"] == "fivestage"]
    share = {one["load"]: f"{one['of_capacity']:.0f}" for one in ours}
    text = " ".join(section(BENCHMARKS, "Beyond capacity").split())
    assert f"{share[1.5]}, {share[3]} and {share[10]} % of 800 were answered in time" in text
    again = r"at (\d+) a second queries were in time again ([\d.]+) s .* at (\d+) a .* after ([\d.]+) s"
    found = re.search(again, text)
    assert found is not None
    assert [found.groups()[:2], found.groups()[2:]] == [
        (f"{one['rate']:.0f}", f"{one['ready_to_good_s']:.1f}") for one in measured("recovery")
    ]
