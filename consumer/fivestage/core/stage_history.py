"""The stage history of a query: written by the executor while stages run, read by the bus loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage.core.plan import StageSpec

_SUCCESS: Final = Outcome.SUCCESS


class StageRun:
    """A stage that has ended. Times are monotonic seconds.

    Immutable once it is in a history. Like RunningStage not a NamedTuple: compiled, a native class is ten
    times as fast to create and read, and a query has ten of both.
    """

    __slots__ = (
        "attempt", "capped", "data_json", "duration_s", "error", "error_type", "excused", "granted_s", "node",
        "outcome", "probe", "spec", "started_at", "verdict", "waited_s", "where",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917 - the fields of a StageResult
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
        probe: bool = False,  # noqa: FBT001, FBT002 - worker processes send the fields in order
        verdict: bool | None = None,  # noqa: FBT001 - likewise
        excused: bool = False,  # noqa: FBT001, FBT002 - likewise
        waited_s: float = 0.0,
        where: str | None = None,
        capped: bool = False,  # noqa: FBT001, FBT002 - likewise
    ) -> None:
        self.spec = spec
        self.outcome = outcome
        self.data_json = data_json
        """What the stage returned, encoded by the executor."""
        self.error = error
        self.error_type = error_type
        self.node = node
        self.attempt = attempt
        self.started_at = started_at
        self.duration_s = duration_s
        self.granted_s = granted_s
        self.probe = probe
        """The call was the probe of a half-open breaker, or a trial while the breaker was not closed."""
        self.verdict = verdict
        """Whether validation accepted the answer; None without a verdict, and for other stages."""
        self.excused = excused
        """The node raised because the query has no answer, which does not count as its failure."""
        self.waited_s = waited_s
        """Seconds that the call waited before the stage started; see ``RunningStage``."""
        self.where, self.capped = where, capped
        """``file:line`` of the author's code that raised; and whether the grant was the node's own
        ``timeout_ms``, so that a timeout counts although the stage would have had more time."""

    def __repr__(self) -> str:
        return f"<StageRun {self.spec.stage_type} {self.outcome} {self.error or ''}>"

    def without_data(self, error: str | None, error_type: str | None) -> StageRun:
        """Return a copy that has *error* and *error_type* instead of its data."""
        return StageRun(
            self.spec,
            self.outcome,
            None,
            error,
            error_type,
            self.node,
            self.attempt,
            self.started_at,
            self.duration_s,
            self.granted_s,
            self.probe,
            self.verdict,
            self.excused,
            self.waited_s,
            self.where,
            self.capped,
        )

    @property
    def success(self) -> bool:
        """Whether the stage succeeded."""
        return self.outcome is _SUCCESS

    @property
    def ends_query(self) -> bool:
        """Whether the query ends with this stage: critical and not successful, or rejected as an error."""
        spec = self.spec
        return (spec.critical and self.outcome is not _SUCCESS) or (self.verdict is False and spec.rejects)


class RunningStage:
    """The stage that runs now, or whose call waits for a thread."""

    __slots__ = (
        "attempt", "call", "capped", "granted_s", "node", "parked", "probe", "spec", "started_at", "waited_s",
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
        capped: bool = False,  # noqa: FBT001, FBT002 - likewise
    ) -> None:
        self.spec = spec
        self.started_at = started_at
        self.granted_s = granted_s
        self.node = node
        self.attempt = attempt
        self.probe = probe
        self.waited_s, self.capped = waited_s, capped
        """Seconds that the call waited before the stage started: for a thread, for a slot of its node, or
        between two calls; and see ``StageRun``."""
        self.call: Any = None
        """The call, if a thread makes it: it goes on while the event loop stalls."""
        self.parked: Any = None
        """The ``Parked`` of a call that waits for a thread; the stage has not started then."""

    def end(
        self, now: float, outcome: Outcome, error: str | None = None, error_type: str | None = None
    ) -> StageRun:
        """The run of a stage that is abandoned at *now*, without a result."""
        run = StageRun(self.spec, outcome, None, error, error_type, self.node, self.attempt, self.started_at)
        run.duration_s, run.granted_s = now - self.started_at, self.granted_s
        run.probe, run.waited_s, run.capped = self.probe, self.waited_s, self.capped
        return run

    def __repr__(self) -> str:
        return f"<RunningStage {self.spec.stage_type} since {self.started_at:.3f}>"


class StageHistory:
    """What the stages of a query have done so far.

    One writer (the executor) and one reader (the bus loop), possibly in two threads. Each step is one
    assignment or one append, and the reader tolerates any state between two steps. A query that is moved to
    another event loop or worker gets a new history, so that late writes of the old worker are not read.
    """

    __slots__ = (
        "answer_json", "attempt", "closed", "confidence", "moved", "on_wait", "resumed", "running", "runs",
        "superseded", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.runs: list[StageRun] = []
        self.running: RunningStage | None = None
        self.superseded: list[StageRun] = []
        """Attempts at processing that failed and that another attempt may follow."""
        self.moved: list[RunningStage] = []
        """Attempts at any stage that were abandoned when the query was moved."""
        self.attempt = 1
        """The number of the next attempt; above 1 where a stage is restarted."""
        self.closed = False
        """Set by the bus loop: the query has ended or was moved, so no further stage may run."""
        self.answer_json: bytes | None = None
        self.confidence: float | None = None
        self.resumed: RunningStage | None = None
        """A stage whose call had, or waited for, a thread when the query was moved: the call is awaited."""
        self.waiting: RunningStage | None = None
        """The next stage, while its call waits for a thread: it starts when a thread takes the call."""
        self.on_wait: Any = None
        """Callback for waits for a thread, with the job and this history; then with None at the start of a
        wait, with the query's new start and end (monotonic seconds) at its end."""

    def __repr__(self) -> str:
        ended = ", ".join(f"{run.spec.stage_type}={run.outcome}" for run in self.runs)
        return f"<StageHistory [{ended}] running={self.running and self.running.spec.stage_type}>"

    def start(self, running: RunningStage) -> None:
        """Start a stage."""
        self.running = running
        self.waiting = None  # in this order: see continued

    def finish(self, run: StageRun) -> None:
        """End the running stage."""
        self.runs.append(run)
        self.running = self.resumed = self.waiting = None
        self.attempt = 1

    def fail_over(self, run: StageRun) -> None:
        """End a failed attempt that another may follow, at another node or the same one."""
        self.superseded.append(run)
        self.running = self.resumed = self.waiting = None
        self.attempt = run.attempt + 1

    def continued(self) -> StageHistory:
        """Close this history, and return a new one with the stages that have ended.

        The running stage will be restarted, unless a thread makes its call: then the call is resumed. A call
        that waits for a thread keeps its place in the queue.
        """
        self.closed = True
        waiting = self.waiting  # read first: the writer sets `running`, then clears `waiting`
        ended, running = self.snapshot()
        history = StageHistory()
        history.moved = list(self.moved)
        if running is None:
            history.resumed = waiting or self.resumed  # set by an earlier move; no stage has started since
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
        """Whether this attempt at a stage has not ended yet."""
        failed = bool(self.superseded) and self.superseded[-1].attempt >= running.attempt
        is_next = len(self.runs) == running.spec.sequence
        return is_next and not (failed and self.superseded[-1].spec is running.spec)

    def snapshot(self) -> tuple[tuple[StageRun, ...], RunningStage | None]:
        """The ended stages and the running one, consistent with each other."""
        running = self.running
        runs = tuple(self.runs)
        if running is not None and running.spec.sequence != len(runs):
            running = None  # it ended between the two reads
        return runs, running
