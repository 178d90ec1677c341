"""Equality of objects that the service compares by identity."""

from __future__ import annotations

from typing import Any


def fields(one: Any) -> dict[str, Any]:
    """Return all public attributes of a run or of a running stage, compiled or not."""
    values = {name: getattr(one, name) for name in dir(one) if not name.startswith("_")}
    return {name: value for name, value in values.items() if not callable(value)}
