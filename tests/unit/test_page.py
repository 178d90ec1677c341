"""The status page as the server renders it: what it says, that nothing in it is run, and its files."""

from __future__ import annotations

import copy
import re
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from fivestage.observability.metric_table import TABLE
from fivestage.observability.page import assets, recent
from fivestage.observability.page.document import BLOCKS, Page, fill
from fivestage.observability.page.elements import html
from fivestage.observability.page.ruler import Ruler
from fivestage.observability.page.stages import BETWEEN
from fivestage.observability.status import attention, numbers
from fivestage.observability.status.model import State, Status
from support.documents import ROOT
from support.page_document import failed_query, node, stage, status_document

if TYPE_CHECKING:
    from fivestage.observability.status.model import RecentQuery

PAGE = files("fivestage.observability.page")
HOSTILE = "\"'><script>alert(1)</script><!--nodes--><img src=x onerror=alert(1)>"
STRUCTURE = {"stage", "state", "breaker", "trend", "outcome", "status", "level", "executor", "schema_version"}
"""Keys whose values are words of fivestage."""


class Reader(HTMLParser):
    """Collects the text, the elements and the attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def render(document: Any) -> Reader:
    """Render the page and read it."""
    found = Reader(fill(Page().blocks(document)))
    found.text = found.text.replace(numbers.SPACE, " ")
    return found


def with_text(value: Any, text: str, key: str = "") -> Any:
    """Replace all text that others choose."""
    if isinstance(value, dict):
        return {name: with_text(one, text, name) for name, one in value.items()}
    if isinstance(value, list):
        return [with_text(one, text, key) for one in value]
    is_time = isinstance(value, str) and value.startswith("2026-")
    return text if isinstance(value, str) and key not in STRUCTURE and not is_time else value


def without_figures(value: Any) -> Any:
    """Replace each share and percentile by None."""
    if isinstance(value, dict):
        none = {"in_time", "burn_rate", "failed", "p50_ms", "p95_ms", "p99_ms", "time_share"}
        return {
            name: one if name == "series" else None if name in none else without_figures(one)
            for name, one in value.items()
        }
    return [without_figures(one) for one in value] if isinstance(value, list) else value


def test_it_answers_the_questions_of_a_night() -> None:
    """It says which node is broken, since when and why; what takes the time; what else is wrong."""
    text = render(status_document()).text
    for sentence in (
        "pricing is broken since 14:02:11, breaker open: ConnectionError at pricing.py:31.",
        "Only 98.7 % in time within 5 min; the objective is 99.5 %.",
        "processing timed out in 4 % of its calls; its limit is now 100 ms.",
        "processing takes 90 % of the time of all stages (p50 41 ms, p95 96 ms).",
        "between stages",
        "10 % of the time",
        "Work arrives faster than it leaves: lag 12, rising.",
        "Partition queries/3 is halted.",
        "300 partitions",
        "Partitions: 300 assigned",
        "1 call runs on after its end: pricing for 4 s.",
        "fivestage explain q-1",
        "pricing: breaker opened (3 times) 14 of 20 calls failed, lane prod",
        "pricing: node failed ConnectionError, at pricing.py:31, count 7",
    ):
        assert sentence in text, sentence


def test_a_node_that_blocks() -> None:
    """It is named in the head, at the node and at the workers, though none of its calls fails."""
    document = status_document()
    at = "2026-05-04T14:02:13.000Z"
    document["nodes"][0] |= {"blocked": 42, "blocked_at": at}
    where = "/srv/llm.py:7 ask"
    document["workers"]["blocked_by"] = [{"name": "llm", "count": 42, "at": at, "where": where}]
    text = render(document).text
    assert "llm blocks the event loop: 42 times in 5 min, last 14:02:13." in text
    assert "blocks the event loop, 42 times, last 14:02:13" in text
    assert "llm4214:02:13llm.py:7 ask" in text


def test_waits_between_stages() -> None:
    """They are mentioned if they are a large part of the time, and long."""
    document = status_document()
    document["between"] = {"p50_ms": 60.0, "p95_ms": 90.0, "share": 0.6}
    sentence = "Waits for an event loop or a thread take 60 % of the time of queries, 90 ms at p95."
    assert sentence in render(document).text
    document["between"]["p95_ms"] = 2.0
    assert sentence[:35] not in render(document).text


def test_a_node_that_fails_has_a_since() -> None:
    """Also while its breaker is closed."""
    document = status_document()
    document["nodes"][0] |= {"failed": 0.5, "failing_since": "2026-05-04T13:57:57.000Z"}
    assert "fails 50 % since 13:57:57" in render(document).text


def healthy() -> Status:
    """Build a document without a problem."""
    document = status_document()
    document["windows"][0]["in_time"] = 1.0
    document["stages"], document["nodes"], document["partitions"] = [], [node("llm")], []
    document["lag"]["trend"] = "steady"
    document["workers"]["abandoned"] = []
    return document


def sentences(document: Status) -> list[tuple[str, str]]:
    """Return the problems as text."""
    found = attention.problems(document)
    return [
        (kind, f"{before}{subject}{rest}".replace(numbers.SPACE, " "))
        for kind, subject, rest, before in found
    ]


def test_all_is_well() -> None:
    """Without a problem it says so."""
    document = healthy()
    assert attention.problems(document) == []
    assert "Nothing needs attention." in render(document).text


@pytest.mark.parametrize(
    ("critical", "outcomes", "expected"),
    [
        (True, {"error": 1.0}, ("bad", "validation fails 100 % of its calls.")),
        (False, {"error": 0.1, "skipped": 0.5}, ("warning", "validation fails 20 % of its calls.")),
        (True, {"skipped": 1.0}, None),
        (True, {"error": 0.001}, None),
        (
            True,
            {"timeout": 0.5},
            ("warning", "validation timed out in 50 % of its calls; its limit is now 250 ms."),
        ),
    ],
)
def test_a_stage_that_fails(
    critical: bool,  # noqa: FBT001
    outcomes: dict[str, float],
    expected: tuple[str, str] | None,
) -> None:
    """What fails is a share of the calls that were made; a limit is at most the budget."""
    document = healthy()
    found = stage("validation", 3.0, 12.0, 0.05, **outcomes)
    document["stages"] = [{**found, "critical": critical, "learned_ms": 278.0}]
    assert sentences(document) == ([] if expected is None else [expected])


def test_records_that_cannot_be_read() -> None:
    """From the share of the alert on."""
    document = healthy()
    document["rates"]["dead_letters"] = 4.0
    assert sentences(document) == []
    document["rates"]["dead_letters"] = 5.0
    assert sentences(document) == [("warning", "5.0/s dead letters: records that cannot be read.")]


def test_the_busiest_stage_takes_most_of_the_time() -> None:
    """A stage that is quick for most queries and slow for some may take more time than all others."""
    document = status_document()
    document["stages"] = [stage("intent", 0.09, 0.1, 0.02), stage("validation", 0.02, 250.0, 0.98)]
    page = html(*BLOCKS["problems"].render(document), *BLOCKS["stages"].render(document))
    assert "<b><bdi>validation</bdi></b><bdi> takes 98" in page
    assert page.count("<b>validation</b>") == 1
    assert "<b>intent</b>" not in page


def test_labels_are_metrics() -> None:
    """Each tooltip names a metric that exists, but that of the time between stages, which has none."""
    found = html(*(one for block in BLOCKS.values() for one in block.render(status_document())))
    named = set(re.findall(r'role="tooltip">(\w+)', found))
    assert {"fivestage_node_calls_total", "fivestage_expired_total"} <= named
    names = {spec.name for spec in TABLE}
    assert named - names == {BETWEEN.partition(" ")[0]}


@pytest.mark.parametrize("state", get_args(State))
def test_a_service_that_is_not_ready(state: State) -> None:
    """Each state is a word, and each but ready a problem with its reason."""
    document = status_document()
    document["service"] |= {"state": state, "reason": "no broker answers"}
    text = render(document).text
    assert state in text
    assert ("no broker answers" in text) == (state != "ready")


def test_before_the_first_query() -> None:
    """Figures that are not there yet are dashes."""
    document = without_figures(status_document())
    document["recent"], document["events"], document["nodes"] = [], [], []
    text = render(document).text
    assert "No query was slow, late or failed." in text
    assert "No node has been called yet." in text
    assert "None" not in text


def test_names_are_text() -> None:
    """Whatever others put into names, ids and reasons is shown, and never becomes an element."""
    plain, hostile = status_document(), with_text(status_document(), HOSTILE)
    expected, found = render(plain), render(hostile)
    assert HOSTILE in found.text
    assert sorted(found.tags) == sorted(expected.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]


def test_a_command_is_quoted_for_the_shell() -> None:
    """The command that explains a query cannot run another one; an id that cannot be typed has none."""

    def command(query_id: str) -> str:
        document = status_document()
        document["recent"] = [failed_query(query_id)]
        return Reader(html(*recent.recent(document))).text.partition("Explain")[2].removesuffix("Copy")

    assert command("a; rm b") == "fivestage explain 'a; rm b'"
    assert command("-x") == "fivestage explain -- -x"
    assert command("a\nb\x1b[201~") == ""


def test_times_of_other_days_have_a_date() -> None:
    """A breaker that opened yesterday, and what failed and changed then."""
    document = status_document()
    assert "05-04" not in render(document).text
    document["at"] = "2026-05-05T00:00:01.000Z"
    text = render(document).text
    assert "pricing is broken since 05-04 14:02:11" in text
    assert text.count("05-04 14:02:19") == 2
    assert text.count("05-04 14:02:11") == 3


def test_failures_come_before_slow_answers() -> None:
    """All are shown, and many that were slow leave a failure where it can be seen."""
    document = status_document()
    slow = {**failed_query("slow"), "status": "success"}
    document["recent"] = [*[cast("RecentQuery", slow)] * 40, failed_query("failed")]
    found = html(*recent.recent(document))
    assert found.count("<summary>") == 41
    assert found.index("failed") < found.index("slow")


def test_a_query_that_did_not_start_has_no_budget() -> None:
    """Rather than one of 0 ms."""
    document = status_document()
    document["recent"][0]["budget_ms"] = 0.0
    assert "budget 0 ms" not in render(document).text


def test_nothing_is_rendered_twice() -> None:
    """A block whose input has not changed is the same string as before."""
    page, document = Page(), status_document()
    before = page.blocks(document)
    changed = copy.deepcopy(document)
    changed["at"] = "2026-05-04T14:02:22.500Z"
    changed["load"]["running"] = 39
    after = page.blocks(changed)
    assert {name for name in BLOCKS if after[name] is not before[name]} == {"updated", "problems", "load"}


def test_metrics_exist() -> None:
    """Each metric that a label names is one of the service."""
    golden = (ROOT / "tests/golden/metrics.txt").read_text(encoding="utf-8")
    named = set(re.findall(r'role="tooltip">(\w+?)(?:_total)?[<{]', fill(Page().blocks(status_document()))))
    assert len(named) > 10
    assert {name for name in named if f"\n{name}: " not in f"\n{golden}"} == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.ms(None), "–"),  # noqa: RUF001
        (numbers.ms(0.04), "0.04 ms"),
        (numbers.ms(9.96), "10 ms"),
        (numbers.ms(1234.0), "1 234 ms"),
        (numbers.ms(61_000.0), "1 min 1 s"),
        (numbers.seconds(0.4), "0 s"),
        (numbers.seconds(3600.0), "1 h"),
        (numbers.seconds(90_061.0), "1 d 1 h"),
        (numbers.share(1.0), "100 %"),
        (numbers.share(0.9996), "99.96 %"),
        (numbers.share(0.00004), "0.004 %"),
        (numbers.share(0.0), "0 %"),
        (numbers.rate(0.0), "0/s"),
        (numbers.counted(1, "call"), "1 call"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    """Each figure has its unit and no more digits than can be read; a failure never rounds to none."""
    assert re.sub(r"\s", " ", text) == expected


def test_bars_stay_on_the_ruler() -> None:
    """A duration beyond the budget ends at its edge; one of nothing can still be seen."""
    ruler = Ruler(250.0)
    assert 'x="99.60%" width="0.40%"' in html(ruler.bar(900.0, 10.0, "solid"))
    assert 'x="80.00%" width="20.00%"' in html(ruler.bar(200.0, 900.0, "solid"))
    assert 'x="0.00%" width="0.40%"' in html(ruler.bar(0.0, 0.0, "solid"))
    assert ruler.tick(251.0) is None


def test_vendored_files_are_unchanged() -> None:
    """The files of uPlot are those that were published, with their licence."""
    sums = PAGE.joinpath("uplot/SHA256SUMS").read_text(encoding="utf-8").split()
    recorded = dict(zip(sums[1::2], sums[::2], strict=True))
    folder = PAGE.joinpath("uplot")
    found = {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    del found["SHA256SUMS"]
    assert found == recorded
    assert "(v1.6.32)" in folder.joinpath("uPlot.iife.min.js").read_text(encoding="utf-8")[:80]


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_packages_have_the_files(builder: type[WheelBuilder | SdistBuilder]) -> None:
    """The wheel and the sdist contain each file of the page."""
    packed = {Path(file.path) for file in builder(str(ROOT)).recurse_included_files()}
    folder = ROOT / "consumer/fivestage/observability/page"
    expected = {path for path in folder.rglob("*.*") if path.suffix != ".pyc"} | {folder / "uplot/LICENSE"}
    assert len(expected) > 15
    assert expected <= packed


def test_the_page_needs_its_own_files_only() -> None:
    """All that the page refers to is served with it; it has no inline script or style."""
    page = fill(Page().blocks(status_document()))
    found = Reader(page)
    links = {value for name, value in found.attributes if name in {"src", "href"} and value is not None}
    pages = {"#main", "metrics", "api/status", "readyz"}
    assert {f"/{link}" for link in links - pages} == set(assets.ASSETS)
    assert "style" not in found.tags
    assert found.tags.count("script") == page.count(" defer></script>") == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """All text has a contrast of 4.5:1 at least on each background, in both colour schemes."""
    css = PAGE.joinpath("page.css").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = {
        name: value
        for root in roots[: 1 + (scheme == "dark")]
        for name, value in re.findall(r"--(\w+): (#\w+);", root)
    }
    for text in ("text", "quiet", "blue", "orange", "red"):
        for background in ("page", "card", "mark"):
            assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
    for line in ("limit", "blue", "orange"):
        assert contrast(colours[line], colours["card"]) >= 3, line


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance of a colour such as ``#fff`` or ``#1f5fa8``."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
