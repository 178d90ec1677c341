"""Renders the metrics in the format that a client asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import exposition, openmetrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_OPENMETRICS: Final = "application/openmetrics-text"


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return all metrics and their content type.

    OpenMetrics, which also has exemplars, if the Accept header *accept* names it and prefers no other format;
    otherwise plain text.
    Takes milliseconds: call it in a thread.
    """
    plain = _weight(accept, "text/plain", "text/*", "*/*")
    asked = _weight(accept, _OPENMETRICS)
    if asked and asked >= plain:
        encoder = openmetrics.exposition
        return encoder.generate_latest(registry), encoder.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


def _weight(accept: str, *media_types: str) -> float:
    """Return the weight (q, 0 to 1) of the first of *media_types* in an Accept header; 0 if none is in it."""
    weights: dict[str, float] = {}
    for accepted in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in accepted.split(";"))
        weights[media_type] = max(weights.get(media_type, 0.0), _q_of(parameters))
    return next((weights[one] for one in media_types if one in weights), 0.0)


def _q_of(parameters: list[str]) -> float:
    given = next((one.removeprefix("q=") for one in parameters if one.startswith("q=")), "1")
    try:
        return float(given)
    except ValueError:
        return 0.0
