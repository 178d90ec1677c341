"""The inputs of the demo: some of each kind, the same ones for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

KIND_HEADER: Final = "demo-kind"
"""The header with the kind of an input, for the audit, which reads nothing but the topics."""


class Input(NamedTuple):
    """A record to write."""

    kind: str
    query_id: str
    question: str
    """The text to show; a description if the record is malformed."""
    value: bytes

    @property
    def headers(self) -> dict[str, bytes]:
        """The record's headers."""
        return {KIND_HEADER: self.kind.encode()}


_COUNTRIES: Final = (
    *("France", "Japan", "Kenya", "Peru", "Norway"),
    *("India", "Canada", "Egypt", "Chile", "Italy"),
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


class _Kind(NamedTuple):
    """A kind of input: how many of sixty there are, its question, and further fields of its event."""

    share: int
    question: str | Callable[[random.Random], str]
    fields: dict[str, Any] = {}  # noqa: RUF012 - not changed


_AN_HOUR_AGO: Final = (datetime.now(UTC) - timedelta(hours=1)).isoformat()

KINDS: Final = {
    "sum": _Kind(20, _sum),
    "fact": _Kind(12, _fact),
    "unknown": _Kind(5, lambda rng: rng.choice(_UNKNOWN)),
    "slow node": _Kind(4, "Take two seconds, please", {"context": {"intent": "slow"}}),
    "stubborn node": _Kind(3, "Ignore your limits, please", {"context": {"intent": "stubborn"}}),
    "node raises": _Kind(4, "Divide one by zero, please", {"context": {"intent": "broken"}}),
    "slow check": _Kind(4, "Answer now, check later", {"context": {"intent": "unchecked"}}),
    "expired": _Kind(3, "What was due an hour ago?", {"deadline": _AN_HOUR_AGO}),
    "malformed": _Kind(3, "(user_input is a number)", {"user_input": 15}),
    "malformed, no id": _Kind(2, "(no JSON)"),
}
"""By name, in the order of the summary."""

NO_ID: Final = "malformed, no id"


def make_inputs(count: int, seed: int) -> list[Input]:
    """Make *count* inputs in mixed order, at least one of each kind if *count* allows it."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    width = len(str(count))
    return [
        _make(kind, f"q-{number:0{width}}", rng) for number, kind in enumerate(_choose_kinds(count, rng), 1)
    ]


def in_round(inputs: Sequence[Input], number: int) -> list[Input]:
    """Return the inputs with other ids, such as ``q-45-3`` in the third round."""
    return [one if one.kind == NO_ID else _renamed(one, f"{one.query_id}-{number}") for one in inputs]


def _renamed(one: Input, query_id: str) -> Input:
    event = json.loads(one.value) | {"query_id": query_id}
    return one._replace(query_id=query_id, value=json.dumps(event).encode())


def _choose_kinds(count: int, rng: random.Random) -> list[str]:
    names = list(KINDS)
    more = rng.choices(names, [kind.share for kind in KINDS.values()], k=max(0, count - len(names)))
    if count == sum(kind.share for kind in KINDS.values()):
        chosen = [name for name, kind in KINDS.items() for _ in range(kind.share)]
    else:
        chosen = [*names[:count], *more]
    rng.shuffle(chosen)
    return chosen


def _make(name: str, query_id: str, rng: random.Random) -> Input:
    kind = KINDS[name]
    question = kind.question if isinstance(kind.question, str) else kind.question(rng)
    event = {"query_id": query_id, "user_input": question, **kind.fields}
    value = b"this is no JSON" if name == NO_ID else json.dumps(event).encode()
    return Input(name, query_id, question, value)
