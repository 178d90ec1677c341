"""The trail of a query: what its stages did, as it happens. Written where user code runs, read by the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage.core.plan import StageSpec

_SUCCESS: Final = Outcome.SUCCESS


class StageRun:
    """One stage as it went. Times are monotonic seconds.

    No NamedTuple, as neither is RunningStage: compiled, a class of our own is made and read ten times as
    fast, and there are ten of them in a query. Like those they do not change once they are on a trail.
    """

    __slots__ = (
        "attempt", "data_json", "duration_s", "error", "error_type", "excused", "granted_s", "node",
        "outcome", "probe", "spec", "started_at", "verdict", "waited_s",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917 - what a StageResult says, in its order
        self,
        spec: StageSpec,
        outcome: Outcome,
        data_json: bytes | None = None,
        error: str | None = None,
        error_type: str | None = None,
        node: str | None = None,
        attempt: int = 1,
        started_at: float | None = None,
        duration_s: float = 0.0,
        granted_s: float = 0.0,
        probe: bool = False,  # noqa: FBT001, FBT002 - it comes from the wire with the rest
        verdict: bool | None = None,  # noqa: FBT001 - likewise
        excused: bool = False,  # noqa: FBT001, FBT002 - likewise
        waited_s: float = 0.0,
    ) -> None:
        self.spec = spec
        self.outcome = outcome
        self.data_json = data_json
        """What the stage returned, encoded once, where it ran."""
        self.error = error
        self.error_type = error_type
        self.node = node
        self.attempt = attempt
        self.started_at = started_at
        self.duration_s = duration_s
        self.granted_s = granted_s
        self.probe = probe
        """It was the one call that a half-open breaker lets through, or a trial while that was open."""
        self.verdict = verdict
        """Whether validation found the answer right; None for other stages, and where it did not succeed."""
        self.excused = excused
        """What its node raised is no failure: the query has no answer."""
        self.waited_s = waited_s
        """How long its call waited for a thread before it started."""

    def __repr__(self) -> str:
        return f"<StageRun {self.spec.stage_type} {self.outcome} {self.error or ''}>"

    @property
    def success(self) -> bool:
        """Whether the stage did what it was asked."""
        return self.outcome is _SUCCESS

    @property
    def ends_query(self) -> bool:
        """Whether it is the last: critical without success, or a rejection that is an error."""
        spec = self.spec
        return (spec.critical and self.outcome is not _SUCCESS) or (self.verdict is False and spec.rejects)


class RunningStage:
    """The stage that is running now, or whose call waits for a thread."""

    __slots__ = (
        "attempt", "call", "granted_s", "node", "parked", "probe", "spec", "started_at", "waited_s",
    )  # fmt: skip

    def __init__(
        self,
        spec: StageSpec,
        started_at: float,
        granted_s: float,
        node: str | None = None,
        attempt: int = 1,
        probe: bool = False,  # noqa: FBT001, FBT002 - likewise
        waited_s: float = 0.0,
    ) -> None:
        self.spec = spec
        self.started_at = started_at
        self.granted_s = granted_s
        self.node = node
        self.attempt = attempt
        self.probe = probe
        self.waited_s = waited_s
        """How long its call waited for a thread before."""
        self.call: Any = None
        """Its call, where a thread makes it: that goes on when the event loop stalls."""
        self.parked: Any = None
        """Its ``Parked``, where the stage has not started because no thread was free for its call."""

    def __repr__(self) -> str:
        return f"<RunningStage {self.spec.stage_type} since {self.started_at:.3f}>"


class StageHistory:
    """Grows while a query runs.

    One writer (the executor) and one reader (the bus), possibly in two threads: each step is one
    assignment or one append, and the reader tolerates seeing them one at a time. When a query is moved to
    another executor it gets a new trail, so that whatever the old one still does writes where nobody reads.
    """

    __slots__ = (
        "answer_json", "attempt", "closed", "confidence", "moved", "on_wait", "resumed", "running", "runs",
        "superseded", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.runs: list[StageRun] = []
        self.running: RunningStage | None = None
        self.superseded: list[StageRun] = []
        """Attempts at processing that failed and were followed by another."""
        self.moved: list[RunningStage] = []
        """Attempts at any stage that were given up unfinished when the query was moved."""
        self.attempt = 1
        """Which attempt the next stage is; above 1 where it is restarted."""
        self.closed = False
        """Set by the bus: the query has ended or goes on elsewhere, so run no further stage."""
        self.answer_json: bytes | None = None
        self.confidence: float | None = None
        self.resumed: RunningStage | None = None
        """A stage whose call was under way when the query was moved: wait for that, do not restart it."""
        self.waiting: RunningStage | None = None
        """The next stage, while its call waits for a thread: it starts when one takes the call."""
        self.on_wait: Any = None
        """Called with the job, this trail and None when the query waits for a thread, and with its new start
        and end (monotonic seconds) instead of None when it goes on."""

    def __repr__(self) -> str:
        ended = ", ".join(f"{run.spec.stage_type}={run.outcome}" for run in self.runs)
        return f"<StageHistory [{ended}] running={self.running and self.running.spec.stage_type}>"

    def start(self, running: RunningStage) -> None:
        """A stage begins."""
        self.running = running
        self.waiting = None  # after that: see continued

    def finish(self, run: StageRun) -> None:
        """The running stage ended."""
        self.runs.append(run)
        self.running = self.resumed = self.waiting = None
        self.attempt = 1

    def fail_over(self, run: StageRun) -> None:
        """The running stage failed and is tried once more, with another node."""
        self.superseded.append(run)
        self.running = self.resumed = self.waiting = None
        self.attempt = run.attempt + 1

    def continued(self) -> StageHistory:
        """Close this trail; the new one has what has ended.

        The running stage is to be restarted there, unless a thread makes its call: then that is resumed. A
        call that waits for a thread keeps its place in the line.
        """
        self.closed = True
        waiting = self.waiting  # before the running stage: the writer sets that first, then clears this
        ended, running = self.snapshot()
        history = StageHistory()
        history.moved = list(self.moved)
        if running is None:
            history.resumed = waiting or self.resumed  # it was moved before, and has not got so far since
        elif running.call is not None:
            history.resumed = running
        else:
            history.moved.append(running)
        history.runs = list(ended)
        history.superseded = list(self.superseded)
        history.attempt = self.attempt if running is None else running.attempt + 1
        history.answer_json, history.confidence = self.answer_json, self.confidence
        return history

    def awaits(self, running: RunningStage) -> bool:
        """Whether the end of that attempt at that stage is still missing."""
        failed = bool(self.superseded) and self.superseded[-1].attempt >= running.attempt
        is_next = len(self.runs) == running.spec.sequence
        return is_next and not (failed and self.superseded[-1].spec is running.spec)

    def snapshot(self) -> tuple[tuple[StageRun, ...], RunningStage | None]:
        """What had ended, and what was running, at one moment."""
        running = self.running
        runs = tuple(self.runs)
        if running is not None and running.spec.sequence != len(runs):
            running = None  # it ended between the two reads
        return runs, running
