"""The section ``nodes`` of the settings: a table for each node or resource, with values of the author's.

``node_settings`` checks the values. They may be secrets, so ``fivestage config show`` prints none of them.
"""

from __future__ import annotations

import json
from datetime import date, time
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Secret

MASK: Final = "**********"
MAX_BYTES: Final = 49_152
"""The largest size of all values as JSON: worker processes get them in one packet, where they may be twice as
large (``frames.MAX_PACKET_BYTES``)."""


class Masked(Secret[Any]):
    """One value of a table, shown as a mask; ``get_secret_value`` returns it as JSON has it."""

    def __init__(self, given: Any) -> None:
        super().__init__(_as_json(given))

    def _display(self) -> str:
        return MASK


def _as_json(given: Any) -> Any:
    """Return what JSON makes of a value of a TOML file: dates and times become texts."""
    return json.loads(json.dumps(given, default=_text))


def _text(value: Any) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    raise ValueError(f"expected text, a number, a boolean, a list or a table, got {type(value).__name__}")


def unmasked(tables: dict[str, dict[str, Masked]]) -> dict[str, dict[str, Any]]:
    """Return the values themselves."""
    return {name: {key: one.get_secret_value() for key, one in t.items()} for name, t in tables.items()}


def _bounded(tables: dict[str, dict[str, Masked]]) -> dict[str, dict[str, Masked]]:
    size = len(json.dumps(unmasked(tables)).encode())
    if size > MAX_BYTES:
        raise ValueError(
            f"{size} bytes are more than {MAX_BYTES}: keep long texts in files, and their paths here"
        )
    return tables


NodeTables = Annotated[dict[str, dict[str, Masked]], AfterValidator(_bounded)]
