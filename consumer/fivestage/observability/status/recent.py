"""Keeps the last slow, late and failed queries, with their attempts and the reason in words.

Whatever happens often must not push out what happens rarely: of each kind of failure (status, stage, node,
class of the error) the last few are kept, and apart from them the slowest of the answers in time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from fivestage.core.attempts import with_kinds
from fivestage.core.codec.event_json import EventJson
from fivestage.core.outcome import QueryOutcome
from fivestage.core.why import decisive, why
from fivestage_schemas import Outcome, PipelineResult, PipelineStatus
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.stage_run import StageRun
    from fivestage.observability.status.model import Attempt, RecentQuery
    from fivestage_schemas import AttemptKind, TimeoutReason

SLOWEST: Final = 8
"""How many of them are kept, of these five minutes and of the five before."""
KINDS: Final = 12
OF_EACH_KIND: Final = 3
FAILED_S: Final = 3600.0
UNSTARTED_EVERY_S: Final = 0.1
MAX_QUERIES: Final = KINDS * OF_EACH_KIND + 2 * SLOWEST
_SUCCEEDED: Final = PipelineStatus.SUCCESS

Kind = tuple[str, str, str, str]


class KeptQuery:
    """A query that ended, without its data."""

    __slots__ = ("_document", "envelope", "outcome", "text", "unstarted")

    def __init__(
        self,
        envelope: Envelope,
        outcome: QueryOutcome,
        text: str | None = None,
        unstarted: TimeoutReason | None = None,
    ) -> None:
        self.envelope = envelope
        self.text = text
        self.unstarted = unstarted
        """Why it was not started."""
        runs, earlier = tuple(map(_bare, outcome.runs)), tuple(map(_bare, outcome.earlier))
        self.outcome = outcome._replace(runs=runs, earlier=earlier, answer_json=None, error=None)
        self._document: RecentQuery | None = None

    @property
    def ended_at(self) -> float:
        """Monotonic seconds."""
        return self.outcome.started_at + self.outcome.duration_s

    def document(self) -> RecentQuery:
        """Return what the status document shows of it; the first call makes it, in some 0.1 ms."""
        if self._document is None:
            self._document = self._make_document()
        return self._document

    def _make_document(self) -> RecentQuery:
        envelope, outcome, events = self.envelope, self.outcome, EventJson(self.envelope)
        stages = [events.stage(run, outcome.earlier) for run in outcome.runs]
        result = PipelineResult.model_validate_json(events.result(outcome, stages))
        stage = decisive(result)
        runs = (*outcome.earlier, *outcome.runs)
        return {
            "at": events.time(self.ended_at).decode(),
            "query_id": envelope.query_id,
            "lane": envelope.lane,
            "status": str(outcome.status),
            "degraded": outcome.degraded,
            "duration_ms": result.metrics.total_duration_ms,
            "budget_ms": result.metrics.budget_ms,
            "queue_ms": result.metrics.queue_ms,
            "stage": None if stage is None else str(stage.stage_type),
            "node": outcome.node if stage is None else stage.node,
            "error_type": outcome.error_type or (stage.error_type if stage is not None else None),
            "where": next((run.where for run in reversed(runs) if run.where is not None), None),
            "trace_id": _trace_id(envelope),
            "attempts": _attempts(outcome),
            "why": why(result, self.unstarted),
            "text": self.text,
        }


class RecentQueries:
    """At most MAX_QUERIES queries. Used on the bus loop.

    Args:
        show_text: Keep what the users asked (``admin.show_text``).
    """

    def __init__(self, *, show_text: bool) -> None:
        self._show_text = show_text
        self._failed: OrderedDict[Kind, deque[KeptQuery]] = OrderedDict()
        """By kind; the kind that occurred last is the last one."""
        self._slow: list[KeptQuery] = []
        """The slowest first."""
        self._slow_before: list[KeptQuery] = []
        self._slow_s = 0.0
        """Shorter answers are not among the slowest."""

    def look(self, envelope: Envelope, outcome: QueryOutcome, text: str) -> None:
        """Keep a query that was late or failed; if it was only slow, as long as it is one of the slowest."""
        if outcome.status is not _SUCCEEDED or outcome.degraded:
            self._keep_failed(envelope, outcome, text)
        elif outcome.duration_s > self._slow_s:
            self._keep_slow(envelope, outcome, text)

    def look_at_unstarted(self, envelope: Envelope, reason: TimeoutReason) -> None:
        """Keep a query that was not started, at most one of each reason within UNSTARTED_EVERY_S.

        In a backlog of them they come much faster than queries that run. Their text is not known any more.
        """
        queries = self._of_kind((str(PipelineStatus.EXPIRED), "", "", str(reason)))
        at = envelope.started_at
        if not queries or at - queries[-1].ended_at >= UNSTARTED_EVERY_S:
            outcome = QueryOutcome(PipelineStatus.EXPIRED, (), (), at, 0.0, 0.0, error_type="expired")
            queries.append(KeptQuery(envelope, outcome, unstarted=reason))

    def _keep_failed(self, envelope: Envelope, outcome: QueryOutcome, text: str) -> None:
        self._of_kind(_kind_of(outcome)).append(self._kept(envelope, outcome, text))

    def _of_kind(self, kind: Kind) -> deque[KeptQuery]:
        """Return the kept queries of a kind, which now is the last one that occurred."""
        queries = self._failed.get(kind)
        if queries is None:
            if len(self._failed) >= KINDS:
                self._failed.popitem(last=False)
            queries = self._failed[kind] = deque(maxlen=OF_EACH_KIND)
        else:
            self._failed.move_to_end(kind)
        return queries

    def _keep_slow(self, envelope: Envelope, outcome: QueryOutcome, text: str) -> None:
        self._slow.append(self._kept(envelope, outcome, text))
        self._slow.sort(key=lambda kept: -kept.outcome.duration_s)
        if len(self._slow) >= SLOWEST:
            del self._slow[SLOWEST:]
            self._slow_s = self._slow[-1].outcome.duration_s

    def _kept(self, envelope: Envelope, outcome: QueryOutcome, text: str) -> KeptQuery:
        return KeptQuery(envelope, outcome, text if self._show_text else None)

    def forget(self, now: float) -> None:
        """Start a new list of the slowest, and drop failures of more than FAILED_S ago.

        Called every five minutes; *now* is in monotonic seconds.
        """
        for kind, queries in list(self._failed.items()):
            while queries and queries[0].ended_at < now - FAILED_S:
                queries.popleft()
            if not queries:
                del self._failed[kind]
        self._slow_before, self._slow, self._slow_s = self._slow, [], 0.0

    def newest_first(self) -> list[KeptQuery]:
        """Return all kept queries."""
        failed = [kept for queries in self._failed.values() for kept in queries]
        kept = [*failed, *self._slow, *self._slow_before]
        return sorted(kept, key=lambda query: query.ended_at, reverse=True)


def _kind_of(outcome: QueryOutcome) -> Kind:
    failed = next((run for run in outcome.runs if run.outcome in {Outcome.ERROR, Outcome.TIMEOUT}), None)
    if failed is None:
        return str(outcome.status), "", "", outcome.error_type or ""
    return str(outcome.status), str(failed.spec.stage_type), failed.node or "", failed.error_type or ""


def _bare(run: StageRun) -> StageRun:
    """Copy a run without its data and without texts of exceptions."""
    return run.without_data(None, run.error_type)


def _attempts(outcome: QueryOutcome) -> list[Attempt]:
    """All attempts at each stage, in the order of the published result."""
    found: list[Attempt] = []
    for run in outcome.runs:
        earlier = [one for one in outcome.earlier if one.spec is run.spec]
        found += [_attempt(one, kind, outcome.started_at) for one, kind in with_kinds([*earlier, run])]
    return found


def _attempt(run: StageRun, kind: AttemptKind, started_at: float) -> Attempt:
    return {
        "stage": str(run.spec.stage_type),
        "node": run.node,
        "attempt": run.attempt,
        "kind": str(kind),
        "outcome": str(run.outcome),
        "start_ms": None if run.started_at is None else _ms(run.started_at - started_at),
        "waited_ms": _ms(run.waited_s),
        "duration_ms": _ms(run.duration_s),
        "limit_ms": _ms(run.granted_s),
        "error_type": run.error_type,
    }


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)


def _trace_id(envelope: Envelope) -> str | None:
    """Return the trace id in the headers of the query's events."""
    traceparent = dict(envelope.trace_headers).get(h.TRACEPARENT)
    return None if traceparent is None else traceparent.decode().split("-")[1]
