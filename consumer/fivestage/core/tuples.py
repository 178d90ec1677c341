"""NamedTuples made without their own constructor, a function of Python: those that every query has."""

from __future__ import annotations

from typing import Final

new: Final = tuple.__new__
"""``new(Kind, (every, field, in, order))``: there are no defaults, and nothing counts them but a test."""
