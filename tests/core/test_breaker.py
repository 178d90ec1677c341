"""The circuit breaker."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import pairwise
from math import inf
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fivestage.core.breaker import Breaker, BreakerPolicy, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
SMALL = BreakerPolicy(failure_rate=0.5, slow_call_rate=1.0, window=4, minimum_calls=2, open_s=10.0)


def breaker_of(calls: str, policy: BreakerPolicy = SMALL, *, jitter: float = 0.0) -> Breaker:
    """A breaker that saw these calls at 0: `.` good, `s` slow, `x` failed, `X` failed and slow."""
    breaker = Breaker(policy, lambda: jitter)
    for call in calls:
        breaker.record(0.0, failed=call in "xX", slow=call in "sX")
    return breaker


def half_open(policy: BreakerPolicy = SMALL) -> Breaker:
    """A breaker that is half open at 10, having opened at 0."""
    breaker = breaker_of("x" * policy.minimum_calls, policy)
    assert breaker.state(10.0) is HALF_OPEN
    return breaker


@pytest.mark.parametrize(
    ("calls", "state"),
    [
        pytest.param("", CLOSED, id="nothing known"),
        pytest.param("xxx", CLOSED, id="all failed, too few to judge"),
        pytest.param("xxxx", OPEN, id="all failed, enough to judge"),
        pytest.param("x...", CLOSED, id="under the rate"),
        pytest.param("xx..", OPEN, id="at the rate, and a good call is the one that shows it"),
        pytest.param("x..x", OPEN, id="in any order"),
        pytest.param(".....x.x.x", CLOSED, id="3 of the last 8"),
        pytest.param("......xxxx", OPEN, id="4 of the last 8"),
        pytest.param("x.....x.x.", CLOSED, id="3 of the last 8: the first one has left"),
        pytest.param("x....xxx", OPEN, id="4 of 8: it has not"),
        pytest.param("ssss", OPEN, id="all slow"),
        pytest.param("sss.", OPEN, id="at the slow rate"),
        pytest.param("ss..", CLOSED, id="under the slow rate"),
        pytest.param("Xss.", OPEN, id="a failed call that was slow is slow too"),
        pytest.param("xss.", CLOSED, id="a failed call that was not is not"),
        pytest.param("s....sssss", CLOSED, id="5 of the last 8 slow: the first one has left"),
    ],
)
def test_when_it_opens(calls: str, state: BreakerState) -> None:
    """At half of the last 8 failed or three quarters of them slow, with at least 4 known."""
    policy = BreakerPolicy(failure_rate=0.5, slow_call_rate=0.75, window=8, minimum_calls=4)
    breaker = breaker_of(calls, policy)
    assert breaker.state(0.0) is state
    assert breaker.opened_count == (state is OPEN)


def test_the_defaults() -> None:
    """Three of ten failed open it from the twentieth call on; 29 of 100 do not; all slow does."""
    policy = BreakerPolicy()
    assert breaker_of("x" * 19, policy).state(0.0) is CLOSED
    assert breaker_of("." * 14 + "x" * 6, policy).state(0.0) is OPEN
    assert breaker_of("." * 71 + "x" * 29, policy).state(0.0) is CLOSED
    assert breaker_of("." * 70 + "x" * 30, policy).state(0.0) is OPEN
    assert breaker_of("s" * 20, policy).state(0.0) is OPEN
    assert breaker_of("." + "s" * 99, policy).state(0.0) is CLOSED


@pytest.mark.parametrize(("jitter", "opens_again_at"), [(0.0, 10.0), (0.5, 12.5), (1.0, 15.0)])
def test_it_stays_open_for_a_jittered_while(jitter: float, opens_again_at: float) -> None:
    """It is half open from open_s times 1 + open_jitter * jitter() on, and open until then."""
    policy = BreakerPolicy(window=1, minimum_calls=1, open_s=10.0, open_jitter=0.5)
    breaker = breaker_of("x", policy, jitter=jitter)
    assert breaker.state(opens_again_at - 0.001) is OPEN
    assert breaker.state(opens_again_at) is HALF_OPEN


def test_each_opening_draws_its_own_jitter() -> None:
    """The jitter is asked once when it opens, also when a probe failed, and never in between."""
    draws = iter([1.0, 0.0])
    breaker = Breaker(
        BreakerPolicy(window=1, minimum_calls=1, open_s=10.0, open_jitter=0.5), lambda: next(draws)
    )
    breaker.record(0.0, failed=True)
    assert [breaker.state(now) for now in (14.0, 15.0)] == [OPEN, HALF_OPEN]
    assert breaker.try_probe(15.0)
    breaker.record(20.0, failed=True, probe=True)
    assert [breaker.state(now) for now in (29.0, 30.0)] == [OPEN, HALF_OPEN]


def test_only_asking_makes_it_half_open() -> None:
    """After the open time an outcome finds it still open; the next question, by either way, does not."""
    asked, probed = breaker_of("xx"), breaker_of("xx")
    asked.record(11.0, failed=False, probe=True)
    assert repr(asked) == "<Breaker open calls=0 failed=0 slow=0 opened=1>"
    assert asked.state(11.0) is HALF_OPEN
    assert probed.try_probe(11.0)
    assert repr(probed) == "<Breaker half_open calls=0 failed=0 slow=0 opened=1>"


def test_one_probe_at_a_time() -> None:
    """While a probe is out there is no second; its good end gives the permit back."""
    breaker = half_open(BreakerPolicy(window=1, minimum_calls=1, open_s=10.0, half_open_calls=2))
    assert [breaker.try_probe(10.0), breaker.try_probe(10.0)] == [True, False]
    breaker.record(10.5, failed=False, probe=True)
    assert [breaker.try_probe(10.5), breaker.try_probe(10.5)] == [True, False]


def test_no_probes_unless_half_open() -> None:
    """While closed nothing needs a probe, while open nothing passes."""
    assert not breaker_of("").try_probe(0.0)
    assert not breaker_of("xx").try_probe(9.9)


def test_a_lost_probe_does_not_block_for_ever() -> None:
    """A permit without an outcome is handed out again after probe_timeout_s, counted from the last time."""
    breaker = half_open()
    times = [10.0, 10.9, 11.0, 11.9, 12.0, 99.0]
    assert [breaker.try_probe(now) for now in times] == [True, False, True, False, True, True]


def test_a_released_permit_is_free() -> None:
    """A probe that was not run, or not the node's fault, neither closes nor opens, and blocks nobody."""
    breaker = half_open()
    assert breaker.try_probe(10.0)
    breaker.release_probe()
    assert breaker.state(10.0) is HALF_OPEN
    assert [breaker.try_probe(10.0), breaker.try_probe(10.0)] == [True, False]


def test_an_old_permit_does_not_hold_up_the_next_half_open() -> None:
    """A second probe that failed opens it while the first one's permit is out: forgotten when it is asked."""
    breaker = half_open(BreakerPolicy(window=1, minimum_calls=1, open_s=10.0, probe_timeout_s=100.0))
    breaker.try_probe(10.0)
    breaker.record(11.0, failed=True, probe=True)
    assert breaker.try_probe(21.0)


def test_a_good_probe_closes_it_with_an_empty_window() -> None:
    """Failures of before are forgotten: it takes the minimum of new ones to open it."""
    breaker = half_open()
    breaker.try_probe(10.0)
    breaker.record(10.5, failed=False, probe=True)
    assert breaker.state(10.5) is CLOSED
    breaker.record(10.6, failed=True)
    assert breaker.state(10.6) is CLOSED
    breaker.record(10.7, failed=True)
    assert (breaker.state(10.7), breaker.opened_count) == (OPEN, 2)


def test_a_slow_probe_is_a_good_one() -> None:
    """A probe that did not fail closes it, however long it took."""
    breaker = half_open()
    breaker.try_probe(10.0)
    breaker.record(10.9, failed=False, slow=True, probe=True)
    assert repr(breaker) == "<Breaker closed calls=0 failed=0 slow=0 opened=1>"


def test_probes_must_be_good_one_after_the_other() -> None:
    """With three wanted, two good ones and a bad one open it anew, and counting starts over."""
    breaker = half_open(BreakerPolicy(window=1, minimum_calls=1, open_s=10.0, half_open_calls=3))
    for now, failed, state in [
        (10.0, False, HALF_OPEN),
        (11.0, False, HALF_OPEN),
        (12.0, True, OPEN),
        (22.0, False, HALF_OPEN),
        (23.0, False, HALF_OPEN),
        (24.0, False, CLOSED),
    ]:
        assert breaker.try_probe(now)
        breaker.record(now, failed=failed, probe=True)
        assert breaker.state(now) is state
    assert breaker.opened_count == 2


@pytest.mark.parametrize("failed", [True, False])
def test_calls_of_before_it_opened_do_not_count(*, failed: bool) -> None:
    """What began while closed and ends while open or half open moves nothing and enters no window."""
    breaker = breaker_of("xx")
    for now, state in [(5.0, OPEN), (10.0, HALF_OPEN)]:
        assert breaker.state(now) is state
        for _ in range(5):
            breaker.record(now, failed=failed)
        assert breaker.state(now) is state
    breaker.record(10.0, failed=False, probe=True)
    assert repr(breaker) == "<Breaker closed calls=0 failed=0 slow=0 opened=1>"


@pytest.mark.parametrize("failed", [True, False])
def test_a_probe_that_ends_too_late_does_not_count(*, failed: bool) -> None:
    """Its outcome while open does not shorten or lengthen that, and while closed it enters no window."""
    breaker = breaker_of("xx")
    for now in (5.0, 9.9):
        breaker.record(now, failed=failed, probe=True)
    assert [breaker.state(now) for now in (9.9, 10.0)] == [OPEN, HALF_OPEN]
    breaker.record(10.0, failed=False, probe=True)
    for _ in range(5):
        breaker.record(10.0, failed=failed, probe=True)
    assert repr(breaker) == "<Breaker closed calls=0 failed=0 slow=0 opened=1>"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"minimum_calls": 0}, "minimum_calls <= window"),
        ({"minimum_calls": 101}, "minimum_calls <= window"),
        ({"minimum_calls": 0, "window": 0}, "minimum_calls <= window"),
        ({"failure_rate": 0.0}, "failure_rate must be above 0"),
        ({"failure_rate": 1.1}, "failure_rate must be above 0 and at most 1"),
        ({"slow_call_rate": 0.0}, "slow_call_rate must be above 0"),
        ({"slow_call_rate": 30}, "slow_call_rate must be above 0 and at most 1"),
        ({"open_s": 0.0}, "open_s must be above 0"),
        ({"open_s": inf}, "open_s must be above 0"),
        ({"probe_timeout_s": 0.0}, "probe_timeout_s must be above 0"),
        ({"half_open_calls": 0}, "half_open_calls must be at least 1"),
        ({"open_jitter": -0.1}, "open_jitter must be at least 0"),
        ({"open_jitter": inf}, "open_jitter must be at least 0"),
    ],
)
def test_policies_that_make_no_sense_are_refused(options: dict[str, Any], told: str) -> None:
    """What could never open, never close, or open without a failure cannot be made."""
    with pytest.raises(ValueError, match=told):
        BreakerPolicy(**options)


def test_the_policy_is_a_value() -> None:
    """One policy may be shared by all nodes: nobody can change it."""
    name = "window"
    with pytest.raises(FrozenInstanceError):
        setattr(BreakerPolicy(), name, 1)


def test_states_read_as_their_names() -> None:
    """Metrics and the status page show the values as they are."""
    assert [str(state) for state in BreakerState] == ["closed", "open", "half_open"]


class NaiveBreaker:
    """The same breaker as a diary: every figure is counted anew from all that happened."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.calls: list[tuple[bool, bool]] = []  # since it closed last
        self.openings: list[tuple[float, float]] = []  # when, and until when
        self.probes: list[bool] = []  # good ones and bad ones, since it was half open last
        self.permits: list[float] = []  # when handed out and not given back
        self.name = "closed"

    def ask(self, now: float) -> str:
        """The state at this moment."""
        if self.name == "open" and now >= self.openings[-1][1]:
            self.name, self.probes, self.permits = "half_open", [], []
        return self.name

    def permit(self, now: float) -> bool:
        """May a probe go? Permits that are too old are as good as given back."""
        if self.ask(now) != "half_open":
            return False
        self.permits = [since for since in self.permits if now - since < self.policy.probe_timeout_s]
        if self.permits:
            return False
        self.permits.append(now)
        return True

    def end(self, now: float, jitter: float, *, failed: bool, slow: bool, probe: bool) -> None:
        """A call ended."""
        if (self.name, probe) == ("half_open", True):
            self.permits = []
            self.probes.append(not failed)
            if not all(self.probes):
                self.open(now, jitter)
            elif len(self.probes) == self.policy.half_open_calls:
                self.name, self.calls = "closed", []
        elif (self.name, probe) == ("closed", False):
            self.calls.append((failed, slow))
            if self.is_bad():
                self.open(now, jitter)

    def is_bad(self) -> bool:
        """Judge the last calls by counting them."""
        last, policy = self.calls[-self.policy.window :], self.policy
        failed = sum(1 for failed, _ in last if failed)
        slow = sum(1 for _, slow in last if slow)
        enough = len(last) >= policy.minimum_calls
        over = failed >= policy.failure_rate * len(last) or slow >= policy.slow_call_rate * len(last)
        return enough and over

    def open(self, now: float, jitter: float) -> None:
        """Leave it alone for a while."""
        until = now + self.policy.open_s * (1 + self.policy.open_jitter * jitter)
        self.openings.append((now, until))
        self.name = "open"

    def __repr__(self) -> str:
        last = self.calls[-self.policy.window :] if self.name == "closed" else []
        failed, slow = sum(failed for failed, _ in last), sum(slow for _, slow in last)
        counts = f"calls={len(last)} failed={failed} slow={slow}"
        return f"<Breaker {self.name} {counts} opened={len(self.openings)}>"


class BreakerMachine(RuleBasedStateMachine):
    """Calls and probes end in any order, permits get lost or come back, time passes and nobody asks.

    All times and rates are sums of powers of two, so that both sides meet every boundary exactly.
    """

    @initialize(
        failure_rate=st.sampled_from([0.25, 0.5, 1.0]),
        slow_call_rate=st.sampled_from([0.5, 0.75, 1.0]),
        minimum_calls=st.integers(1, 4),
        more=st.integers(0, 4),
        half_open_calls=st.integers(1, 3),
        open_jitter=st.sampled_from([0.0, 0.5]),
    )
    def start(self, *, minimum_calls: int, more: int, **options: Any) -> None:
        """Any small policy."""
        policy = BreakerPolicy(
            minimum_calls=minimum_calls,
            window=minimum_calls + more,
            open_s=4.0,
            probe_timeout_s=2.0,
            **options,
        )
        self.jitter, self.now = 0.0, 100.0
        self.breaker = Breaker(policy, lambda: self.jitter)
        self.model = NaiveBreaker(policy)

    @rule(jitter=st.sampled_from([0.0, 0.5, 1.0]))
    def draw_jitter(self, jitter: float) -> None:
        """The next opening takes this."""
        self.jitter = jitter

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        """Nobody asks meanwhile."""
        self.now += seconds

    @rule(calls=st.lists(st.sampled_from("...sxX"), min_size=1, max_size=6))
    def calls_end(self, calls: list[str]) -> None:
        """Some calls end, whenever they began."""
        for call in calls:
            self.end(call, probe=False)

    @rule(call=st.sampled_from(".sxX"))
    def probe_ends(self, call: str) -> None:
        """A probe ends, in time or long after its permit was given to another."""
        self.end(call, probe=True)

    @rule()
    def outage(self) -> None:
        """All calls fail for a while."""
        for _ in range(self.model.policy.window):
            self.end("x", probe=False)

    def end(self, call: str, *, probe: bool) -> None:
        """Tell both."""
        failed, slow = call in "xX", call in "sX"
        self.breaker.record(self.now, failed=failed, slow=slow, probe=probe)
        self.model.end(self.now, self.jitter, failed=failed, slow=slow, probe=probe)
        self.agrees_with_the_model()

    @rule()
    def ask(self) -> None:
        """Somebody looks."""
        assert self.breaker.state(self.now) == self.model.ask(self.now)

    @rule()
    def try_probe(self) -> None:
        """Somebody wants to probe."""
        assert self.breaker.try_probe(self.now) is self.model.permit(self.now)

    @rule()
    def release(self) -> None:
        """A permit comes back unused, or a second time."""
        self.breaker.release_probe()
        self.model.permits = []

    @rule(seconds=st.sampled_from([4.0, 5.0, 6.0]))
    def recover(self, seconds: float) -> None:
        """The way back, which chance alone seldom takes: wait, then probe well as often as it takes."""
        self.now += seconds
        for _ in range(self.model.policy.half_open_calls):
            self.try_probe()
            self.end(".", probe=True)

    @invariant()
    def agrees_with_the_model(self) -> None:
        """State and counts are what the diary says, without being asked for the time."""
        assert repr(self.breaker) == repr(self.model)
        assert self.breaker.opened_count == len(self.model.openings)

    @invariant()
    def it_stays_open_as_long_as_it_should(self) -> None:
        """Between two openings there is at least the open time."""
        for (_, until), (since, _) in pairwise(self.model.openings):
            assert since >= until


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.__doc__ = "The breaker does what a naive one does, whatever happens in whatever order."
TestBreakerMachine.settings = hypothesis.settings(max_examples=100, stateful_step_count=40)
