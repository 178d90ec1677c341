"""The nodes: how they answer, and which one is broken, since when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el, heading, name, state, table
from fivestage.observability.status.attention import BREAKERS, failure
from fivestage.observability.status.numbers import clock, counted, ms, rate, seconds, share

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.model import Node, Status

MAX_NODES: Final = 50
KINDS: Final = {"closed": "good", "half_open": "warning", "open": "bad"}
CALLS: Final = "fivestage_node_calls_total"
DURATION: Final = "fivestage_node_call_duration_seconds"


def nodes(status: Status) -> list[Element]:
    """Return the table of nodes, those in trouble first."""
    found = sorted(status["nodes"], key=_trouble)
    if not found:
        return [el("p", "No node has been called yet.", class_="empty")]
    headings = [
        heading("Node"),
        heading("Lane", class_="wide"),
        heading("Calls", CALLS, class_="number wide"),
        heading("p50", DURATION, class_="number wide"),
        heading("p95", DURATION, class_="number"),
        heading("Failed", CALLS, class_="number"),
        heading("Health", "fivestage_node_health", class_="number wide"),
        heading("Breaker", "fivestage_breaker_state"),
        heading("Last failure", class_="wide"),
    ]
    caption = "Calls of each node over the last 5 minutes, and its breaker"
    shown = [
        table(caption, headings, [_row(node, status["at"]) for node in found[:MAX_NODES]], class_="nodes")
    ]
    if len(found) > MAX_NODES:
        shown.append(el("p", f"{len(found) - MAX_NODES} more nodes are in /api/status.", class_="empty"))
    return shown


def _trouble(node: Node) -> tuple[int, bool, float, float]:
    return (
        ("open", "half_open", "closed").index(node["breaker"]),
        not node["blocked"],
        -(node["failed"] or 0.0),
        -node["calls_per_s"],
    )


def _row(node: Node, now: str) -> Element:
    broken = node["breaker"] != "closed"
    return el(
        "tr",
        el("th", el("b", name(node["node"])) if broken else name(node["node"]), scope="row"),
        el("td", name(node["lane"]), class_="wide"),
        el("td", rate(node["calls_per_s"]), class_="number wide"),
        el("td", ms(node["p50_ms"]), class_="number wide"),
        el("td", ms(node["p95_ms"]), class_="number"),
        el("td", share(node["failed"]), class_="number"),
        el("td", f"{node['health']:.2f}", class_="number wide"),
        el("td", state(KINDS[node["breaker"]], BREAKERS[node["breaker"]] + _again(node)), _notes(node, now)),
        el("td", _failure(node, now), class_="wide"),
        data_key=f"{node['lane']}/{node['node']}",
        class_="broken" if broken else None,
    )


def _again(node: Node) -> str:
    retry = node["retry_in_s"]
    return "" if retry is None else f", again in {seconds(max(retry, 1.0))}"


def _notes(node: Node, now: str) -> Element | None:
    notes = []
    if node["breaker_since"] and node["breaker"] != "closed":
        notes.append(f"since {clock(node['breaker_since'], now)}")
    if node["failing_since"]:
        notes.append(f"fails {share(node['failed'])} since {clock(node['failing_since'], now)}")
    if node["blocked"] and node["blocked_at"]:
        times = counted(node["blocked"], "time")
        notes.append(f"blocks the event loop, {times}, last {clock(node['blocked_at'], now)}")
    if node["abandoned"]:
        notes.append(f"{counted(node['abandoned'], 'call')} abandoned")
    return el("small", ", ".join(notes)) if notes else None


def _failure(node: Node, now: str) -> Element:
    last = node["last_failure"]
    if last is None:
        return el("span")
    return el("span", name(failure(last)), el("small", f" {clock(last['at'], now)}"))
