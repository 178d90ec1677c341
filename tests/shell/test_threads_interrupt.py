"""Blocking code that nobody waits for any more is interrupted, and only that."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from fivestage import threads
from fivestage.errors import StageInterrupted
from fivestage.threads import LOST_START_S, MAX_INTERRUPTS, Starts, ThreadPool, throw_into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.realtime

GUARD_S = 20.0
"""Ends a test that hangs; no result depends on it."""
ENOUGH = 60
"""So many threads are started before interrupts count as tried out."""
LONG_AFTER_S = 1000.0
"""So much later every interrupt is due, whatever was abandoned when."""
IDLE = "<ThreadPool 0 busy of {size}, 0 lost>"


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can: what can come between two steps does.

    Nothing is collected meanwhile: an interrupt that comes while a thread takes away what other tests have
    left is lost in there, with a warning that is no fault of this one, and thrown again.
    """
    before = sys.getswitchinterval()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
    gc.enable()


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """What blocked functions wait for; set at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


class Spinning:
    """A function that never ends by itself, and catches what interrupts it so many times."""

    def __init__(self, catches: int = 0) -> None:
        self.catches = catches
        self.caught = 0
        self.entered = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        """Spin."""
        self.thread = threading.current_thread()
        self.entered.set()
        while True:
            try:
                while True:
                    pass
            except StageInterrupted:
                self.caught += 1
                if self.caught > self.catches:
                    raise


async def eventually(condition: Callable[[], object], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Do something again and again until a condition holds that other threads bring about."""
    async with asyncio.timeout(GUARD_S):
        while not condition():
            meanwhile()
            await asyncio.sleep(0.001)


async def abandon(pool: ThreadPool, function: Callable[[], object], entered: threading.Event) -> None:
    """Call a function, and give up when it has begun."""
    call = asyncio.ensure_future(pool.run(function, name="bad"))
    await eventually(entered.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def serves(pool: ThreadPool, size: int) -> bool:
    """Whether so many calls can meet each other in the pool."""
    meeting = threading.Barrier(size)
    async with asyncio.timeout(GUARD_S):
        await asyncio.gather(*(pool.run(meeting.wait) for _ in range(size)))
    return True


@pytest.mark.parametrize("catches", [0, 1, 5])
async def test_code_that_spins_is_interrupted_until_it_ends(catches: int) -> None:
    """Also where it catches the first few interrupts; its thread ends with it, and the pool is as before."""
    pool, spinning = ThreadPool(1), Spinning(catches)
    await abandon(pool, spinning, spinning.entered)
    assert [left.name for left in pool.abandoned()] == ["bad"]
    later = time.monotonic() + LONG_AFTER_S
    await eventually(lambda: not pool.abandoned(), lambda: pool.interrupt(later))
    thread = spinning.thread
    assert thread is not None
    await eventually(lambda: not thread.is_alive())
    assert (spinning.caught, repr(pool)) == (catches + 1, IDLE.format(size=1))
    assert await serves(pool, 1)


async def test_a_lost_thread_does_not_count_against_the_size(go: threading.Event) -> None:
    """A pool of one serves the next call while the first never comes back, and has one thread when it has."""
    pool, entered = ThreadPool(1), threading.Event()

    def stuck() -> None:
        entered.set()
        assert go.wait(GUARD_S)

    await abandon(pool, stuck, entered)
    async with asyncio.timeout(GUARD_S):
        first, second = [await pool.run(threading.get_ident) for _ in range(2)]
    assert (first == second, repr(pool)) == (True, "<ThreadPool 1 busy of 1, 1 lost>")
    go.set()
    await eventually(lambda: not pool.abandoned())
    await eventually(lambda: repr(pool) == IDLE.format(size=1))
    assert await pool.run(threading.get_ident) == first


async def test_lost_threads_are_replaced_up_to_a_number(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that never comes back, called again and again, does not make threads without end."""
    monkeypatch.setattr("fivestage.threads.MAX_LOST", 3)
    pool = ThreadPool(2)
    for _ in range(5):
        entered = threading.Event()

        def stuck(entered: threading.Event = entered) -> None:
            entered.set()
            assert go.wait(GUARD_S)

        await abandon(pool, stuck, entered)
    waiting = asyncio.ensure_future(pool.run(lambda: "free"))
    await asyncio.sleep(0)
    assert (pool._threads, waiting.done()) == (5, False)
    go.set()
    assert await waiting == "free"


async def test_a_pool_that_gets_no_thread_tries_again(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system gives no thread, a call waits until there is one."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    go.set()
    pool = ThreadPool(2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        first = asyncio.ensure_future(pool.run(lambda: 1))
        await asyncio.sleep(0)
        assert pool._threads == 0
    assert (await pool.run(lambda: 2), await first) == (2, 1)


async def test_code_that_is_waited_for_is_not_interrupted() -> None:
    """However late it is, code whose caller is still there runs on; so does what was just abandoned."""
    pool, spinning, leave = ThreadPool(2), Spinning(), threading.Event()

    def good() -> str:
        while not leave.is_set():
            pass
        return "good"

    waiting = asyncio.ensure_future(pool.run(good))
    await abandon(pool, spinning, spinning.entered)
    pool.interrupt(pool.abandoned()[0].since)
    later = time.monotonic() + LONG_AFTER_S
    await eventually(lambda: not pool.abandoned(), lambda: pool.interrupt(later))
    leave.set()
    assert (await waiting, spinning.caught) == ("good", 1)


async def test_interrupting_ends_some_time() -> None:
    """Code that catches every interrupt is left alone in the end, and still known as abandoned."""
    pool, spinning = ThreadPool(1), Spinning(10**9)
    await abandon(pool, spinning, spinning.entered)
    later = time.monotonic() + LONG_AFTER_S
    before = -1
    for _ in range(MAX_INTERRUPTS):
        before = spinning.caught
        pool.interrupt(later)
        await eventually(lambda: spinning.caught > before)  # noqa: B023 - awaited at once
    for _ in range(100):
        pool.interrupt(later)
    assert [left.name for left in pool.abandoned()] == ["bad"]
    assert await serves(pool, 1)
    assert spinning.caught == MAX_INTERRUPTS
    spinning.catches = 0
    [call] = pool._running
    call.interrupts = 0
    await eventually(lambda: not pool.abandoned(), lambda: pool.interrupt(later))


def work(steps: int) -> int:
    """Something in Python that can be interrupted at each step."""
    done = 0
    for _ in range(steps):
        done += 1
    return done


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("seed", range(4))
async def test_interrupts_hit_nobody_else(seed: int) -> None:
    """Short calls end at the very moment they are interrupted, again and again: no other call feels it.

    No good call raises, no thread is lost, and those that were interrupted end without a word.
    """
    pool, chance, done = ThreadPool(4), random.Random(seed), threading.Event()  # noqa: S311

    def interrupt() -> None:
        while not done.is_set():
            pool.interrupt(time.monotonic() + LONG_AFTER_S)

    async def bad(steps: int) -> None:
        begun: list[int] = []

        def begin() -> int:
            begun.append(steps)
            return work(steps)

        call = asyncio.ensure_future(pool.run(begin, name="bad"))
        turns = chance.randrange(8)
        while turns if steps % 4 == 0 else not (begun or call.done()):
            turns -= 1
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        async with asyncio.timeout(3 * GUARD_S):
            while pool._started < ENOUGH:  # each that was interrupted makes way for a fresh one
                good = [pool.run(work, steps) for steps in (10, 300, 1000, 3000)]
                abandoned = [bad(chance.randrange(20_000)) for _ in range(8)]
                results = await asyncio.gather(*good, *abandoned, return_exceptions=True)
                assert results == [10, 300, 1000, 3000, *[None] * 8]
            while pool.abandoned():
                await asyncio.sleep(0.001)
    finally:
        done.set()
        await asyncio.to_thread(interrupting.join, GUARD_S)
    await eventually(lambda: repr(pool) == IDLE.format(size=4))
    assert await serves(pool, 4)
    assert pool._threads == 4


class SlowToStart(threading.Thread):
    """A thread that is being started until it may run."""

    def __init__(self, go: threading.Event) -> None:
        super().__init__(daemon=True)
        self._go = go
        self.entered = threading.Event()

    def _set_native_id(self) -> None:
        self.entered.set()
        self._go.wait(GUARD_S)
        super()._set_native_id()  # type: ignore[misc] # not in typeshed


def test_nothing_is_thrown_while_a_thread_is_being_started(go: threading.Event) -> None:
    """Python 3.11 would hit the one that is not there yet, and whoever starts it would wait for ever."""
    slow = SlowToStart(go)
    starter = threading.Thread(target=slow.start, daemon=True)
    starter.start()
    assert slow.entered.wait(GUARD_S)
    assert starter.ident is not None
    assert not throw_into(starter.ident)
    go.set()
    starter.join(GUARD_S)
    slow.join(GUARD_S)
    assert not starter.is_alive()
    assert not slow.is_alive()


def test_a_start_that_was_given_up_holds_interrupts_off_for_a_while_only() -> None:
    """Who is interrupted just before a thread begins leaves it among those being started, for ever."""
    now = 0.0
    starts = Starts(lambda: now)
    lost, starting = threading.Thread(), threading.Thread()
    listed = {lost: lost}
    assert starts.given_up(listed) == {}
    now = LOST_START_S + 1
    assert starts.given_up(listed) == listed
    assert starts.given_up({**listed, starting: starting}) == listed
    assert starts.given_up({}) == {}


def test_interrupts_go_on_after_a_start_that_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once: it may be a start that takes its time."""
    ended = threading.Event()

    def spin() -> None:
        try:
            while True:
                pass
        except StageInterrupted:
            ended.set()

    spinning, lost = threading.Thread(target=spin, daemon=True), threading.Thread()
    spinning.start()
    assert spinning.ident is not None
    monkeypatch.setitem(threading._limbo, lost, lost)  # type: ignore[attr-defined] # as Python leaves it
    assert not throw_into(spinning.ident)
    monkeypatch.setattr(threads, "LOST_START_S", -1.0)
    assert throw_into(spinning.ident)
    assert ended.wait(GUARD_S)


@pytest.mark.usefixtures("switching")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # hit while it catches
def test_code_that_starts_threads_is_interrupted_again_and_again_and_never_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many interrupts as it takes to hit every moment of a thread's start."""
    monkeypatch.setattr(threads, "LOST_START_S", 1.0)  # one may be given up here
    started, caught, wanted = [0], [0], 100

    def start_others() -> None:
        while caught[0] < wanted:
            try:
                while caught[0] < wanted:
                    threading.Thread(target=lambda: None).start()
                    started[0] += 1
            except StageInterrupted:
                caught[0] += 1

    starter = threading.Thread(target=start_others, daemon=True)
    starter.start()
    seen, until = (0, 0), time.monotonic() + GUARD_S
    while starter.is_alive() and time.monotonic() < until:
        if caught[0] < wanted and starter.ident is not None:
            throw_into(starter.ident)
        time.sleep(0)
        if (now := (started[0], caught[0])) != seen:
            seen, until = now, time.monotonic() + GUARD_S
    assert not starter.is_alive(), f"it waits for ever after {started[0]} starts and {caught[0]} interrupts"


async def test_the_bus_waits_for_nobody_who_starts_a_thread() -> None:
    """Interrupting is put off while the pool is being changed by another thread."""
    pool = ThreadPool(1)
    spinning = Spinning()
    call = asyncio.ensure_future(pool.run(spinning))
    await asyncio.to_thread(spinning.entered.wait, GUARD_S)
    call.cancel()
    await asyncio.wait({call})
    with pool._lock:
        pool.interrupt(time.monotonic() + LONG_AFTER_S)
    assert spinning.thread is not None
    while spinning.thread.is_alive():
        pool.interrupt(time.monotonic() + LONG_AFTER_S)
        await asyncio.sleep(0)
    pool.close()


TRACED = """
import asyncio, sys, threading, time
from fivestage.errors import StageInterrupted
from fivestage.threads import ThreadPool

async def main():
    pool, entered = ThreadPool(1), threading.Event()
    def spin():
        entered.set()
        try:
            while True:
                time.sleep(0.001)
        except StageInterrupted:
            pass
    call = asyncio.ensure_future(pool.run(spin))
    await asyncio.to_thread(entered.wait)
    call.cancel()
    while pool.abandoned() or not call.done():
        pool.interrupt(asyncio.get_running_loop().time() + 1000)
        await asyncio.sleep(0.001)
    sys.settrace(trace)
    await asyncio.sleep(0)
    sys.settrace(None)

def trace(frame, event, argument):
    return trace

asyncio.run(main())
"""


def test_coroutines_can_be_traced_after_an_interrupt() -> None:
    """No flag of the interpreter stays set: Python 3.11 would hang here."""
    subprocess.run([sys.executable, "-c", TRACED], timeout=GUARD_S, check=True)
