"""The checker: what a run promised, held against what is in the topics.

Reads with librdkafka, not with our own client. What it looks for:

* *lost*: a query without a terminal event, or an unreadable record without a dead letter;
* *phantom*: a terminal event of no query, or a dead letter of a readable record;
* *contradiction*: two distinct terminal event ids for one query, or two terminal events of one id of which
  not either may be taken. Of one id, the query's id, source, key and lane must be equal, and whether the
  record could be read; two successes must have equal answers (the nodes of these runs answer the same to
  the same); and two events of one run (equal ``started_at``) must be equal to the byte;
* *commit-ahead*: a position committed before everything below it had its terminal event or dead letter;
* *commit-regression*: a position that went back. Within an epoch nothing may lower it, and the next owner
  begins where the last one's commits end, so it may not go back between epochs either;
* *over cap*: more in flight, unfinished or resident than is allowed;
* *late*: a query that ended, or whose event was written, too long after its budget;
* *bad ending*: an instance that took too long to end after SIGTERM, or ended with another code than 0; with
  1, which says that it could not commit, it may end while a broker is away.

What it counts and forgives: a query that was run again, because its instance ended or lost its partition
between answer and commit, has a second event of the same id. Its times differ, and its status may: what was
in time once need not be in time again. Times are looked at with `Limits` only, and not for queries that ran
while an instance was stopped or waited for a processor, as far as that is told; what is written late while a
broker is away is no one's fault here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .history import (
    Ending,
    History,
    Interval,
    Letter,
    Sample,
    Snapshot,
    Terminal,
)
from .judge import Limits, Report, judge
from .reading import (
    Place,
    Positions,
    committed,
    headers_of,
    json_of,
    read_all,
    wait_for_results,
    wait_until_committed,
)
from .watches import CommitWatch, CpuWatch, Instance, MetricsWatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka.broker import TopicSet

__all__ = [
    "CommitWatch",
    "CpuWatch",
    "Ending",
    "History",
    "Instance",
    "Interval",
    "Letter",
    "Limits",
    "MetricsWatch",
    "Place",
    "Positions",
    "Report",
    "Sample",
    "Snapshot",
    "Terminal",
    "check",
    "committed",
    "headers_of",
    "json_of",
    "judge",
    "read_all",
    "read_history",
    "wait_for_results",
    "wait_until_committed",
]


def check(
    bootstrap: str,
    topics: TopicSet,
    ids: Iterable[str],
    snapshots: Iterable[Snapshot] = (),
    limits: Limits | None = None,
) -> Report:
    """Read the results and compare."""
    return judge(read_history(bootstrap, topics, ids, snapshots), limits)


def _repeated(bootstrap: str, topic: str) -> set[str]:
    seen: set[str] = set()
    again: set[str] = set()
    for message in read_all(bootstrap, topic):
        with contextlib.suppress(ValueError, TypeError, KeyError):  # not all of them can be read
            query_id = json_of(message)["query_id"]
            (again if query_id in seen else seen).add(query_id)
    return again


def read_history(
    bootstrap: str, topics: TopicSet, ids: Iterable[str], snapshots: Iterable[Snapshot] = ()
) -> History:
    """Read what the topics say of a run; what else was seen of it can be added."""
    return History(
        asked=set(ids),
        asked_again=_repeated(bootstrap, topics.queries),
        terminals=[Terminal.of(message) for message in read_all(bootstrap, topics.results)],
        letters=[Letter.of(message) for message in read_all(bootstrap, topics.dead_letters)],
        snapshots=list(snapshots),
    )
