"""The circuit breaker."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError
from itertools import pairwise
from math import inf
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fivestage.core.adaptive.breaker import Breaker, BreakerPolicy, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState
SMALL = BreakerPolicy(failure_rate=1.0, window=4, minimum_calls=2, first_open_s=10.0, open_s=40.0)
"""Opens at 1 after two failures, at 0 and 1."""
SEED = 20261126


def breaker_of(calls: str, policy: BreakerPolicy = SMALL, *, jitter: float = 0.0) -> Breaker:
    """Build a breaker with these calls spread over 0 to 1: `.` good, `s` slow, `x` failed, `X` both."""
    breaker = Breaker(policy, lambda: jitter)
    for place, call in enumerate(calls):
        now = place / max(1, len(calls) - 1)
        breaker.record(now, failed=call in "xX", slow=call in "sX")
    return breaker


def half_open(policy: BreakerPolicy = SMALL) -> Breaker:
    """Build a breaker that opened at 1 and is half open at 11."""
    breaker = breaker_of("x" * max(2, policy.minimum_calls), policy)
    assert breaker.state(11.0) is HALF_OPEN
    return breaker


@pytest.mark.parametrize(
    ("calls", "state"),
    [
        pytest.param("", CLOSED, id="nothing known"),
        pytest.param("x" * 19, CLOSED, id="all failed, too few to judge"),
        pytest.param("x" * 20, OPEN, id="all failed, enough to judge"),
        pytest.param("......xxxxxxxxxxxxxx", CLOSED, id="14 of 20 may be chance"),
        pytest.param(".....xxxxxxxxxxxxxxx", OPEN, id="15 of 20 are not"),
        pytest.param("xxxxxxxxxxxxxx.....x", OPEN, id="in any order"),
        pytest.param("xxxxxxxxxxxxxxx.....", CLOSED, id="a call that is good opens nothing"),
        pytest.param("." * 67 + "x" * 33, CLOSED, id="33 of 100"),
        pytest.param("." * 52 + "x" * 48, CLOSED, id="48 of 100 may be 30 %"),
        pytest.param("." * 51 + "x" * 49, OPEN, id="49 of 100 are more"),
        pytest.param("s" * 500, CLOSED, id="slow calls do not matter"),
    ],
)
def test_when_it_opens(calls: str, state: BreakerState) -> None:
    """With the defaults, it opens when more than 30 % of one second's calls failed, with confidence."""
    breaker = breaker_of(calls, BreakerPolicy())
    assert breaker.state(1.0) is state


@pytest.mark.parametrize(
    ("calls", "state"), [("sssss" * 8, OPEN), ("..sss" * 8, CLOSED), ("XX.s." * 8, CLOSED)]
)
def test_slow_calls_where_they_matter(calls: str, state: BreakerState) -> None:
    """With slow_call_rate below 1 slow calls open it like failures; slow failures count as slow too."""
    breaker = breaker_of(calls, BreakerPolicy(slow_call_rate=0.5, failure_rate=0.9))
    assert breaker.state(1.0) is state
    assert breaker.why == ("40 of 40 calls were slow in 1.0 s: open for 1 s" if state is OPEN else "")


@pytest.mark.parametrize(
    ("rate", "calls", "state"),
    [
        pytest.param(1.0, "x" * 20, OPEN, id="all of 20"),
        pytest.param(1.0, "x" * 150 + "." + "x" * 18, CLOSED, id="all but one"),
        pytest.param(0.9, "x" * 99, CLOSED, id="all of 99 may be nine of ten"),
        pytest.param(0.9, "x" * 100, OPEN, id="a window of nothing else is enough"),
    ],
)
def test_rates_near_one(rate: float, calls: str, state: BreakerState) -> None:
    """A failure rate of 1 means all calls; an unreachable bound means a window of failures."""
    assert breaker_of(calls, BreakerPolicy(failure_rate=rate)).state(1.0) is state


def fail_for(seconds: float, rate: int, *, good_s: float = 0.0) -> tuple[Breaker, float | None]:
    """Build a breaker after good and then *seconds* of failed calls; return it and its time to open."""
    breaker = Breaker(BreakerPolicy(), lambda: 0.0)
    for place in range(round(good_s * rate)):
        breaker.record(place / rate, failed=False)
    for place in range(round(seconds * rate)):
        breaker.record(good_s + place / rate, failed=True)
        if breaker._open_s:
            return breaker, place / rate
    return breaker, None


@pytest.mark.parametrize("good_s", [0.0, 5.0, 1000.0])
@pytest.mark.parametrize("rate", [20, 200, 500])
def test_a_dead_node_is_cut_off_within_a_second_and_a_half(rate: int, good_s: float) -> None:
    """A dead node is cut off within 1.5 s, also after long success; later only probes are let through."""
    breaker, opened_s = fail_for(1.5, rate, good_s=good_s)
    assert opened_s is not None
    assert opened_s <= 1.5
    probes, now = 0, good_s + opened_s
    for _ in range(600 * rate):
        now += 1 / rate
        assert breaker.state(now) is not CLOSED
        if breaker.try_probe(now):
            probes += 1
            breaker.record(now, failed=True, probe=True)
    assert probes <= 600 / 30 + 5


@pytest.mark.parametrize("good_s", [1.0, 1000.0])
def test_a_hiccup_opens_nothing(good_s: float) -> None:
    """A tenth of a second of failures at 500/s is a tenth of the window."""
    assert fail_for(0.1, 500, good_s=good_s)[1] is None


@pytest.mark.parametrize(("rate", "calls"), [(200, 720_000), (20, 72_000)])
def test_a_fifth_of_failures_never_opens_it_in_an_hour(rate: int, calls: int) -> None:
    """A failure rate of 20 % does not open it within an hour of evaluations."""
    print(f"seed {SEED}")  # noqa: T201
    breaker, chance = Breaker(BreakerPolicy(), lambda: 0.0), random.Random(SEED).random  # noqa: S311
    for place in range(calls):
        breaker.record(place / rate, failed=chance() < 0.2)
    assert not breaker._open_s


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_less_than_a_second_of_calls_is_not_judged(share: float) -> None:
    """Calls of one moment, however many, count as one event; a second later they count."""
    breaker = Breaker(BreakerPolicy(), lambda: 0.0)
    for place in range(100):
        breaker.record(0.0, failed=place < share * 100)
    breaker.record(0.9, failed=True)
    assert breaker.state(0.9) is CLOSED
    breaker.record(1.0, failed=True)
    assert breaker.state(1.0) is OPEN


def test_counts_stay_few() -> None:
    """It stores tenths of a second, not calls: as many as a window or a second need."""
    for rate, at_most in ((5000, 12), (10, 101), (1, 101)):
        breaker = Breaker(BreakerPolicy(), lambda: 0.0)
        for place in range(20_000):
            breaker.record(place / rate, failed=False)
        assert len(breaker.recent._buckets) <= at_most
        assert 100 <= breaker.recent.calls <= max(101, 1.2 * rate)


@pytest.mark.parametrize(("jitter", "opens_again_at"), [(0.0, 11.0), (0.5, 13.5), (1.0, 16.0)])
def test_the_open_time_has_jitter(jitter: float, opens_again_at: float) -> None:
    """It is half open after first_open_s times 1 + open_jitter * jitter(), and open until then."""
    policy = BreakerPolicy(1.0, window=2, minimum_calls=2, first_open_s=10.0, open_jitter=0.5)
    breaker = breaker_of("xx", policy, jitter=jitter)
    assert breaker.state(opens_again_at - 0.001) is OPEN
    assert breaker.state(opens_again_at) is HALF_OPEN


def test_the_open_time_doubles_up_to_the_ceiling() -> None:
    """Open times are 1, 2, 4 ... 30 s while probes fail, each with its own jitter, as its reason says."""
    draws = iter([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    breaker = Breaker(BreakerPolicy(), lambda: next(draws))
    for place in range(21):
        breaker.record(place / 20, failed=True)
    assert breaker.why == "21 of 21 calls failed in 1.0 s: open for 1 s"
    now = 1.0
    for open_s, next_s in pairwise([1.0, 2.4, 4.0, 8.0, 16.0, 30.0, 30.0]):
        assert breaker.state(now + open_s - 0.001) is OPEN
        now += open_s
        assert breaker.try_probe(now)
        assert breaker.why == f"was open for {open_s:.2g} s: one call may try the node"
        breaker.record(now, failed=True, probe=True)
        assert breaker.why == f"a probe failed: open for {next_s:.2g} s"


@pytest.mark.parametrize(("well_s", "open_s"), [(2.9, 4.0), (3.1, 1.0)])
def test_a_breaker_that_soon_opens_again_keeps_its_open_time(well_s: float, open_s: float) -> None:
    """If it opens again soon after a probe closed it, the open time continues to double."""
    breaker = fail_for(1.5, 20)[0]
    breaker.state(2.0)
    breaker.record(2.0, failed=True, probe=True)
    assert breaker.state(4.0) is HALF_OPEN
    breaker.record(4.0, failed=False, probe=True)
    assert (breaker.state(4.0), breaker.why) == (CLOSED, "a probe was answered")
    for place in range(21):
        breaker.record(4.0 + well_s - 1 + place / 20, failed=True)
    assert breaker.why.endswith(f"open for {open_s:.2g} s")


def test_only_a_query_makes_it_half_open() -> None:
    """An outcome after the open time does not make it half open; the next query does."""
    asked, probed = breaker_of("xx"), breaker_of("xx")
    asked.record(12.0, failed=True, probe=True)
    assert repr(asked) == "<Breaker open calls=0 failed=0 slow=0>"
    assert asked.state(12.0) is HALF_OPEN
    assert probed.try_probe(12.0)
    assert repr(probed) == "<Breaker half_open calls=0 failed=0 slow=0>"


TWO_PROBES = BreakerPolicy(1.0, window=2, minimum_calls=2, first_open_s=10.0, half_open_calls=2)


def test_one_probe_at_a_time() -> None:
    """Only one probe runs at a time; its success returns the permit."""
    breaker = half_open(TWO_PROBES)
    assert [breaker.try_probe(11.0), breaker.try_probe(11.0)] == [True, False]
    breaker.record(11.5, failed=False, probe=True)
    assert [breaker.try_probe(11.5), breaker.try_probe(11.5)] == [True, False]


def test_no_probes_unless_half_open() -> None:
    """There are no probes while closed or open."""
    assert not breaker_of("").try_probe(0.0)
    assert not breaker_of("xx").try_probe(10.9)


def test_a_lost_probe_does_not_block_for_ever() -> None:
    """A permit without an outcome is issued again after probe_timeout_s since the last issue."""
    breaker = half_open()
    times = [11.0, 11.9, 12.0, 12.9, 13.0, 99.0]
    assert [breaker.try_probe(now) for now in times] == [True, False, True, False, True, True]


def test_a_released_permit_is_free() -> None:
    """A probe that did not run, or whose result does not count, leaves the state and frees its permit."""
    breaker = half_open()
    assert breaker.try_probe(11.0)
    breaker.release_probe()
    assert breaker.state(11.0) is HALF_OPEN
    assert [breaker.try_probe(11.0), breaker.try_probe(11.0)] == [True, False]


def test_an_old_permit_does_not_keep_back_the_next_half_open() -> None:
    """A failed second probe opens it while the first permit is out, which is then forgotten."""
    breaker = half_open(
        BreakerPolicy(1.0, window=2, minimum_calls=2, first_open_s=10.0, probe_timeout_s=100.0)
    )
    breaker.try_probe(11.0)
    breaker.record(12.0, failed=True, probe=True)
    assert breaker.try_probe(32.0)


def test_a_successful_probe_clears_earlier_failures() -> None:
    """A successful probe clears earlier failures: a second of new ones is needed to open it."""
    breaker = half_open()
    breaker.try_probe(11.0)
    breaker.record(11.5, failed=False, slow=True, probe=True)  # however long it took
    assert repr(breaker) == "<Breaker closed calls=0 failed=0 slow=0>"
    breaker.record(11.6, failed=True)
    assert breaker.state(11.6) is CLOSED
    breaker.record(12.6, failed=True)
    assert breaker.state(12.6) is OPEN


def test_probes_must_be_good_one_after_the_other() -> None:
    """With three probes required, a failure among them opens it again and the count restarts."""
    breaker = half_open(BreakerPolicy(1.0, window=2, minimum_calls=2, first_open_s=10.0, half_open_calls=3))
    for now, failed, state in [
        (11.0, False, HALF_OPEN),
        (12.0, False, HALF_OPEN),
        (13.0, True, OPEN),
        (33.0, False, HALF_OPEN),
        (34.0, False, HALF_OPEN),
        (35.0, False, CLOSED),
    ]:
        assert breaker.try_probe(now)
        breaker.record(now, failed=failed, probe=True)
        assert breaker.state(now) is state
    assert breaker.why == "3 probes in a row were answered"


@pytest.mark.parametrize("failed", [True, False])
def test_calls_from_before_the_opening_do_not_count(*, failed: bool) -> None:
    """Calls started while closed that end while open or half open are not counted."""
    breaker = breaker_of("xx")
    for now, state in [(5.0, OPEN), (11.0, HALF_OPEN)]:
        assert breaker.state(now) is state
        for _ in range(5):
            breaker.record(now, failed=failed)
        assert breaker.state(now) is state
    breaker.record(11.0, failed=False, probe=True)
    assert repr(breaker) == "<Breaker closed calls=0 failed=0 slow=0>"


def test_a_call_made_while_it_is_open() -> None:
    """Failed calls while open do not extend it; half_open_calls successes close it early."""
    breaker = breaker_of("xx", TWO_PROBES)
    for now in (5.0, 6.0):
        breaker.record(now, failed=True, probe=True)
    assert [breaker.state(now) for now in (10.9, 11.0)] == [OPEN, HALF_OPEN]
    breaker.record(11.0, failed=True, probe=True)
    breaker.record(12.0, failed=False, probe=True)
    assert breaker.state(12.0) is OPEN
    breaker.record(13.0, failed=False, probe=True)
    assert breaker.state(13.0) is CLOSED


@pytest.mark.parametrize("failed", [True, False])
def test_a_probe_that_ends_once_it_is_closed_does_not_count(*, failed: bool) -> None:
    """A probe that ends after the breaker has closed does not count."""
    breaker = half_open()
    for _ in range(5):
        breaker.record(11.0, failed=False, probe=True)
        breaker.record(11.0, failed=failed, probe=True)
    assert repr(breaker) == "<Breaker closed calls=0 failed=0 slow=0>"


def test_the_policy_is_immutable() -> None:
    """A policy is immutable, so that all nodes may share it."""
    name = "window"
    with pytest.raises(FrozenInstanceError):
        setattr(BreakerPolicy(), name, 1)


def test_states_read_as_their_names() -> None:
    """Metrics and the status page show the values as they are."""
    assert [str(state) for state in BreakerState] == ["closed", "open", "half_open"]


class NaiveBreaker:
    """A naive model of the breaker: every figure is counted from the whole history."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.moments: list[tuple[float, list[tuple[bool, bool]]]] = []  # calls since it last closed
        self.openings: list[tuple[float, float]] = []  # when, and until when
        self.closed_at = -inf
        self.lasts_s = [0.0, 0.0]  # the last open time, without jitter and with it
        self.probes: list[bool] = []  # successes and failures, since it last opened or was half open
        self.permits: list[float] = []  # when issued and not returned
        self.name = "closed"

    def ask(self, now: float) -> str:
        """Return the state at this moment."""
        if self.name == "open" and now >= self.openings[-1][1]:
            self.name, self.probes, self.permits = "half_open", [], []
        return self.name

    def permit(self, now: float) -> bool:
        """Ask for a probe permit; expired permits count as returned."""
        if self.ask(now) != "half_open":
            return False
        self.permits = [since for since in self.permits if now - since < self.policy.probe_timeout_s]
        if self.permits:
            return False
        self.permits.append(now)
        return True

    def end(self, now: float, jitter: float, *, failed: bool, slow: bool, probe: bool) -> None:
        """End a call."""
        if self.name == "closed" and not probe:
            self.note(now, failed=failed, slow=slow)
            if (failed or slow) and self.is_bad(now):
                if now - self.closed_at > self.lasts_s[1] + 1:
                    self.lasts_s[0] = 0.0
                self.open(now, jitter)
        elif self.name != "closed" and probe and not failed:
            self.permits = []
            self.probes.append(True)
            if len(self.probes) == self.policy.half_open_calls:
                self.name, self.moments, self.closed_at = "closed", [], now
        elif self.name == "half_open" and probe:
            self.permits = []
            self.open(now, jitter)

    def note(self, now: float, *, failed: bool, slow: bool) -> None:
        """Add the call to those of the same moment; drop moments that no window needs."""
        if not self.moments or self.moments[-1][0] != now:
            self.moments.append((now, []))
            while (
                len(self.moments) > 1 and self.moments[1][0] <= now - 1 and self.needs_no(self.moments[0][1])
            ):
                del self.moments[0]
        self.moments[-1][1].append((failed, slow))

    def needs_no(self, calls: list[tuple[bool, bool]]) -> bool:
        """Return whether there is a window without these."""
        return len(self.calls()) - len(calls) >= self.policy.window

    def calls(self, since: float = -inf) -> list[tuple[bool, bool]]:
        """Return all kept calls from a moment on."""
        return [call for moment, calls in self.moments if moment >= since for call in calls]

    def is_bad(self, now: float) -> bool:
        """Evaluate all windows by counting."""
        policy = self.policy
        enough = [
            at for at, _ in self.moments if at <= now - 1 and len(self.calls(at)) >= policy.minimum_calls
        ]
        return bool(enough) and (self.above(self.calls(enough[-1])) or self.above(self.calls()))

    def above(self, calls: list[tuple[bool, bool]]) -> bool:
        """Return whether too many failed or were slow: by the quadratic that Wilson's bounds solve."""
        for kind, rate in enumerate((self.policy.failure_rate, self.policy.slow_call_rate)):
            count, total = sum(call[kind] for call in calls), len(calls)
            share = count / total
            beyond_doubt = share > rate and (share - rate) ** 2 > 16 * rate * (1 - rate) / total
            all_of_them = count == total and (rate == 1 or total >= self.policy.window)
            if (beyond_doubt or all_of_them) and not (kind == 1 and rate == 1):
                return True
        return False

    def open(self, now: float, jitter: float) -> None:
        """Open for a while."""
        lasts_s = min(2 * self.lasts_s[0] or self.policy.first_open_s, self.policy.open_s)
        self.lasts_s = [lasts_s, lasts_s * (1 + self.policy.open_jitter * jitter)]
        self.openings.append((now, now + self.lasts_s[1]))
        self.name, self.moments, self.probes = "open", [], []

    def __repr__(self) -> str:
        calls = self.calls()
        failed, slow = sum(failed for failed, _ in calls), sum(slow for _, slow in calls)
        counts = f"calls={len(calls)} failed={failed} slow={slow}"
        return f"<Breaker {self.name} {counts}>"


class BreakerMachine(RuleBasedStateMachine):
    """Calls and probes end in any order, permits are lost or returned, time passes without queries.

    All times and rates are sums of powers of two, so that both sides hit every boundary exactly.
    """

    @initialize(
        failure_rate=st.sampled_from([0.0625, 0.25, 1.0]),
        slow_call_rate=st.sampled_from([0.125, 0.75, 1.0]),
        minimum_calls=st.integers(1, 8),
        more=st.integers(0, 8),
        half_open_calls=st.integers(1, 3),
        open_jitter=st.sampled_from([0.0, 0.5]),
    )
    def start(self, *, minimum_calls: int, more: int, **options: Any) -> None:
        """Start with any small policy."""
        policy = BreakerPolicy(
            minimum_calls=minimum_calls,
            window=minimum_calls + more,
            first_open_s=4.0,
            open_s=16.0,
            probe_timeout_s=2.0,
            **options,
        )
        self.jitter, self.now = 0.0, 100.0
        self.breaker = Breaker(policy, lambda: self.jitter)
        self.model = NaiveBreaker(policy)

    @rule(jitter=st.sampled_from([0.0, 0.5, 1.0]))
    def draw_jitter(self, jitter: float) -> None:
        """Draw the jitter of the next opening."""
        self.jitter = jitter

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        """Let time pass without a query."""
        self.now += seconds

    @rule(calls=st.lists(st.sampled_from("...sxX"), min_size=1, max_size=12))
    def calls_end(self, calls: list[str]) -> None:
        """End some calls, whenever they started."""
        for call in calls:
            self.end(call, probe=False)

    @rule(call=st.sampled_from(".sxX"))
    def probe_ends(self, call: str) -> None:
        """End a probe, in time or long after its permit was issued again."""
        self.end(call, probe=True)

    @rule()
    def outage(self) -> None:
        """Fail all calls for a while."""
        for _ in range(3):
            self.now += 0.5
            for _ in range(self.model.policy.window):
                self.end("x", probe=False)

    def end(self, call: str, *, probe: bool) -> None:
        """Report to breaker and model."""
        failed, slow = call in "xX", call in "sX"
        self.breaker.record(self.now, failed=failed, slow=slow, probe=probe)
        self.model.end(self.now, self.jitter, failed=failed, slow=slow, probe=probe)
        self.agrees_with_the_model()

    @rule()
    def ask(self) -> None:
        """Query the state."""
        assert self.breaker.state(self.now) == self.model.ask(self.now)

    @rule()
    def try_probe(self) -> None:
        """Ask for a probe permit."""
        assert self.breaker.try_probe(self.now) is self.model.permit(self.now)

    @rule()
    def release(self) -> None:
        """Return a permit unused, possibly a second time."""
        self.breaker.release_probe()
        self.model.permits = []

    @rule(seconds=st.sampled_from([4.0, 6.0, 16.0, 24.0]))
    def recover(self, seconds: float) -> None:
        """Recover, which random steps rarely do: wait, then probe successfully as often as needed."""
        self.now += seconds
        for _ in range(self.model.policy.half_open_calls):
            self.try_probe()
            self.end(".", probe=True)

    @invariant()
    def agrees_with_the_model(self) -> None:
        """State and counts match the model, without a query at the current time."""
        assert repr(self.breaker) == repr(self.model)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.__doc__ = "The breaker does what a naive one does, whatever happens in whatever order."
TestBreakerMachine.settings = hypothesis.settings(max_examples=100, stateful_step_count=40)


def test_a_breaker_that_is_off_never_opens() -> None:
    """A breaker that is off never opens."""
    breaker = Breaker(BreakerPolicy(enabled=False), lambda: 0.0)
    for place in range(1000):
        breaker.record(place / 100, failed=True)
    assert breaker.state(10.0) is BreakerState.CLOSED
