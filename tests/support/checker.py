"""The checker: compares the promises of a run with the topics.

Reads with librdkafka, not with the service's own client. It finds:

* *lost*: a query without a result, or a record without a result or a dead letter;
* *phantom*: an event of no record, or a dead letter of a readable record;
* *malformed*: an event that is not as the contract says. Its value is its model's, no field missing or
  unknown; it has every header, and no other; id, lane, key and trace are those of the record that its id
  names; status, answer, figures agree with the stages. A dead letter is its record, byte by byte;
* *incomplete*: a result without the five stage results and the timeouts that belong to it, of one run;
* *contradiction*: two distinct terminal event ids for one query, or two terminal events of one id of which
  not either may be taken. Of one id, the query's id, source, key and lane must be equal, and whether the
  record could be read; two successes must have equal answers (the nodes of these runs answer the same to
  the same); and two events of one run (equal ``started_at``) must be equal to the byte;
* *commit-ahead*: a position committed before everything below it had all of its events. Kafka keeps each
  commit with its time, and the time at which it appended an event: compared, not sampled;
* *commit-regression*: a position that went back. Within an epoch nothing may lower it, and the next owner
  starts where the last one's commits end, so it may not go back between epochs either;
* *repeated*: more events of queries that were run again than `Limits` allow;
* *over cap*: more in flight, unfinished or resident than is allowed;
* *late*: a query that ended, or whose event was written, too long after its budget;
* *bad ending*: an instance that took too long to end after SIGTERM, or ended with another code than 0; with
  1, which says that it could not commit, it may end while a broker is away.

What it counts and allows: a query that was run again, because its instance ended or lost its partition
between answer and commit, has a second event of the same id, or events without a result. Its times differ,
and its status may: what was in time once need not be in time again. Times are looked at unless `Limits` say
otherwise, and not for queries that ran on an instance while it was stopped or waited for a processor; what
is written late while a broker is away is not the service's doing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .commits import read_commits
from .history import OUTPUTS, History, InstanceExit, Interval, Sample, Snapshot, Tenure
from .judge import judge
from .reading import (
    Place,
    Positions,
    Record,
    committed,
    ends_now,
    headers_of,
    json_of,
    read_all,
    read_records,
    wait_for_results,
    wait_until_committed,
)
from .report import Limits, Report
from .watches import CommitWatch, CpuWatch, Instance, MetricsWatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka.broker import TopicSet

__all__ = [
    "CUT_OFF",
    "ONCE",
    "UNTIMED",
    "CommitWatch",
    "CpuWatch",
    "History",
    "Instance",
    "InstanceExit",
    "Interval",
    "Limits",
    "MetricsWatch",
    "Place",
    "Positions",
    "Record",
    "Report",
    "Sample",
    "Snapshot",
    "Tenure",
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

ONCE = Limits(repeated=0)
"""Nothing was run again."""
CUT_OFF = Limits(written_late_s=None)
"""A broker, or the way to it, was unreachable, at times unknown to the history."""
UNTIMED = Limits(late_s=None, written_late_s=None)
"""An instance was stopped or starved, at times unknown to the history."""


def check(
    bootstrap: str,
    topics: TopicSet,
    ids: Iterable[str],
    snapshots: Iterable[Snapshot] = (),
    limits: Limits | None = None,
) -> Report:
    """Read the topics and every commit, and compare.

    Args:
        bootstrap: The brokers.
        topics: The topics; the group has their prefix as its name.
        ids: Of all queries.
        snapshots: Snapshots of the commits, for brokers that do not keep them in a topic.
        limits: The limits.
    """
    return judge(read_history(bootstrap, topics, ids, snapshots), limits)


def read_history(
    bootstrap: str, topics: TopicSet, ids: Iterable[str], snapshots: Iterable[Snapshot] = ()
) -> History:
    """Read the history of a run from the topics; other observations can be added."""
    return History(
        asked=set(ids),
        topic=topics.queries,
        queries=read_records(bootstrap, topics.queries),
        outputs={name: read_records(bootstrap, getattr(topics, name)) for name in OUTPUTS},
        ends=ends_now(bootstrap, topics.queries),
        commits=read_commits(bootstrap, topics.prefix, topics.queries),
        snapshots=list(snapshots),
    )
