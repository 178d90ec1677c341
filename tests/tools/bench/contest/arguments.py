"""What every contestant is told on its command line."""

from __future__ import annotations

import sys
from typing import NamedTuple, Self


class Arguments(NamedTuple):
    """Where to work."""

    bootstrap: str
    group_id: str
    queries: str
    stage_results: str
    results: str

    @classmethod
    def read(cls) -> Self:
        """From the command line."""
        return cls(*sys.argv[1:6])

    def topic(self, *, is_result: bool) -> str:
        """Where an event goes."""
        return self.results if is_result else self.stage_results
