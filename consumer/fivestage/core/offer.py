"""An answer that a node offered before it ended: the partial answer of a query whose node ends too late."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Offer(NamedTuple):
    """An offered answer."""

    answer_json: bytes
    """The answer, encoded by the executor."""
    confidence: float | None
    node: str | None
    """The node that offered it."""


class HasOffer(Protocol):
    """The context of a call of a node; in the main process, what a worker process has sent of it."""

    last_offer: Offer | None
    """The last answer that the call offered."""


class SentOffer:
    """The last offer of a call that runs in a worker process."""

    __slots__ = ("last_offer",)

    def __init__(self, last_offer: Offer | None = None) -> None:
        self.last_offer = last_offer

    def __repr__(self) -> str:
        return f"<SentOffer {'none' if self.last_offer is None else len(self.last_offer.answer_json)}>"
