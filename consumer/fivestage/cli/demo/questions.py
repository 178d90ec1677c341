"""The questions of the demo: of every kind some, the same ones for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

KIND_HEADER: Final = "demo-kind"
"""Tells the audit, which reads the topics and nothing else, what kind of input a record is."""


class Input(NamedTuple):
    """A record to write."""

    kind: str
    query_id: str
    question: str
    """What to show; for a malformed record a description."""
    value: bytes

    @property
    def headers(self) -> dict[str, bytes]:
        """The record's headers."""
        return {KIND_HEADER: self.kind.encode()}


_COUNTRIES: Final = (
    "France",
    "Japan",
    "Kenya",
    "Peru",
    "Norway",
    "India",
    "Canada",
    "Egypt",
    "Chile",
    "Italy",
)
_UNKNOWN: Final = (
    "Where did I leave my keys?",
    "Who will win on Sunday?",
    "What is the meaning of life?",
    "Why is there a sock in the piano?",
)


def _sum(rng: random.Random) -> str:
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
    return rng.choice([f"What is {a} + {b}?", f"{c} * ({a} - {b})", f"What is {a} times {c}?"])


def _fact(rng: random.Random) -> str:
    attribute = rng.choice(["capital", "population", "currency"])
    return f"What is the {attribute} of {rng.choice(_COUNTRIES)}?"


def _always(text: str) -> Callable[[random.Random], str]:
    return lambda _: text


class _Kind(NamedTuple):
    """One kind of input: how many of sixty it makes up, its question, and more fields of its event."""

    share: int
    question: Callable[[random.Random], str]
    fields: Callable[[], dict[str, Any]] = dict


def _an_hour_ago() -> dict[str, Any]:
    return {"deadline": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}


def _intent(name: str) -> Callable[[], dict[str, Any]]:
    return lambda: {"context": {"intent": name}}


KINDS: Final = {
    "sum": _Kind(20, _sum),
    "fact": _Kind(12, _fact),
    "unknown": _Kind(5, lambda rng: rng.choice(_UNKNOWN)),
    "slow node": _Kind(4, _always("Take two seconds, please"), _intent("slow")),
    "stubborn node": _Kind(3, _always("Ignore your limits, please"), _intent("stubborn")),
    "node raises": _Kind(4, _always("Divide one by zero, please"), _intent("broken")),
    "slow check": _Kind(4, _always("Answer now, check later"), _intent("unchecked")),
    "expired": _Kind(3, _always("What was due an hour ago?"), _an_hour_ago),
    "malformed": _Kind(3, _always("(user_input is a number)"), lambda: {"user_input": 15}),
    "malformed, no id": _Kind(2, _always("(no JSON)")),
}
"""By name, in the order of the summary."""

NO_ID: Final = "malformed, no id"


def make_inputs(count: int, seed: int) -> list[Input]:
    """*count* inputs in mixed order; each kind at least once where *count* allows it."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    kinds = _kinds(count, rng)
    width = len(str(count))
    return [_make(kind, f"q-{number:0{width}}", rng) for number, kind in enumerate(kinds, 1)]


def _kinds(count: int, rng: random.Random) -> list[str]:
    names = list(KINDS)
    more = rng.choices(names, [kind.share for kind in KINDS.values()], k=max(0, count - len(names)))
    if count == sum(kind.share for kind in KINDS.values()):
        chosen = [name for name, kind in KINDS.items() for _ in range(kind.share)]
    else:
        chosen = [*names[:count], *more]
    rng.shuffle(chosen)
    return chosen


def _make(kind: str, query_id: str, rng: random.Random) -> Input:
    question = KINDS[kind].question(rng)
    if kind == NO_ID:
        return Input(kind, query_id, question, b"this is no JSON")
    event = {"query_id": query_id, "user_input": question, **KINDS[kind].fields()}
    return Input(kind, query_id, question, json.dumps(event).encode())
