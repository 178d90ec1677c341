"""What a node passes on to the services that it calls: the time that is left, and the trace."""

from __future__ import annotations

from typing import Final

from fivestage.pipeline.current_span import trace_headers

RESERVE_MS: Final = 5.0
"""Milliseconds in which a node that caught its client's timeout can still return something."""
LEAST_MS: Final = 1.0
"""Clients read 0 as no limit at all."""


class Outbound:
    """The part of a context that a node's clients use."""

    __slots__ = ()

    deadline_header: str

    def remaining_ms(self) -> float:
        """Milliseconds left, 0.0 or more."""
        raise NotImplementedError

    def timeout(self, reserve_ms: float = RESERVE_MS) -> float:
        """Seconds that a client may take, so that it fails by itself before its node is cancelled.

        Args:
            reserve_ms: Milliseconds to leave of what the node has, for the work after the reply. Less than 0
                for a client whose exception would discard what the node offered: then the stage ends first.

        Returns:
            At least 0.001, never 0 or None, which clients take for no limit.

        Example: ``stub.Ask(request, timeout=ctx.timeout())``
        """
        return max(LEAST_MS, self.remaining_ms() - reserve_ms) / 1000

    def headers(self) -> dict[str, str]:
        """Headers that pass trace and deadline on to another service; a new dict, with lower-case names.

        ``traceparent`` and ``tracestate`` of this call's span, where the query is traced, and
        ``outbound.deadline_header`` with what ``timeout`` returns, in whole milliseconds. Neither baggage nor
        anything of the query: a service of someone else may get them too.

        Example: ``session.post(url, json=body, headers=ctx.headers())``
        """
        headers = trace_headers()
        if self.deadline_header:
            headers[self.deadline_header] = str(int(self.timeout() * 1000))
        return headers
