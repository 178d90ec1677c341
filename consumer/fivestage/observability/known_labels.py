"""The values of labels that are known in advance, whose counters exist from the start.

Prometheus's ``rate`` does not see a series that is born above 0: the first burst of what had never happened
would be missed by each alert.
"""

from __future__ import annotations

from typing import Final

from fivestage.executors.worker import ReplacementReason
from fivestage_schemas import PipelineStatus, TimeoutReason

ENDINGS: Final = (
    *(
        (status, within_budget)
        for status in (PipelineStatus.SUCCESS, PipelineStatus.TIMEOUT, PipelineStatus.ERROR)
        for within_budget in ("true", "false")
    ),
    (PipelineStatus.EXPIRED, "false"),
)
"""How a query ends: its status, and whether within its budget."""
EXPIRED: Final = (TimeoutReason.EXPIRED_BEFORE_START, TimeoutReason.WOULD_EXPIRE)
"""Why a query is not started."""
REPLACED: Final = tuple(ReplacementReason)
"""Why a worker is replaced."""
REBUILDS: Final = {
    "consumer": (
        "cancelled",
        "cut_off",
        "fetch_ended",
        "group_ended",
        "heartbeat_ended",
        "not_joined",
        "position_ended",
        "stalled",
        "timeout",
    ),
    "producer": ("cut_off", "sender_ended", "unacknowledged"),
}
"""Why each client is rebuilt; errors of brokers are reasons too, by the name of their class."""
